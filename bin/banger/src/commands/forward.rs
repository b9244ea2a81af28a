//! `vm forward`: each stream is a connection of its own to the guest's agent, handed out by the daemon,
//! which it does not need afterwards. All of it ends with the command.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_api::Readiness;
use banger_client::ClientError;
use banger_core::ErrorCode;
use banger_guest::forward::{Frames, ask, relay};
use banger_guest::session::SessionError;
use banger_guest_proto::{ForwardReply, ForwardRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::session::failed;
use super::{CommandResult, Context, INTERRUPTED, blocking};
use crate::cli::{ForwardArgs, Ports};
use crate::error::CommandError;
use crate::interrupt::Interrupts;
use crate::paths::Paths;
use crate::start::{self, Needs};
use crate::ui::Ui;

/// How many streams one command carries at a time; who comes next waits.
const MAX_STREAMS: usize = 64;

/// What every forwarding has.
#[derive(Clone)]
struct Way {
    paths: Arc<Paths>,
    vm: String,
    ui: Ui,
    streams: Arc<Semaphore>,
}

/// Where a stream from the guest goes to.
#[derive(Debug, Clone)]
enum Target {
    Port(u16),
    Socket(PathBuf),
}

/// `vm forward`.
pub(crate) async fn forward(context: &Context<'_>, args: ForwardArgs) -> CommandResult {
    let agent = match args.ssh_agent {
        true => Some(ssh_agent()?),
        false => None,
    };
    let way = Way {
        paths: Arc::new(context.paths.clone()),
        vm: args.vm,
        ui: *context.ui,
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
    };
    let mut interrupts = Interrupts::watch()?;
    let (mut all, mut held) = (JoinSet::new(), vec![]);
    for ports in args.ports {
        let listener = listen_here(ports.listen).await?;
        // Whether the guest is there is told now, and not at the first connection; held, it is seen to be in use.
        held.push(way.connect().await?);
        way.ui.note(&format!(
            "127.0.0.1:{} leads to port {} in {}",
            ports.listen, ports.target, way.vm
        ));
        let way = way.clone();
        all.spawn(async move { way.serve_port(listener, ports.target).await });
    }
    for Ports { listen, target } in args.reverse {
        let request = ForwardRequest::Listen { port: listen };
        let (at, control) = way.listen_there(request).await?;
        way.ui.note(&format!(
            "port {at} in {} leads to 127.0.0.1:{target} here",
            way.vm
        ));
        let way = way.clone();
        all.spawn(async move { way.serve_guest(control, Target::Port(target)).await });
    }
    if let Some(socket) = agent {
        let request = ForwardRequest::ListenSshAgent;
        let (at, control) = way.listen_there(request).await?;
        way.ui.note(&format!(
            "the ssh agent is at SSH_AUTH_SOCK={at} in {}",
            way.vm
        ));
        let way = way.clone();
        all.spawn(async move { way.serve_guest(control, Target::Socket(socket)).await });
    }
    let ended = tokio::select! {
        ended = all.join_next() => ended,
        () = interrupts.next() => return Ok(INTERRUPTED),
    };
    match ended {
        Some(Ok(error)) => Err(error),
        _ => Err(CommandError::new(
            ErrorCode::Internal,
            "the forwarding ended unexpectedly",
        )),
    }
}

fn ssh_agent() -> Result<PathBuf, CommandError> {
    let socket = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
    let there = socket.filter(|path| std::os::unix::net::UnixStream::connect(path).is_ok());
    there.ok_or_else(|| {
        let what = "there is no ssh agent here: SSH_AUTH_SOCK names none that answers";
        CommandError::new(ErrorCode::InvalidArgument, what).hint("eval \"$(ssh-agent)\"; ssh-add")
    })
}

async fn listen_here(port: u16) -> Result<TcpListener, CommandError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    listener.map_err(|error| {
        let what = format!("127.0.0.1:{port} cannot be listened on");
        let code = match error.kind() {
            std::io::ErrorKind::AddrInUse => ErrorCode::InUse,
            _ => ErrorCode::PermissionDenied,
        };
        CommandError::because(code, what, &error).hint(format!("another port here: LOCAL:{port}"))
    })
}

impl Way {
    /// A connection to the agent. The daemon may have died meanwhile: then there is another one.
    async fn connect(&self) -> Result<StdUnixStream, CommandError> {
        let mut tries = 3;
        loop {
            tries -= 1;
            let client = start::connect(&self.paths, Needs::Daemon, &self.ui).await?;
            let wait = Readiness::Reachable;
            match client.connect_guest(&self.vm, wait, None).await {
                Err(ClientError::Broken(_) | ClientError::NoDaemon { .. }) if tries > 0 => {}
                connected => return Ok(connected?),
            }
        }
    }

    async fn ask(
        &self,
        request: ForwardRequest,
    ) -> Result<(ForwardReply, StdUnixStream), CommandError> {
        let stream = self.connect().await?;
        let answer = blocking("the command", move || ask(stream, request)).await?;
        answer.map_err(|error| failed("the guest does not forward it", &error))
    }

    /// A stream to what the request names.
    async fn open(&self, request: ForwardRequest) -> Result<StdUnixStream, CommandError> {
        match self.ask(request).await? {
            (ForwardReply::Connected, stream) => Ok(stream),
            _ => Err(failed(
                "the guest does not forward it",
                &SessionError::Unexpected,
            )),
        }
    }

    async fn listen_there(
        &self,
        request: ForwardRequest,
    ) -> Result<(String, UnixStream), CommandError> {
        let (reply, stream) = self.ask(request).await?;
        let ForwardReply::Listening { at } = reply else {
            return Err(failed(
                "the guest does not listen",
                &SessionError::Unexpected,
            ));
        };
        let control = stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream));
        let control = control
            .map_err(|error| CommandError::internal("the connection cannot be used", &error))?;
        Ok((at.escape_debug().to_string(), control))
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).acquire_owned().await.ok()
    }

    /// Whoever connects here gets a stream to the guest's port. Ends only by a failure.
    async fn serve_port(self, listener: TcpListener, port: u16) -> CommandError {
        let mut streams = JoinSet::new();
        loop {
            let permit = self.permit().await;
            let accepted = listener.accept().await;
            while streams.try_join_next().is_some() {}
            let local = match accepted {
                Ok((local, _)) => local,
                Err(error) => {
                    let what = "connections are not accepted any more";
                    return CommandError::internal(what, &error);
                }
            };
            let way = self.clone();
            streams.spawn(async move {
                match way.open(ForwardRequest::Connect { port }).await {
                    Ok(guest) => carry(guest, local).await,
                    Err(error) => way.tell(&error),
                }
                drop(permit);
            });
        }
    }

    /// Whoever connects in the guest gets a stream to the target here. Ends only by a failure.
    async fn serve_guest(self, control: UnixStream, target: Target) -> CommandError {
        // Its other half must live: the guest listens as long as the connection does.
        let (from, _to) = control.into_split();
        let mut frames = Frames::new(from);
        let mut streams = JoinSet::new();
        loop {
            let permit = self.permit().await;
            let accepted = frames.accepted().await;
            while streams.try_join_next().is_some() {}
            let token = match accepted {
                Ok(Some(token)) => token,
                Ok(None) => return failed("the guest listens no more", &SessionError::GuestGone),
                Err(error) => {
                    let error = SessionError::Connection(error);
                    return failed("the guest listens no more", &error);
                }
            };
            let (way, target) = (self.clone(), target.clone());
            streams.spawn(async move {
                way.claim(token, &target).await;
                drop(permit);
            });
        }
    }

    async fn claim(&self, token: u64, target: &Target) {
        let guest = match self.open(ForwardRequest::Claim { token }).await {
            Ok(guest) => guest,
            Err(error) => return self.tell(&error),
        };
        // Who connected in the guest sees the connection close when there is nothing here.
        match target {
            Target::Port(port) => match TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await {
                Ok(local) => carry(guest, local).await,
                Err(error) => self.ui.note(&format!("127.0.0.1:{port}: {error}")),
            },
            Target::Socket(path) => match UnixStream::connect(path).await {
                Ok(local) => carry(guest, local).await,
                Err(error) => self.note_socket(path, &error),
            },
        }
    }

    fn note_socket(&self, path: &Path, error: &std::io::Error) {
        self.ui.note(&format!("{}: {error}", path.display()));
    }

    fn tell(&self, error: &CommandError) {
        let causes = error.0.causes.join(": ");
        self.ui.note(&format!("{}: {causes}", error.0.message));
    }
}

/// A stream that breaks is told to both its ends, by closing.
async fn carry<S>(guest: StdUnixStream, local: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let _ = relay(guest, local).await;
}
