//! The command line's grammar.

mod bench;
mod catalog;
mod image;
mod kernel;
mod seconds;
mod sessions;
mod system;
mod vm;
mod workspace;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::ui::Output;

pub(crate) use bench::{BenchCommand, BenchCreateArgs};
pub(crate) use catalog::{CatalogBuildArgs, CatalogCommand, CatalogPublishArgs};
pub(crate) use image::{BuildArgs, ImageArg, ImageCommand, PullArgs, RegisterArgs};
pub(crate) use kernel::{ImportArgs, KernelCommand};
pub(crate) use sessions::{
    AcpArgs, AttachArgs, ForwardArgs, KillSessionArgs, OutputStream, Ports, Position, RestartFlag,
    SessionCommand, SessionLogsArgs, SessionRef, StartSessionArgs, StdinFlag, StopSessionArgs,
};
pub(crate) use system::{InstallArgs, SystemCommand, UninstallArgs};
pub(crate) use vm::{
    CpArgs, CreateArgs, DeleteArgs, ExecArgs, KillArgs, LogsArgs, PruneArgs, RestartArgs, RunArgs,
    SetArgs, SshArgs, SshConfigArgs, StartArgs, StopArgs, VmCommand, VmFlags, VmRef, VmRefs,
    WaitFor,
};
pub(crate) use workspace::{BackArgs, DiffArgs, PrepareArgs, WorkspaceCommand};

/// One-command, persistent development sandboxes.
#[derive(Debug, Parser)]
#[command(
    name = "banger",
    version,
    propagate_version = false,
    arg_required_else_help = true,
    after_help = "Examples:\n  banger vm run                      a sandbox, and a shell in it\n  banger vm run --rm -- uname -a     one command, then away\n  banger doctor                      what this host has and lacks\n\nExit codes: 0 ok, 1 failed, 2 usage, 3 host not ready, 4 not found, 5 conflict or busy.\nFor `run -- CMD`, `exec` and `ssh -- CMD`: the command's own status, and 125 when banger failed."
)]
pub(crate) struct Cli {
    /// How results are shown: `text` for people, or `json`, a stable contract for programs.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        env = "BANGER_OUTPUT",
        hide_env_values = true,
        display_order = 900
    )]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, enter and manage VMs.
    #[command(
        subcommand,
        after_help = "Examples:\n  banger vm run                      a sandbox, and a shell in it\n  banger vm list\n  banger vm stop demo"
    )]
    Vm(VmCommand),
    /// Images that VMs are made from.
    #[command(
        subcommand,
        after_help = "Examples:\n  banger image pull debian:trixie    any image from any registry\n  banger vm run --image debian-trixie"
    )]
    Image(ImageCommand),
    /// Kernels that VMs boot.
    #[command(
        subcommand,
        after_help = "Examples:\n  banger kernel list\n  banger kernel import               Debian's newest cloud kernel"
    )]
    Kernel(KernelCommand),
    /// The configuration in force.
    #[command(subcommand, after_help = "Example:\n  banger config show")]
    Config(ConfigCommand),
    /// Check this host; exit 1 when something fails.
    #[command(after_help = "Example:\n  banger doctor -o json")]
    Doctor,
    /// The background daemon.
    #[command(
        subcommand,
        after_help = "Examples:\n  banger daemon status\n  banger daemon stop                 VMs go on running"
    )]
    Daemon(DaemonCommand),
    /// Install banger on this host, as systemd services; look after and remove the installation.
    #[command(
        subcommand,
        after_help = "Examples:\n  sudo banger system install --owner \"$USER\"\n  banger system status"
    )]
    System(SystemCommand),
    /// Builds of CLI, daemon and helper. Starts nothing.
    #[command(after_help = "Example:\n  banger version -o json")]
    Version,
    /// Print a completion script for a shell: verbs, flags, and names of VMs, images and kernels.
    #[command(
        after_help = "Load it with:\n  bash        source <(banger completion bash)\n  zsh         source <(banger completion zsh)\n  fish        banger completion fish | source\n  powershell  banger completion powershell | Out-String | Invoke-Expression"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Measure how long things take here.
    #[command(subcommand, after_help = "Example:\n  banger bench create --runs 10")]
    Bench(BenchCommand),
    /// Write the manual's pages into a folder.
    #[command(
        hide = true,
        after_help = "Example:\n  banger man ~/.local/share/man/man1"
    )]
    Man {
        /// The folder.
        folder: PathBuf,
    },
}

impl Command {
    /// The exit code of banger's own failures, where codes belong to the guest's command.
    pub(crate) const fn own_failure_code(&self) -> Option<u8> {
        match self {
            Self::Vm(VmCommand::Run(run)) if run.runs_a_command() => Some(125),
            Self::Vm(VmCommand::Exec(_) | VmCommand::Acp(_)) => Some(125),
            Self::Vm(VmCommand::Session(SessionCommand::Attach(_))) => Some(125),
            Self::Vm(VmCommand::Ssh(ssh)) if !ssh.command.is_empty() => Some(125),
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every key, its value, and where that comes from: file and line, environment, default.
    #[command(after_help = "Examples:\n  banger config show\n  banger config show -o json")]
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Show the daemon's state. Starts nothing.
    #[command(after_help = "Example:\n  banger daemon status -o json")]
    Status,
    /// Start daemon and helper.
    #[command(after_help = "Example:\n  banger daemon start")]
    Start,
    /// Stop daemon and helper. VMs go on running.
    #[command(after_help = "Example:\n  banger daemon stop")]
    Stop,
    /// Print the path of the owner API's socket.
    #[command(
        after_help = "Example:\n  curl --unix-socket \"$(banger daemon socket)\" http://banger/v1/vms"
    )]
    Socket,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound_and_every_command_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        fn check(command: &clap::Command, path: &str) {
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                let path = format!("{path} {}", sub.get_name());
                let help = sub
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.contains("banger"), "{path} has no example");
                check(sub, &path);
            }
        }
        check(&command, "banger");
    }

    const HEAD: &str = "# Commands

What `--help` says of each command, as it was reviewed; `BANGER_UPDATE=1 cargo test -p banger help` writes it anew. What they
print with `-o json` is in [json.md](json.md).
";

    /// Every command and the groups above them, hidden ones too.
    fn walk(
        command: &mut clap::Command,
        path: &str,
        each: &mut impl FnMut(&str, &mut clap::Command),
    ) {
        each(path, command);
        for sub in command.get_subcommands_mut() {
            if sub.get_name() != "help" {
                let path = format!("{path} {}", sub.get_name());
                walk(sub, &path, each);
            }
        }
    }

    #[test]
    fn the_help_is_the_reviewed_one() {
        let mut text = HEAD.to_owned();
        walk(&mut Cli::command(), "banger", &mut |path, _| {
            let words = path.split(' ').chain(["--help"]);
            let asked = Cli::command().term_width(100).try_get_matches_from(words);
            let help = asked.unwrap_err().render().to_string();
            let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
            let help = lines.join("\n");
            text += &format!("\n## {path}\n\n```text\n{}\n```\n", help.trim_end());
        });
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/commands.md");
        if std::env::var_os("BANGER_UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
        let differs = text
            .lines()
            .zip(reviewed.lines())
            .find(|(now, then)| now != then);
        assert!(
            text == reviewed,
            "docs/commands.md says something else; look at what `BANGER_UPDATE=1 cargo test -p banger help` changes: {differs:?}"
        );
    }

    #[test]
    fn every_command_says_what_it_prints_as_json() {
        let documented = crate::documented::commands();
        let mut known = vec![];
        walk(&mut Cli::command(), "banger", &mut |path, command| {
            if !command.has_subcommands() && !command.is_hide_set() {
                let path = path.trim_start_matches("banger ").to_owned();
                assert!(
                    documented.contains_key(&path),
                    "{path} is not in docs/json.md"
                );
                known.push(path);
            }
        });
        for command in documented.keys() {
            assert!(
                known.contains(command),
                "docs/json.md has {command}, which is no command"
            );
        }
    }

    #[test]
    fn what_follows_two_dashes_is_the_command() {
        let cli = Cli::try_parse_from(["banger", "vm", "run", "--rm", "--", "sh", "-c", "exit 7"])
            .unwrap();
        assert_eq!(cli.command.own_failure_code(), Some(125));
        let Command::Vm(VmCommand::Run(run)) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.command, ["sh", "-c", "exit 7"]);
    }

    #[test]
    fn the_last_word_about_nat_counts() {
        for (flags, nat) in [
            (&["--nat"][..], true),
            (&["--no-nat"], false),
            (&["--no-nat", "--nat"], true),
            (&["--nat", "--no-nat"], false),
        ] {
            let args = ["banger", "vm", "set", "demo"];
            let cli = Cli::try_parse_from(args.iter().chain(flags)).unwrap();
            let Command::Vm(VmCommand::Set(set)) = cli.command else {
                panic!("not set")
            };
            assert_eq!((set.nat, set.no_nat), (nat, !nat), "{flags:?}");
        }
    }

    #[test]
    fn bad_values_are_usage_errors() {
        for bad in [
            &["vm", "create", "--memory", "-1"][..],
            &["vm", "create", "--name", "A_B"],
            &["vm", "create", "--vcpu", "many"],
            &["vm", "create", "--vmm", "xen"],
            &["vm", "run", "-d", "--", "true"],
            &["vm", "delete"],
            &["bench", "create", "--runs", "0"],
            &["bench", "create", "--image", "A/B"],
            &["vm", "ssh-config", "--nowhere"],
            &["vm", "restart"],
            &["vm", "kill", "demo", "--signal", "STOP"],
            &["vm", "set", "demo"],
            &["vm", "set", "--memory", "1G"],
            &["vm", "set", "demo", "--disk-size", "-1"],
            &["vm", "prune", "demo"],
            &["vm", "cp", "only-one"],
            &["vm", "run", "--branch", "x"],
            &["vm", "run", "--from", "x", "--", "true"],
            &["vm", "run", "--readonly"],
            &["vm", "workspace", "prepare", "x", "--mode", "deep"],
            &["kernel", "import", "f", "--host"],
            &["kernel", "pull"],
            &["kernel", "pull", "../6"],
            &["image", "catalog", "build", "dir"],
            &["image", "catalog", "publish"],
            &["vm", "run", "-d", "--entrypoint"],
            &["vm", "session", "start", "demo"],
            &[
                "vm", "session", "start", "demo", "--name", "a/b", "--", "true",
            ],
            &["vm", "session", "start", "demo", "--replace", "--", "true"],
            &["vm", "session", "logs", "demo", "x", "--from", "here"],
            &["vm", "forward", "demo"],
            &["vm", "forward", "demo", "80:0"],
            &["system", "install", "--owner", "u", "--bridge-ip", "here"],
        ] {
            assert!(
                Cli::try_parse_from(["banger"].iter().chain(bad)).is_err(),
                "{bad:?}"
            );
        }
    }
}
