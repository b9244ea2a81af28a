//! The environment of a VM: what `vm create --env` and `vm run -d --env` give it. The values go from here to the guest's agent,
//! which keeps them; the daemon hands out the connection and sees none.

use std::time::Duration;

use banger_api::Readiness;
use banger_client::Client;
use banger_core::ErrorCode;
use banger_guest::{AgentCallError, AgentClient, AgentErrorCode};
use banger_guest_proto::Environment;
use tokio::net::UnixStream;

use crate::environment::EnvFlags;
use crate::error::CommandError;
use crate::interrupt::Interrupts;

/// How long the agent of a guest that runs may take to write a small file.
const PATIENCE: Duration = Duration::from_secs(60);

/// The environment that the flags ask for; looked at before anything is made.
///
/// # Errors
/// No VM can have it, or this one is not started: then there is nobody to keep it.
pub(super) fn asked_for(env: &EnvFlags, no_start: bool) -> Result<Environment, CommandError> {
    if no_start && !env.is_empty() {
        let what =
            "variables go straight to the guest, which keeps them, and with --no-start none runs";
        return Err(CommandError::new(ErrorCode::InvalidArgument, what).hint(
            "leave --no-start out and stop the VM afterwards, or give them to each `banger vm exec`",
        ));
    }
    Environment::new(env.variables()?).map_err(|error| {
        CommandError::new(ErrorCode::InvalidArgument, error.to_string())
            .hint("put what is large into a file: `banger vm cp` brings it into the VM")
    })
}

/// Gives a VM that runs its environment; without variables nothing is done.
///
/// # Errors
/// Its agent did not take them, or somebody has interrupted: the VM is kept, without them.
pub(super) async fn give(
    client: &Client,
    vm: &str,
    name: &str,
    environment: &Environment,
    interrupts: &mut Interrupts,
) -> Result<(), CommandError> {
    if environment.is_empty() {
        return Ok(());
    }
    let given = async {
        let wait = Readiness::Reachable;
        let stream = client.connect_guest(vm, wait, None).await?;
        let lost = |error| refused(&AgentCallError::Connection(error));
        stream.set_nonblocking(true).map_err(lost)?;
        let stream = UnixStream::from_std(stream).map_err(lost)?;
        let mut agent = AgentClient::over(stream);
        let set = tokio::time::timeout(PATIENCE, agent.set_environment(environment)).await;
        set.unwrap_or(Err(AgentCallError::Deadline))
            .map_err(|error| refused(&error))
    };
    let given = tokio::select! {
        given = given => given,
        () = interrupts.next() => Err(CommandError::new(ErrorCode::Cancelled, "interrupted")),
    };
    given.map_err(|error| without(name, error))
}

/// The failure, with what became of the VM.
pub(super) fn without(name: &str, error: CommandError) -> CommandError {
    error.hint(format!(
        "the VM `{name}` has no environment: delete it and create it again, or give the variables to each `banger vm exec`"
    ))
}

fn refused(error: &AgentCallError) -> CommandError {
    let code = match error {
        AgentCallError::Older { .. } => ErrorCode::AgentTooOld,
        AgentCallError::Refused(refusal) if refusal.code == AgentErrorCode::DiskFull => {
            ErrorCode::DiskFull
        }
        AgentCallError::Refused(_) => ErrorCode::ExecFailed,
        _ => ErrorCode::AgentUnreachable,
    };
    CommandError::because(
        code,
        "the VM runs, but its guest did not take the variables",
        error,
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        env: EnvFlags,
    }

    fn asked(words: &[&str], no_start: bool) -> Result<Environment, CommandError> {
        let words = std::iter::once("x").chain(words.iter().copied());
        asked_for(&Flags::parse_from(words).env, no_start)
    }

    #[test]
    fn what_cannot_be_kept_is_told_before_anything_is_made() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, "A=file\nB=file\n").unwrap();
        let found = asked(&["--env-file", path, "-e", "A=1", "--env", "A=2"], false).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(found.variables(), [pair("A", "2"), pair("B", "file")]);
        assert!(asked(&[], true).unwrap().is_empty());

        let told = |words: &[&str], no_start| asked(words, no_start).unwrap_err().0;
        for words in [["--env", "A=s3cret"], ["--env-file", path]] {
            let error = told(&words, true);
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains("--no-start"), "{error:?}");
            assert!(!format!("{error:?}").contains("s3cret"));
        }
        std::fs::write(path, format!("A={}\n", "x".repeat(200 << 10))).unwrap();
        let error = told(&["--env-file", path], false);
        assert!(error.message.contains("128 KiB"), "{error:?}");
        assert!(error.hints[0].contains("vm cp"), "{error:?}");
        let many: String = (0..2000).map(|n| format!("V{n}=\n")).collect();
        std::fs::write(path, many).unwrap();
        let error = told(&["--env-file", path], false);
        assert!(error.message.contains("2000 variables"), "{error:?}");
    }

    #[test]
    fn an_agents_refusal_says_what_it_was() {
        let refusal = |code| {
            AgentCallError::Refused(banger_guest::AgentError {
                code,
                message: "no space left".to_owned(),
                hint: None,
            })
        };
        let full = refused(&refusal(AgentErrorCode::DiskFull)).0;
        assert_eq!(full.code, ErrorCode::DiskFull);
        assert!(
            full.causes.iter().any(|cause| cause == "no space left"),
            "{full:?}"
        );
        let version = "0.0.9".to_owned();
        let older = refused(&AgentCallError::Older { version }).0;
        assert_eq!(older.code, ErrorCode::AgentTooOld);
    }
}
