//! `vm ssh-proxy NAME.vm`, which ssh runs: standard input and output become the guest's ssh server. That is what listens on the
//! guest's port 22; where nothing does, it is banger's own, which is brought into the guest and serves this one connection
//! (docs/adr/0019).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use banger_api::Readiness;
use banger_client::Client;
use banger_core::ErrorCode;
use banger_guest::exec::{ExecError, ExecIo, bridge};
use banger_guest_proto::{AgentErrorCode, ExecRequest, ExitStatus, PutFiles, RelPath, WirePath};
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
/// Where the server goes. The first folder is gone with the guest's boot; an init can have made it one from which nothing is
/// executed.
const FOLDERS: [&str; 2] = ["/run/banger", "/var/lib/banger"];
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

/// Runs banger's own server in the guest, which gets it first when it has it not yet. An attempt that starts nothing has taken
/// nothing of what ssh has said: the next one begins afresh.
async fn with_own_server(client: &Client, vm: &str, program: &Path) -> CommandResult {
    let digest = digest(program).map_err(|error| missing(program, &error))?;
    let name = name(&digest);
    let mut open = vec![];
    for folder in FOLDERS {
        let place = format!("{folder}/{name}");
        match serve(client, vm, [place.as_str(), "serve"]).await? {
            Served::Ended(code) => return Ok(code),
            Served::NotThere => open.push((folder, place)),
            Served::NotExecuted => {}
        }
    }
    for (folder, place) in open {
        // Under a name of its own until all of it is there: others may come at the same time.
        let unsettled = format!(".{name}-{}", unique());
        let stream = connect(client, vm).await?;
        let (file, new) = (program.to_owned(), unsettled.clone());
        let bring = move || bring(&stream, folder, &new, &file);
        blocking("the transfer", bring).await??;
        let own = format!("{folder}/{unsettled}");
        if let Served::Ended(code) = serve(client, vm, [&own, "settle", &place]).await? {
            return Ok(code);
        }
    }
    let what = format!("{vm} executes no program in {}", FOLDERS.join(" or "));
    Err(CommandError::new(ErrorCode::ExecFailed, what)
        .hint(format!("`banger vm exec -it {vm} -- sh` needs none")))
}

/// What came of a server.
enum Served {
    Ended(u8),
    NotThere,
    NotExecuted,
}

async fn serve<const N: usize>(
    client: &Client,
    vm: &str,
    words: [&str; N],
) -> Result<Served, CommandError> {
    let stream = connect(client, vm).await?;
    let request = ExecRequest::own(words);
    let run = move || ended(bridge(stream, request, ExecIo::stdio(false), PATIENCE));
    match blocking("the stream", run).await? {
        Ok(code) => Ok(Served::Ended(code)),
        Err(ExecError::Refused(refusal)) => match refusal.code {
            AgentErrorCode::CommandNotFound => Ok(Served::NotThere),
            AgentErrorCode::NotExecutable => Ok(Served::NotExecuted),
            _ => Err(lost(vm, &ExecError::Refused(refusal))),
        },
        Err(error) => Err(lost(vm, &error)),
    }
}

/// What no other client calls its file.
fn unique() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    format!("{}-{nanos:x}", std::process::id())
}

/// What the server is called in a guest: another banger's is another file.
fn name(digest: &str) -> String {
    format!("banger-sshd-{digest}")
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

/// Copies the server into a folder of the guest's, which is made when it is not there.
fn bring(stream: &UnixStream, folder: &str, name: &str, file: &Path) -> Result<(), CommandError> {
    let mut file = File::open(file).map_err(|error| missing(file, &error))?;
    let bounded = stream
        .set_read_timeout(Some(STALLED))
        .and_then(|()| stream.set_write_timeout(Some(STALLED)));
    bounded.map_err(|error| CommandError::internal("a transfer cannot be bounded", &error))?;
    let name = RelPath::new(name.as_bytes())
        .map_err(|error| CommandError::internal("the server has no good name", &error))?;
    let request = PutFiles {
        target: WirePath(folder.as_bytes().to_vec()),
        into: false,
        file: false,
        exact: true,
    };
    let progress = Progress::new(None, false);
    let done = cp::put_stream(stream, request, (name, 0o755), &mut file, &progress)?;
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
        let told = missing(&path, &digest(&path).unwrap_err());
        assert_eq!(told.0.code, ErrorCode::HostNotReady);
        assert!(told.0.hints[0].contains("make agent"));
        std::fs::write(&path, "one").unwrap();
        let one = name(&digest(&path).unwrap());
        assert_eq!(one, "banger-sshd-7692c3ad3540");
        std::fs::write(&path, "two").unwrap();
        assert_ne!(name(&digest(&path).unwrap()), one);
    }
}
