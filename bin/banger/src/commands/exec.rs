//! `vm exec`: a command in the guest, spoken with its agent over the connection that the daemon hands out.

use std::os::unix::net::UnixStream;

use banger_api::Readiness;
use banger_client::Client;
use banger_core::ErrorCode;
use banger_guest::exec::{ExecError, ExecIo, Signals, run_heard};
use banger_guest_proto::ExecRequest;

use super::{CommandResult, Context, blocking};
use crate::cli::ExecArgs;
use crate::error::CommandError;
use crate::start::Needs;

/// `vm exec`.
pub(crate) async fn exec(context: &Context<'_>, args: ExecArgs) -> CommandResult {
    let stdin_is_tty = rustix::termios::isatty(rustix::stdio::stdin());
    if args.tty && !stdin_is_tty {
        let error = CommandError::new(
            ErrorCode::InvalidArgument,
            "-t needs a terminal, and there is none",
        );
        return Err(error);
    }
    let mut request = ExecRequest::new(args.command);
    request.cwd = args.cwd;
    request.env = args.env.variables()?;
    request.no_stdin = stdin_is_tty && !args.interactive && !args.tty;
    let client = context.client(Needs::Daemon).await?;
    in_guest(&client, &args.vm, request, args.tty).await
}

/// Runs a request in a guest with this process's streams, and gives its exit code.
pub(super) async fn in_guest(
    client: &Client,
    vm: &str,
    request: ExecRequest,
    tty: bool,
) -> CommandResult {
    let stream = reach(client, vm).await?;
    over(stream, request, tty, watch(tty)?).await
}

/// A connection to a guest in which commands can run.
pub(super) async fn reach(client: &Client, vm: &str) -> Result<UnixStream, CommandError> {
    Ok(client.connect_guest(vm, Readiness::Reachable, None).await?)
}

/// Begins to keep signals for the command.
pub(super) fn watch(tty: bool) -> Result<Signals, CommandError> {
    let failed = |error| CommandError::internal("signals cannot be watched", &error);
    Signals::watch(tty).map_err(failed)
}

/// The same over a connection, with the signals that have come since they are watched.
pub(super) async fn over(
    stream: UnixStream,
    request: ExecRequest,
    tty: bool,
    signals: Signals,
) -> CommandResult {
    let ran = move || run_heard(stream, request, ExecIo::stdio(tty), &signals);
    match blocking("the session", ran).await? {
        Ok(status) => Ok(status.exit_code()),
        Err(error) => failed(&error),
    }
}

fn failed(error: &ExecError) -> CommandResult {
    let told = CommandError::because(
        ErrorCode::ExecFailed,
        "the command did not run to its end",
        error,
    );
    match error.exit_code() {
        125 => Err(told),
        code => {
            // The guest's own answer, as a shell there would give it.
            crate::ui::Ui::new(crate::ui::Output::Text).note(&told.0.causes.join(": "));
            Ok(code)
        }
    }
}
