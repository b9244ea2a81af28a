//! One ssh connection: who may log in, and which channel runs what. There are sessions and nothing else: ports and agents are
//! `banger vm forward`'s.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use banger_login::User;
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{
    Channel, ChannelId, ChannelMsg, ChannelOpenFailure, ChannelReadHalf, ChannelWriteHalf,
    MethodKind, MethodSet, Pty, Sig, SshId,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::backlog::Backlog;
use crate::complain;
use crate::grace::Grace;
use crate::keys::{self, AuthorizedKeys};
use crate::options::Options;
use crate::outcome;
use crate::program::{self, Client, Group, Input};
use crate::request::{Request, Wanted, size};
use crate::transport::Transport;

/// So many channels a connection may have at a time.
const MAX_CHANNELS: usize = 32;
/// So many keys may be refused.
const MAX_ATTEMPTS: usize = 6;
/// What a refusal takes at least.
const REFUSAL: Duration = Duration::from_millis(200);
/// What a channel's client may send before it hears that there is room for more, in bytes.
const WINDOW: u32 = 1 << 20;
/// How long the runtime's threads may take to end.
const LAST: Duration = Duration::from_secs(1);

/// `serve`.
pub(crate) fn main(options: &Options) -> ExitCode {
    // Before anything that could take its time.
    let grace = match Grace::start(options.login_grace) {
        Ok(grace) => grace,
        Err(error) => {
            complain(&format!("there is no thread to be had: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("there is no runtime to be had: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(serve(options, grace));
    // Whoever still runs is hung up on; nothing is waited for without an end.
    runtime.shutdown_timeout(LAST);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            complain(&what);
            ExitCode::FAILURE
        }
    }
}

/// Serves until the client is gone, or until a signal says that it is.
async fn serve(options: &Options, grace: Grace) -> Result<(), String> {
    let host_key = keys::host_key(&options.host_key).map_err(|error| error.to_string())?;
    let authorized = AuthorizedKeys::load(&options.authorized_keys);
    let backlog = Arc::new(Backlog::default());
    let transport = Transport::over_stdio(Arc::clone(&backlog))
        .map_err(|error| format!("standard input and output cannot be served: {error}"))?;
    let connection = Connection {
        authorized: authorized.map_err(|error| error.to_string())?,
        user: None,
        grace,
        backlog,
        channels: HashMap::new(),
    };
    let config = Arc::new(Config {
        server_id: SshId::Standard(concat!("SSH-2.0-banger_", env!("CARGO_PKG_VERSION")).into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REFUSAL,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        window_size: WINDOW,
        max_auth_attempts: MAX_ATTEMPTS,
        // Whoever has logged in may be silent; who has not has its grace.
        inactivity_timeout: None,
        ..Config::default()
    });
    let watched = |error| format!("signals cannot be watched: {error}");
    let mut hangup = signal(SignalKind::hangup()).map_err(watched)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(watched)?;
    let session = async {
        let running = russh::server::run_stream(config, transport, connection).await?;
        running.await
    };
    tokio::select! {
        ended = session => match ended {
            Ok(()) | Err(russh::Error::Disconnect | russh::Error::HUP) => Ok(()),
            Err(russh::Error::IO(error)) if is_gone(&error) => Ok(()),
            Err(error) => Err(format!("the connection has failed: {error}")),
        },
        _ = hangup.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// The client has ended without a word, as most do.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

/// A channel of the client's.
struct Slot {
    request: Request,
    /// Until a program takes them.
    ends: Option<Ends>,
    closed: watch::Receiver<bool>,
    group: Option<Arc<Group>>,
    collecting: AbortHandle,
    serving: Option<AbortHandle>,
}

impl Slot {
    /// Its program has ended, and that was told. The library says nothing when the client answers a close of ours.
    fn is_over(&self) -> bool {
        self.serving.as_ref().is_some_and(AbortHandle::is_finished)
    }
}

impl Drop for Slot {
    /// The other end of the channel hears that it is closed.
    fn drop(&mut self) {
        self.collecting.abort();
    }
}

/// What a program needs of its channel.
struct Ends {
    input: UnboundedReceiver<Input>,
    output: ChannelWriteHalf<Msg>,
}

/// The client, and what it has been given.
struct Connection {
    authorized: AuthorizedKeys,
    /// Once it has logged in.
    user: Option<User>,
    grace: Grace,
    backlog: Arc<Backlog>,
    channels: HashMap<ChannelId, Slot>,
}

/// Takes all that comes on a channel, so that the connection never waits for a program. What waits is counted.
async fn collect(
    mut channel: ChannelReadHalf,
    input: UnboundedSender<Input>,
    backlog: Arc<Backlog>,
    closed: watch::Sender<bool>,
) {
    while let Some(message) = channel.wait().await {
        // Nobody may take it any more: then it is dropped at once.
        match message {
            ChannelMsg::Data { data } => drop(input.send(Input::Data(backlog.hold(data)))),
            ChannelMsg::Eof => drop(input.send(Input::End)),
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    closed.send_replace(true);
}

impl Connection {
    /// The user of that name, if this process can be it.
    fn find(name: &str) -> Option<User> {
        let own = rustix::process::geteuid().as_raw();
        let user = User::find(Some(name)).filter(|user| user.name == name);
        user.filter(|user| own == 0 || user.uid == own)
    }

    /// Starts what a channel was opened for.
    fn start(&mut self, id: ChannelId, wanted: &Wanted, session: &Session) -> Option<()> {
        let user = self.user.as_ref()?;
        let slot = self.channels.get_mut(&id)?;
        let plan = slot.request.plan(user, wanted, std::env::vars_os())?;
        let Ends { input, output } = slot.ends.take()?;
        let terminal = slot.request.terminal.as_ref();
        let terminal = terminal.filter(|_| *wanted != Wanted::Sftp);
        let (program, group) = program::start(plan, terminal)
            .inspect_err(|error| complain(&format!("a program cannot be started: {error}")))
            .ok()?;
        let group = Arc::new(group);
        slot.group = Some(Arc::clone(&group));
        let client = Client {
            id,
            input,
            output,
            session: session.handle(),
            closed: slot.closed.clone(),
        };
        let serving = tokio::spawn(program.serve(client, group));
        slot.serving = Some(serving.abort_handle());
        Some(())
    }

    fn answer(done: Option<()>, id: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        match done {
            Some(()) => session.channel_success(id),
            None => session.channel_failure(id),
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = self.authorized.has(offer.public_key, offer.algorithm);
        Ok(match known && Self::find(user).is_some() {
            true => Auth::Accept,
            false => Auth::reject(),
        })
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let known = self.authorized.has(key.public_key, key.algorithm);
        self.user = Self::find(user).filter(|_| known);
        Ok(match self.user {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        })
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), Self::Error> {
        self.grace.passed();
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.retain(|_, slot| !slot.is_over());
        if self.channels.len() >= MAX_CHANNELS {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let id = channel.id();
        let (from_client, output) = channel.split();
        let (to_program, input) = unbounded_channel();
        let (closes, closed) = watch::channel(false);
        let backlog = Arc::clone(&self.backlog);
        let collecting = tokio::spawn(collect(from_client, to_program, backlog, closes));
        let slot = Slot {
            request: Request::default(),
            ends: Some(Ends { input, output }),
            closed,
            group: None,
            collecting: collecting.abort_handle(),
            serving: None,
        };
        self.channels.insert(id, slot);
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _: u32,
        _: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let slot = self.channels.get_mut(&id);
        let done = slot.map(|slot| slot.request.set_terminal(term, (cols, rows), modes));
        Self::answer(done, id, session)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let slot = self.channels.get_mut(&id);
        let taken = slot.is_some_and(|slot| slot.request.set(name, value));
        Self::answer(taken.then_some(()), id, session)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let done = self.start(id, &Wanted::Shell, session);
        Self::answer(done, id, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        line: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let done = self.start(id, &Wanted::Command(line.to_vec()), session);
        Self::answer(done, id, session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let done = match name {
            "sftp" => self.start(id, &Wanted::Sftp, session),
            _ => None,
        };
        Self::answer(done, id, session)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        cols: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let group = self.channels.get(&id).and_then(|slot| slot.group.as_ref());
        if let Some(terminal) = group.and_then(|group| group.terminal()) {
            let _ = banger_login::resize(terminal, size(cols, rows));
        }
        Ok(())
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        named: Sig,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let group = self.channels.get(&id).and_then(|slot| slot.group.as_ref());
        if let (Some(group), Some(signal)) = (group, outcome::signal(&named)) {
            group.signal(signal);
        }
        Ok(())
    }
}
