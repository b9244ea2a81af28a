//! The grammar of sessions, `acp` and `forward`.

use banger_core::ByteSize;
use banger_guest_proto::SessionName;
use clap::{Args, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;

use super::VmRef;
use super::seconds::seconds;
use crate::complete;
use crate::environment::EnvFlags;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Start a command that the guest keeps: it needs no client, and its output is logged.
    #[command(
        after_help = "Examples:\n  banger vm session start demo -- make watch\n  banger vm session start demo --name web --cwd /root/repo --restart on-failure --on-boot -- npm start\n  banger vm session start demo --name shell --stdin-mode pty -- bash -l\n  banger vm session start demo --require-command git -- ./work.sh"
    )]
    Start(StartSessionArgs),
    /// List a VM's sessions, also those that have ended.
    #[command(
        alias = "ls",
        after_help = "Example:\n  banger vm session list demo -o json"
    )]
    List(VmRef),
    /// Show all about a session.
    #[command(after_help = "Example:\n  banger vm session show demo web")]
    Show(SessionRef),
    /// See a session's output as it comes, and have its input: one client at a time.
    #[command(
        after_help = "Examples:\n  banger vm session attach demo shell     Ctrl-] detaches, the session goes on\n  banger vm session attach demo shell --take-over\n  banger vm session attach demo pipe --from 1234 < requests > answers\n\nWithout --from it begins with what no attached client has taken yet. On a pipe, the end of standard\ninput is the end of the session's input; a signal detaches. The exit code is the session's own; 130\nand the like when a signal detached."
    )]
    Attach(AttachArgs),
    /// Print a session's output, both streams in order.
    #[command(
        after_help = "Examples:\n  banger vm session logs demo web\n  banger vm session logs demo web --follow --stream stderr\n  banger vm session logs demo web --from 1048576 -o json    each line says its position"
    )]
    Logs(SessionLogsArgs),
    /// End sessions: SIGTERM, and SIGKILL after the grace. Log and status stay.
    #[command(after_help = "Example:\n  banger vm session stop demo web --grace 30s")]
    Stop(StopSessionArgs),
    /// Kill a session, or send it another signal.
    #[command(
        after_help = "Examples:\n  banger vm session kill demo web\n  banger vm session kill demo web --signal HUP"
    )]
    Kill(KillSessionArgs),
    /// Forget a session that has ended, with its log.
    #[command(
        alias = "rm",
        after_help = "Example:\n  banger vm session delete demo web"
    )]
    Delete(SessionRef),
}

#[derive(Debug, Args)]
pub(crate) struct SessionRef {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Session.
    #[arg(add = ArgValueCandidates::new(complete::sessions))]
    pub(crate) session: SessionName,
}

/// Where a session's input comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StdinFlag {
    /// From nowhere: it cannot be attached to.
    #[default]
    Detached,
    /// From whoever is attached, as bytes.
    Pipe,
    /// From whoever is attached, on a terminal.
    Pty,
}

/// When its program is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartFlag {
    /// Never.
    #[default]
    No,
    /// When it failed, after a pause that grows.
    OnFailure,
}

#[derive(Debug, Args)]
pub(crate) struct StartSessionArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Its name; without one, the command's.
    #[arg(long)]
    pub(crate) name: Option<SessionName>,
    /// Working directory in the guest; without it, /root.
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    #[command(flatten)]
    pub(crate) env: EnvFlags,
    /// Where its input comes from.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) stdin_mode: StdinFlag,
    /// Do not start it unless the guest has this command.
    #[arg(long, value_name = "CMD")]
    pub(crate) require_command: Vec<String>,
    /// When its program is started again.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) restart: RestartFlag,
    /// Start it again when the VM does, if it ran when the VM ended.
    #[arg(long)]
    pub(crate) on_boot: bool,
    /// How much of its output is kept on the guest's disk: 4M to 16G.
    #[arg(long, value_name = "SIZE", default_value = "16M")]
    pub(crate) log_size: ByteSize,
    /// Delete a session of that name that has ended, with its log, first.
    #[arg(long, requires = "name")]
    pub(crate) replace: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    #[command(flatten)]
    pub(crate) session: SessionRef,
    /// Position to begin with: a number, `start` (the oldest there is), or `end`.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    pub(crate) from: Option<Position>,
    /// Detach whoever is attached.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Only watch: standard input is left alone.
    #[arg(long)]
    pub(crate) no_stdin: bool,
}

/// Where in a log to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    Start,
    End,
    At(u64),
}

fn position(text: &str) -> Result<Position, String> {
    match text {
        "start" => Ok(Position::Start),
        "end" => Ok(Position::End),
        number => number
            .parse()
            .map(Position::At)
            .map_err(|_| "a number of bytes, `start` or `end`".to_owned()),
    }
}

/// One of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputStream {
    Stdout,
    Stderr,
}

#[derive(Debug, Args)]
pub(crate) struct SessionLogsArgs {
    #[command(flatten)]
    pub(crate) session: SessionRef,
    /// Go on until the session ends.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only this stream.
    #[arg(long, value_enum)]
    pub(crate) stream: Option<OutputStream>,
    /// Position to begin with: a number, `start` (the oldest there is), or `end`.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    pub(crate) from: Option<Position>,
    /// Begin so many bytes before the end: 64K.
    #[arg(long, value_name = "SIZE", conflicts_with = "from")]
    pub(crate) last: Option<ByteSize>,
}

#[derive(Debug, Args)]
pub(crate) struct StopSessionArgs {
    #[command(flatten)]
    pub(crate) session: SessionRef,
    /// Between SIGTERM and SIGKILL: seconds, or a span like 30s or 2m.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = seconds)]
    pub(crate) grace: u32,
}

#[derive(Debug, Args)]
pub(crate) struct KillSessionArgs {
    #[command(flatten)]
    pub(crate) session: SessionRef,
    /// Signal, by name or number.
    #[arg(short, long, default_value = "KILL", value_parser = signal)]
    pub(crate) signal: i32,
}

/// The numbers of x86-64, which the guest's protocol has.
const SIGNALS: [(&str, i32); 15] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("WINCH", 28),
];

fn signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = SIGNALS.iter().find(|(known, _)| *known == name);
    let number = named.map_or_else(|| text.parse().unwrap_or(0), |(_, number)| *number);
    if (1..=31).contains(&number) {
        return Ok(number);
    }
    Err("no signal of that name; KILL, TERM, INT, HUP, USR1 and the like are".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct AcpArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// Working directory in the guest; without it, /root/repo where there is one, else /root.
    #[arg(short = 'w', long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    #[command(flatten)]
    pub(crate) env: EnvFlags,
    /// The agent's command.
    #[arg(last = true, value_name = "CMD", default_values = ["opencode", "acp"])]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ForwardArgs {
    /// VM, by name, id or unambiguous prefix.
    #[arg(add = ArgValueCandidates::new(complete::vms))]
    pub(crate) vm: String,
    /// A port here, and the guest's when it is another one.
    #[arg(value_name = "PORT[:GUEST_PORT]", value_parser = ports, required_unless_present_any = ["reverse", "ssh_agent"])]
    pub(crate) ports: Vec<Ports>,
    /// A port in the guest, and this host's when it is another one.
    #[arg(long, value_name = "GUEST_PORT[:PORT]", value_parser = ports)]
    pub(crate) reverse: Vec<Ports>,
    /// Let programs in the guest use this host's ssh agent.
    #[arg(long)]
    pub(crate) ssh_agent: bool,
}

/// Where one connects, and where that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) listen: u16,
    pub(crate) target: u16,
}

fn ports(text: &str) -> Result<Ports, String> {
    let (listen, target) = text.split_once(':').unwrap_or((text, text));
    let port = |text: &str| match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("`{text}` is no port: 1 to 65535")),
    };
    let (listen, target) = (port(listen)?, port(target)?);
    Ok(Ports { listen, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_positions_and_signals_are_parsed() {
        let (listen, target) = (8080, 80);
        assert_eq!(ports("8080:80"), Ok(Ports { listen, target }));
        let (listen, target) = (80, 80);
        assert_eq!(ports("80"), Ok(Ports { listen, target }));
        for bad in ["", "0", "65536", "80:", ":80", "1:2:3", "http", "-1"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
        assert_eq!(position("end"), Ok(Position::End));
        assert_eq!(position("17"), Ok(Position::At(17)));
        assert!(position("-1").is_err());
        for (text, number) in [("KILL", 9), ("sigterm", 15), ("usr1", 10), ("2", 2)] {
            assert_eq!(signal(text), Ok(number));
        }
        for bad in ["", "0", "32", "-9", "NOPE"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
