//! `vm session`: spoken with the guest's agent over connections that the daemon hands out.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use banger_api::Readiness;
use banger_client::Client;
use banger_core::ErrorCode;
use banger_guest::session::{
    AttachEnd, AttachIo, AttachNote, LogItem, SessionError, attach, call, logs,
};
use banger_guest_proto::{
    AgentErrorCode, AttachRequest, ExitStatus, LogStart, LogsRequest, RestartPolicy, SessionInfo,
    SessionReply, SessionRequest, SessionSpec, SessionState, StdinMode, Stream,
};
use serde_json::json;

use super::show::table;
use super::{CommandResult, Context, blocking};
use crate::cli::{
    AttachArgs, KillSessionArgs, OutputStream, Position, RestartFlag, SessionCommand,
    SessionLogsArgs, SessionRef, StartSessionArgs, StdinFlag, StopSessionArgs, VmRef,
};
use crate::error::CommandError;
use crate::start::Needs;
use crate::ui::Ui;

/// `vm session …`.
pub(crate) async fn session(context: &Context<'_>, command: SessionCommand) -> CommandResult {
    match command {
        SessionCommand::Start(args) => start(context, args).await,
        SessionCommand::List(args) => list(context, &args).await,
        SessionCommand::Show(args) => show(context, args).await,
        SessionCommand::Attach(args) => attached(context, args).await,
        SessionCommand::Logs(args) => print_logs(context, args).await,
        SessionCommand::Stop(args) => stop(context, args).await,
        SessionCommand::Kill(args) => kill(context, args).await,
        SessionCommand::Delete(args) => delete(context, args).await,
    }
}

/// What the agent said, as an error of ours.
pub(crate) fn failed(what: &str, error: &SessionError) -> CommandError {
    let (code, hint) = match error {
        SessionError::Outdated { .. } => (
            ErrorCode::AgentTooOld,
            Some("restart the VM: it then boots with this banger's agent"),
        ),
        SessionError::Refused(refusal) => {
            let code = match refusal.code {
                AgentErrorCode::NotFound => ErrorCode::SessionNotFound,
                AgentErrorCode::NameTaken => ErrorCode::NameTaken,
                AgentErrorCode::Busy => ErrorCode::InUse,
                AgentErrorCode::BadRequest => ErrorCode::InvalidArgument,
                AgentErrorCode::StillBooting => ErrorCode::GuestBooting,
                AgentErrorCode::ShuttingDown => ErrorCode::VmBusy,
                _ => ErrorCode::ExecFailed,
            };
            (code, refusal.hint.as_deref())
        }
        SessionError::GuestGone | SessionError::Connection(_) => (
            ErrorCode::AgentUnreachable,
            Some("`banger vm show` says how the VM is"),
        ),
        _ => (ErrorCode::ExecFailed, None),
    };
    let told = CommandError::because(code, what, error);
    match hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

/// A connection to the agent of a guest that is ready.
async fn connect(client: &Client, vm: &str) -> Result<UnixStream, CommandError> {
    Ok(client.connect_guest(vm, Readiness::Ready, None).await?)
}

async fn ask(
    context: &Context<'_>,
    vm: &str,
    request: SessionRequest,
    what: &str,
) -> Result<SessionReply, CommandError> {
    let client = context.client(Needs::Daemon).await?;
    let stream = connect(&client, vm).await?;
    let reply = blocking("the command", move || call(stream, request)).await?;
    reply.map_err(|error| failed(what, &error))
}

/// The names of a guest's sessions, with how they are; none when it does not answer soon.
pub(crate) fn live_names(stream: UnixStream, patience: Duration) -> Vec<(String, String)> {
    if stream.set_read_timeout(Some(patience)).is_err() {
        return vec![];
    }
    match call(stream, SessionRequest::List) {
        Ok(SessionReply::List { sessions }) => sessions
            .into_iter()
            .map(|info| (info.name.to_string(), state(&info.state)))
            .collect(),
        _ => vec![],
    }
}

fn unexpected() -> CommandError {
    failed(
        "the agent's answer makes no sense",
        &SessionError::Unexpected,
    )
}

async fn start(context: &Context<'_>, args: StartSessionArgs) -> CommandResult {
    let spec = SessionSpec {
        name: args.name,
        argv: args.command,
        env: args.env.variables()?,
        cwd: args.cwd,
        stdin_mode: match args.stdin_mode {
            StdinFlag::Detached => StdinMode::Detached,
            StdinFlag::Pipe => StdinMode::Pipe,
            StdinFlag::Pty => StdinMode::Pty,
        },
        require: args.require_command,
        restart: match args.restart {
            RestartFlag::No => RestartPolicy::Never,
            RestartFlag::OnFailure => RestartPolicy::OnFailure,
        },
        on_boot: args.on_boot,
        log_bytes: Some(args.log_size.0),
        tty: banger_guest::size_of(rustix::stdio::stdout()),
        term: std::env::var("TERM").ok(),
        replace: args.replace,
    };
    let request = SessionRequest::Start(spec);
    let reply = ask(context, &args.vm, request, "the session was not started").await?;
    let SessionReply::Started(info) = reply else {
        return Err(unexpected());
    };
    let vm = &args.vm;
    context.ui.result(&info, |info| {
        let name = &info.name;
        let mut text =
            format!("session {name} runs\n  output  banger vm session logs -f {vm} {name}\n");
        if info.stdin_mode != StdinMode::Detached {
            text += &format!("  attach  banger vm session attach {vm} {name}\n");
        }
        text + &format!("  end     banger vm session stop {vm} {name}")
    });
    Ok(0)
}

async fn list(context: &Context<'_>, args: &VmRef) -> CommandResult {
    let what = "the sessions cannot be listed";
    let reply = ask(context, &args.vm, SessionRequest::List, what).await?;
    let SessionReply::List { sessions } = reply else {
        return Err(unexpected());
    };
    let listed = json!({ "sessions": sessions });
    context.ui.result(&listed, |_| listing(&args.vm, &sessions));
    Ok(0)
}

fn listing(vm: &str, sessions: &[SessionInfo]) -> String {
    if sessions.is_empty() {
        return format!("no sessions; `banger vm session start {vm}` starts one");
    }
    let row = |info: &SessionInfo| {
        vec![
            info.name.to_string(),
            state(&info.state),
            stdin_mode(info.stdin_mode).to_owned(),
            if info.attached { "yes" } else { "no" }.to_owned(),
            info.runs.to_string(),
            info.log.end.to_string(),
            info.argv.join(" ").escape_debug().to_string(),
        ]
    };
    let header = [
        "NAME", "STATE", "STDIN", "ATTACHED", "RUNS", "OUTPUT", "COMMAND",
    ];
    table(&header, sessions.iter().map(row).collect())
}

fn stdin_mode(mode: StdinMode) -> &'static str {
    match mode {
        StdinMode::Detached => "detached",
        StdinMode::Pipe => "pipe",
        StdinMode::Pty => "pty",
    }
}

fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit code {code}"),
        ExitStatus::Signal(number) => format!("signal {number}"),
    }
}

fn state(state: &SessionState) -> String {
    match state {
        SessionState::Running { pid } => format!("running (pid {pid})"),
        SessionState::Restarting { status } => format!("restarting after {}", ended(*status)),
        SessionState::Ended { status, asked } => {
            let stopped = if *asked { "stopped" } else { "ended" };
            format!("{stopped}: {}", ended(*status))
        }
        SessionState::Cut => "cut off by the VM's end".to_owned(),
        SessionState::Failed { why } => format!("not started again: {}", why.escape_debug()),
    }
}

async fn show(context: &Context<'_>, args: SessionRef) -> CommandResult {
    let name = args.session;
    let request = SessionRequest::Show { name };
    let what = "the session cannot be shown";
    let SessionReply::Info(info) = ask(context, &args.vm, request, what).await? else {
        return Err(unexpected());
    };
    context.ui.result(&info, describe);
    Ok(0)
}

fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or_default();
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "-".to_owned(), |time| time.to_string())
}

fn describe(info: &SessionInfo) -> String {
    // What comes from a guest must not steer the terminal.
    let plain = |text: String| text.escape_debug().to_string();
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let rows = [
        ("name", info.name.to_string()),
        ("state", state(&info.state)),
        ("command", plain(info.argv.join(" "))),
        ("directory", plain(info.cwd.clone())),
        ("environment", plain(info.env.join(" "))),
        ("stdin", stdin_mode(info.stdin_mode).to_owned()),
        ("attached", yes(info.attached)),
        (
            "restart",
            match info.restart {
                RestartPolicy::Never => "no",
                RestartPolicy::OnFailure => "on failure",
            }
            .to_owned(),
        ),
        ("on boot", yes(info.on_boot)),
        ("runs", info.runs.to_string()),
        ("started", time(info.started_ms)),
        ("ended", info.ended_ms.map_or_else(|| "-".to_owned(), time)),
        (
            "output",
            format!(
                "{} bytes, from {} on in the log, taken up to {}",
                info.log.end, info.log.first, info.log.taken
            ),
        ),
    ];
    rows.iter()
        .map(|(key, value)| format!("{key:<11} {}\n", value.trim_end()))
        .collect()
}

async fn stop(context: &Context<'_>, args: StopSessionArgs) -> CommandResult {
    let request = SessionRequest::Stop {
        name: args.session.session,
        grace_ms: u64::from(args.grace) * 1000,
    };
    let what = "the session was not stopped";
    said(
        context,
        ask(context, &args.session.vm, request, what).await?,
    )
}

async fn kill(context: &Context<'_>, args: KillSessionArgs) -> CommandResult {
    let (name, signal) = (args.session.session, args.signal);
    let request = SessionRequest::Kill { name, signal };
    let what = "the signal was not sent";
    said(
        context,
        ask(context, &args.session.vm, request, what).await?,
    )
}

fn said(context: &Context<'_>, reply: SessionReply) -> CommandResult {
    let SessionReply::Info(info) = reply else {
        return Err(unexpected());
    };
    context.ui.result(&info, |info| {
        format!("session {} is {}", info.name, state(&info.state))
    });
    Ok(0)
}

async fn delete(context: &Context<'_>, args: SessionRef) -> CommandResult {
    let name = args.session;
    let request = SessionRequest::Delete { name };
    let what = "the session was not deleted";
    match ask(context, &args.vm, request, what).await? {
        SessionReply::Deleted => Ok(0),
        _ => Err(unexpected()),
    }
}

fn log_start(position: Position) -> LogStart {
    match position {
        Position::Start => LogStart::Oldest,
        Position::End => LogStart::Newest,
        Position::At(at) => LogStart::At(at),
    }
}

async fn print_logs(context: &Context<'_>, args: SessionLogsArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let stream = connect(&client, &args.session.vm).await?;
    let request = LogsRequest {
        name: args.session.session,
        from: match (args.from, args.last) {
            (Some(position), _) => log_start(position),
            (None, Some(size)) => LogStart::Last(size.0),
            (None, None) => LogStart::Oldest,
        },
        stream: args.stream.map(|stream| match stream {
            OutputStream::Stdout => Stream::Stdout,
            OutputStream::Stderr => Stream::Stderr,
        }),
        follow: args.follow,
    };
    let ui = *context.ui;
    let (done, next) = blocking("the command", move || {
        let mut next = None;
        let done = logs(stream, request, &mut next, |item| print(&ui, &item));
        (done, next)
    })
    .await?;
    match done {
        Ok(_) => Ok(0),
        // Whoever read it has had enough.
        Err(SessionError::Local { source, .. })
            if source.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            Ok(0)
        }
        Err(error) => Err(going_on(failed("the log was cut off", &error), next)),
    }
}

/// With the position to go on from.
fn going_on(error: CommandError, next: Option<u64>) -> CommandError {
    match next {
        Some(next) => error.hint(format!("it goes on with `--from {next}`")),
        None => error,
    }
}

fn print(ui: &Ui, item: &LogItem) -> std::io::Result<()> {
    if !ui.is_json() {
        return match item {
            LogItem::Record { bytes, .. } => ui.bytes(bytes),
            LogItem::Gap { from, to } => {
                ui.note(&gap(*from, *to));
                Ok(())
            }
        };
    }
    ui.bytes(format!("{}\n", record(item)).as_bytes())
}

fn record(item: &LogItem) -> serde_json::Value {
    match item {
        LogItem::Record {
            stream,
            position,
            bytes,
        } => {
            let mut line = json!({ "position": position, "length": bytes.len(), "stream": stream });
            match std::str::from_utf8(bytes) {
                Ok(text) => line["text"] = text.into(),
                Err(_) => line["bytes"] = bytes.as_slice().into(),
            }
            line
        }
        LogItem::Gap { from, to } => json!({ "gap": { "from": from, "to": to } }),
    }
}

fn gap(from: u64, to: u64) -> String {
    format!(
        "note: {} bytes of output are lost (positions {from} to {to}): the log was full",
        to - from
    )
}

async fn attached(context: &Context<'_>, args: AttachArgs) -> CommandResult {
    let client = context.client(Needs::Daemon).await?;
    let vm = args.session.vm;
    let name = args.session.session;
    let stream = connect(&client, &vm).await?;
    let request = AttachRequest {
        name: name.clone(),
        from: args.from.map_or(LogStart::Untaken, log_start),
        take_over: args.take_over,
        tty: None,
    };
    let ui = *context.ui;
    let (done, next) = blocking("the command", move || {
        let io = AttachIo {
            stdin: (!args.no_stdin).then(rustix::stdio::stdin),
            stdout: rustix::stdio::stdout(),
            stderr: rustix::stdio::stderr(),
        };
        let mut next = None;
        let mut note = |note| tell(&ui, &note);
        let done = attach(stream, &request, io, &mut next, &mut note);
        (done, next)
    })
    .await?;
    match done {
        Ok(AttachEnd::Ended(info)) => match info.state {
            SessionState::Ended { status, .. } => Ok(status.exit_code()),
            other => {
                let what = format!("the session `{name}` is {}", state(&other));
                Err(CommandError::new(ErrorCode::ExecFailed, what))
            }
        },
        Ok(AttachEnd::TakenOver) => {
            let what = format!("somebody else has taken over the session `{name}`");
            Err(going_on(CommandError::new(ErrorCode::InUse, what), next))
        }
        Ok(AttachEnd::Detached { signal }) => {
            ui.note(&format!(
                "detached; the session goes on: `banger vm session attach {vm} {name}`"
            ));
            Ok(signal.map_or(0, |number| u8::try_from(128 + number).unwrap_or(125)))
        }
        Err(error) => {
            let told = failed("the session cannot be attached to", &error);
            Err(going_on(told, next))
        }
    }
}

fn tell(ui: &Ui, note: &AttachNote) {
    match note {
        AttachNote::Attached(info) => {
            let on_terminal = info.stdin_mode == StdinMode::Pty
                && rustix::termios::isatty(rustix::stdio::stdin());
            if on_terminal {
                ui.note("attached; Ctrl-] detaches\r");
            }
        }
        AttachNote::Gap { from, to } => ui.note(&format!("{}\r", gap(*from, *to))),
        AttachNote::Restarted { runs } => {
            ui.note(&format!(
                "note: the program was started again (run {runs})\r"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;
    use banger_guest_proto::LogExtent;

    fn info(name: &str, state: SessionState) -> SessionInfo {
        SessionInfo {
            name: name.parse().unwrap(),
            argv: vec!["npm".into(), "start\u{1b}".into()],
            cwd: "/root/repo".into(),
            env: vec!["PORT".into()],
            stdin_mode: StdinMode::Pty,
            restart: RestartPolicy::OnFailure,
            on_boot: true,
            state,
            started_ms: 1_793_606_409_000,
            ended_ms: None,
            runs: 2,
            attached: false,
            log: LogExtent {
                first: 0,
                end: 5120,
                taken: 17,
            },
        }
    }

    fn sessions() -> Vec<SessionInfo> {
        let status = ExitStatus::Code(3);
        let asked = true;
        vec![
            info("web", SessionState::Running { pid: 412 }),
            info("worker", SessionState::Restarting { status }),
            info(
                "done",
                SessionState::Ended {
                    status: ExitStatus::Signal(15),
                    asked,
                },
            ),
            info("cut", SessionState::Cut),
            info(
                "lost",
                SessionState::Failed {
                    why: "no such file".into(),
                },
            ),
        ]
    }

    #[test]
    fn the_tables() {
        insta::assert_snapshot!(listing("demo", &sessions()));
        insta::assert_snapshot!(describe(&sessions()[0]));
        insta::assert_snapshot!(listing("demo", &[]));
    }

    #[test]
    fn the_json_is_the_documented_one() {
        let [web, ..] = &sessions()[..] else { panic!() };
        let web = serde_json::to_value(web).unwrap();
        assert_documented("session", &web);
        assert_documented("sessions", &json!({ "sessions": [web] }));
        let written = |bytes: &[u8]| LogItem::Record {
            stream: Stream::Stdout,
            position: 0,
            bytes: bytes.to_vec(),
        };
        let gap = LogItem::Gap { from: 6, to: 4096 };
        assert_documented(
            "records",
            &json!([record(&written(b"ready\n")), record(&gap)]),
        );
        assert_eq!(record(&written(&[0xff]))["bytes"], json!([255]));
        insta::assert_json_snapshot!(sessions());
    }
}
