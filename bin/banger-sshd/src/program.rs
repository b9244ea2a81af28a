//! One channel's program, from its start to the last word about it. Input, both outputs and the end are served side by side,
//! so that none of them can hold up another.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;

use banger_login::Terminal;
use bytes::Bytes;
use russh::server::{Handle, Msg};
use russh::{ChannelId, ChannelWriteHalf};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use crate::backlog::Held;
use crate::fds;
use crate::modes;
use crate::outcome::Outcome;
use crate::request::{Plan, WantedTerminal};

/// How much of an output is read at once.
const PIECE: usize = 32 << 10;
/// What a pipe or terminal may still hold when its program has ended; whoever else writes there is not waited for.
const LEFT: usize = 1 << 20;
/// End of input on a terminal (termios(3), VEOF).
const CONTROL_D: &[u8] = &[4];
/// Standard error (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// What the client sends to a program.
#[derive(Debug)]
pub(crate) enum Input {
    /// Bytes for standard input.
    Data(Held),
    /// There will be no more.
    End,
}

/// A program that runs, for whoever sends it signals. It hangs up on its process group when it is dropped before the
/// program's end, as a lost login would.
#[derive(Debug)]
pub(crate) struct Group {
    leader: Pid,
    ended: watch::Receiver<bool>,
    terminal: Option<Arc<OwnedFd>>,
}

impl Group {
    /// Sends a signal, on a terminal to who is in the foreground.
    pub(crate) fn signal(&self, signal: Signal) {
        if !*self.ended.borrow() {
            let _ = banger_login::signal_foreground(self.leader, self.terminal.as_ref(), signal);
        }
    }

    /// The client is gone.
    fn hang_up(&self) {
        if !*self.ended.borrow() {
            for signal in [Signal::HUP, Signal::CONT] {
                let _ = rustix::process::kill_process_group(self.leader, signal);
            }
        }
    }

    /// Its terminal, when it has one.
    pub(crate) fn terminal(&self) -> Option<&Arc<OwnedFd>> {
        self.terminal.as_ref()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// A program that was just started.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    input: AsyncFd<OwnedFd>,
    output: AsyncFd<OwnedFd>,
    errors: Option<AsyncFd<OwnedFd>>,
    on_terminal: bool,
    ended: watch::Sender<bool>,
}

/// Starts it.
///
/// # Errors
/// There is no terminal, pipe or process to be had.
pub(crate) fn start(plan: Plan, terminal: Option<&WantedTerminal>) -> io::Result<(Program, Group)> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(plan.words)
        .env_clear()
        .envs(plan.env)
        .current_dir(plan.cwd);
    match terminal {
        Some(wanted) => start_on_terminal(command, wanted),
        None => start_with_pipes(command),
    }
}

fn leader(child: &Child) -> io::Result<Pid> {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    id.and_then(Pid::from_raw)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn start_on_terminal(
    mut command: Command,
    wanted: &WantedTerminal,
) -> io::Result<(Program, Group)> {
    let Terminal { master, path } = Terminal::open(wanted.size)?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(&path, flags, Mode::empty())?;
    // A terminal with other modes than asked for still is one.
    let _ = modes::apply(&slave, &wanted.modes);
    let copy = || slave.try_clone().map(Stdio::from);
    command.env("SSH_TTY", path.to_string_lossy().as_ref());
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    let child = command.spawn()?;
    drop((command, slave));
    let (ended, sees_end) = watch::channel(false);
    let group = Group {
        leader: leader(&child)?,
        ended: sees_end,
        terminal: Some(Arc::new(master.try_clone()?)),
    };
    let program = Program {
        child,
        input: fds::watch(master.try_clone()?)?,
        output: fds::watch(master)?,
        errors: None,
        on_terminal: true,
        ended,
    };
    Ok((program, group))
}

fn start_with_pipes(mut command: Command) -> io::Result<(Program, Group)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
    let stdin = child.stdin.take().ok_or_else(missing)?.into_owned_fd()?;
    let stdout = child.stdout.take().ok_or_else(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(missing)?.into_owned_fd()?;
    let (ended, sees_end) = watch::channel(false);
    let group = Group {
        leader: leader(&child)?,
        ended: sees_end,
        terminal: None,
    };
    let program = Program {
        child,
        input: fds::watch(stdin)?,
        output: fds::watch(stdout)?,
        errors: Some(fds::watch(stderr)?),
        on_terminal: false,
        ended,
    };
    Ok((program, group))
}

/// The client's side of a channel.
pub(crate) struct Client {
    pub(crate) id: ChannelId,
    pub(crate) input: UnboundedReceiver<Input>,
    pub(crate) output: ChannelWriteHalf<Msg>,
    pub(crate) session: Handle,
    /// Turns true when the client wants no more of the channel, or is gone.
    pub(crate) closed: watch::Receiver<bool>,
}

impl Program {
    /// Serves it until it has ended and its output is passed on, or until the client is gone. The group is kept meanwhile.
    pub(crate) async fn serve(self, client: Client, group: Arc<Group>) {
        let Self {
            mut child,
            input,
            output,
            errors,
            on_terminal,
            ended,
        } = self;
        let Client {
            id,
            input: from_client,
            output: to_client,
            session,
            mut closed,
        } = client;
        let feeding = tokio::spawn(feed(input, from_client, on_terminal));
        let sees_end = || ended.subscribe();
        let running = async {
            let out = pass(output, sees_end(), |piece| to_client.data_bytes(piece));
            let err = async {
                if let Some(errors) = errors {
                    let send = |piece| to_client.extended_data_bytes(STDERR, piece);
                    pass(errors, sees_end(), send).await;
                }
            };
            let end = async {
                let status = child.wait().await;
                ended.send_replace(true);
                status
            };
            let (status, (), ()) = tokio::join!(end, out, err);
            status
        };
        let status = tokio::select! {
            status = running => status,
            () = turned(&mut closed) => {
                feeding.abort();
                group.hang_up();
                // Reaped, when it heeds that; if not, it is its own from here on.
                let _ = child.wait().await;
                ended.send_replace(true);
                return;
            }
        };
        feeding.abort();
        let outcome = status.map_or(Outcome::Status(255), Outcome::from);
        let _ = to_client.eof().await;
        let _ = match outcome {
            Outcome::Status(code) => session.exit_status_request(id, code).await,
            Outcome::Signal(signal, core) => {
                let (nothing, language) = (String::new(), String::new());
                session
                    .exit_signal_request(id, signal, core, nothing, language)
                    .await
            }
        };
        let _ = to_client.close().await;
    }
}

/// Waits until that is so, or until nobody can say it any more.
async fn turned(watched: &mut watch::Receiver<bool>) {
    let _ = watched.wait_for(|turned| *turned).await;
}

/// Passes input on until its end. What a program does not take any more is dropped.
async fn feed(to: AsyncFd<OwnedFd>, mut from: UnboundedReceiver<Input>, on_terminal: bool) {
    let mut to = Some(to);
    while let Some(input) = from.recv().await {
        let result = match (&to, &input) {
            (None, _) => continue,
            (Some(fd), Input::Data(held)) => fds::write_all(fd, held.bytes()).await,
            (Some(fd), Input::End) if on_terminal => fds::write_all(fd, CONTROL_D).await,
            (Some(_), Input::End) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        if result.is_err() {
            to = None;
        }
    }
}

/// Passes an output on until its end, or until the program's end and what it wrote until then.
async fn pass<F>(
    from: AsyncFd<OwnedFd>,
    mut ended: watch::Receiver<bool>,
    send: impl Fn(Bytes) -> F,
) where
    F: Future<Output = Result<(), russh::Error>>,
{
    let mut buffer = vec![0; PIECE];
    let mut left = LEFT;
    let mut over = false;
    loop {
        let read = match over {
            true if left > 0 && banger_login::has_input(from.as_fd()) => {
                let read = rustix::io::read(&from, &mut buffer).map_err(io::Error::from);
                left = left.saturating_sub(*read.as_ref().unwrap_or(&left));
                read
            }
            true => return,
            false => tokio::select! {
                read = fds::read(&from, &mut buffer) => read,
                () = turned(&mut ended) => {
                    over = true;
                    continue;
                }
            },
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if send(Bytes::copy_from_slice(&buffer[..count]))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}
