//! `vm ssh-proxy NAME.vm`, which ssh runs: standard input and output become the guest's ssh server. That is what listens on the
//! guest's port 22; where nothing does, it is banger's own, which is brought into the guest and serves this one connection
//! (docs/adr/0019).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_api::Readiness;
use banger_client::Client;
use banger_core::ErrorCode;
use banger_guest::exec::{ExecError, ExecIo, bridge};
use banger_guest_proto::{AgentErrorCode, ExecRequest, ExitStatus, WirePath};
use rustix::fs::MemfdFlags;
use sha2::{Digest, Sha256};

use super::{CommandResult, Context, agents_own, blocking, cp};
use crate::error::CommandError;
use crate::progress::Progress;
use crate::start::Needs;

/// How long a guest that still boots is waited for, in seconds.
const BOOT: u32 = 120;
/// What the agent's own program says where nothing listens.
const REFUSED: u8 = 3;
/// How long a server may go on when ssh has ended.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a guest may take none of the server's bytes while it is brought there.
const STALLED: Duration = Duration::from_secs(60);
/// Where the server goes: this folder is the agent's, and gone with the guest's boot.
const FOLDER: &str = "/run/banger";
/// The most of a guest's complaint that is passed on, in bytes.
const MAX_COMPLAINT: u64 = 64 << 10;

/// `vm ssh-proxy`.
pub(crate) async fn ssh_proxy(context: &Context<'_>, host: &str) -> CommandResult {
    let vm = host.strip_suffix(".vm").unwrap_or(host);
    let client = context.client(Needs::Daemon).await?;
    let stream = connect(&client, vm).await?;
    let joined = blocking("the stream", move || join_port(stream)).await?;
    match joined.map_err(|error| lost(vm, &error))? {
        Joined::Ended(code) => Ok(code),
        Joined::TooOld => Err(agents_own::too_old(vm, "be a way to its sshd")),
        Joined::Refused => with_own_server(&client, vm, &context.paths.sshd).await,
    }
}

async fn connect(client: &Client, vm: &str) -> Result<UnixStream, CommandError> {
    let wait = Readiness::Ready;
    Ok(client.connect_guest(vm, wait, Some(BOOT)).await?)
}

fn lost(vm: &str, error: &(dyn std::error::Error + 'static)) -> CommandError {
    let what = format!("the connection to the ssh server of {vm} was lost");
    CommandError::because(ErrorCode::AgentUnreachable, what, error)
}

/// What came of port 22.
enum Joined {
    Ended(u8),
    Refused,
    TooOld,
}

/// Joins this process's streams to the guest's port 22. What the agent's program complains of is held back until it is known
/// whether it matters.
fn join_port(stream: UnixStream) -> Result<Joined, ExecError> {
    let local = |source: io::Error| ExecError::Local {
        stream: "standard error",
        source,
    };
    let held = rustix::fs::memfd_create("complaints", MemfdFlags::CLOEXEC);
    let mut held = File::from(held.map_err(|error| local(error.into()))?);
    let io = ExecIo {
        stderr: held.as_fd(),
        ..ExecIo::stdio(false)
    };
    let request = agents_own::request(["connect", "22"]);
    let code = ended(bridge(stream, request, io, PATIENCE))?;
    match code {
        REFUSED => return Ok(Joined::Refused),
        agents_own::UNKNOWN_WORD => return Ok(Joined::TooOld),
        _ => {}
    }
    held.seek(SeekFrom::Start(0)).map_err(local)?;
    io::copy(&mut held.take(MAX_COMPLAINT), &mut io::stderr()).map_err(local)?;
    Ok(Joined::Ended(code))
}

/// The exit code. A server that does not end with ssh has served it all the same.
fn ended(status: Result<ExitStatus, ExecError>) -> Result<u8, ExecError> {
    match status {
        Ok(status) => Ok(status.exit_code()),
        Err(ExecError::Overdue) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Runs banger's own server in the guest, which gets it first when it has it not yet.
async fn with_own_server(client: &Client, vm: &str, program: &Path) -> CommandResult {
    let server = Server::read(program)?;
    // The second time it has just been brought there.
    for brought in [false, true] {
        let stream = connect(client, vm).await?;
        let request = ExecRequest::own([server.place.as_str(), "serve"]);
        let run = move || ended(bridge(stream, request, ExecIo::stdio(false), PATIENCE));
        match blocking("the stream", run).await? {
            Ok(code) => return Ok(code),
            Err(ExecError::Refused(refusal))
                if refusal.code == AgentErrorCode::CommandNotFound && !brought =>
            {
                let stream = connect(client, vm).await?;
                let (place, file) = (server.place.clone(), server.file.clone());
                blocking("the transfer", move || bring(&stream, &place, &file)).await??;
            }
            Err(error) => return Err(lost(vm, &error)),
        }
    }
    let what = format!("the ssh server does not stay where it was put in {vm}");
    Err(CommandError::new(ErrorCode::ExecFailed, what))
}

/// banger's server, here and in guests.
struct Server {
    file: PathBuf,
    /// Named for what it is: another banger's is another file.
    place: String,
}

impl Server {
    fn read(file: &Path) -> Result<Self, CommandError> {
        let digest = digest(file).map_err(|error| missing(file, &error))?;
        Ok(Self {
            file: file.to_owned(),
            place: format!("{FOLDER}/banger-sshd-{digest}"),
        })
    }
}

fn missing(file: &Path, error: &io::Error) -> CommandError {
    let what = format!(
        "the ssh server for images without one, {}, cannot be read",
        file.display()
    );
    CommandError::because(ErrorCode::HostNotReady, what, error)
        .hint("`make agent` builds it in a checkout; else install banger again")
}

/// The first 12 hexadecimal digits of a file's SHA-256.
fn digest(file: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(file)?, &mut digest)?;
    let digest = digest.finalize();
    Ok(digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Copies the server into the guest. The agent gives a file its name when it is whole, so that another client finds all of it or
/// nothing.
fn bring(stream: &UnixStream, place: &str, file: &Path) -> Result<(), CommandError> {
    let mut file = File::open(file).map_err(|error| missing(file, &error))?;
    let bounded = stream
        .set_read_timeout(Some(STALLED))
        .and_then(|()| stream.set_write_timeout(Some(STALLED)));
    bounded.map_err(|error| CommandError::internal("a transfer cannot be bounded", &error))?;
    let target = WirePath(place.as_bytes().to_vec());
    let done = cp::put_stream(
        stream,
        target,
        0o755,
        &mut file,
        &Progress::new(None, false),
    )?;
    match done.is_whole() {
        true => Ok(()),
        false => Err(CommandError::new(
            ErrorCode::CopyFailed,
            "the ssh server could not be put into the guest",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_has_another_name_and_one_that_is_missing_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("banger-sshd");
        let told = Server::read(&path).err().unwrap();
        assert_eq!(told.0.code, ErrorCode::HostNotReady);
        assert!(told.0.hints[0].contains("make agent"));
        std::fs::write(&path, "one").unwrap();
        let one = Server::read(&path).unwrap().place;
        assert!(
            one.starts_with("/run/banger/banger-sshd-") && one.len() == 36,
            "{one}"
        );
        std::fs::write(&path, "two").unwrap();
        assert_ne!(Server::read(&path).unwrap().place, one);
    }
}
