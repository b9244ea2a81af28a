//! An agent that keeps sessions in a folder of its own, and clients of it.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use banger_guest::session::{
    AttachEnd, AttachIo, AttachNote, LogItem, SessionError, attach, call, logs,
};
use banger_guest::{AgentCallError, AgentClient, AgentErrorCode};
use banger_guest_proto::{
    AttachRequest, Environment, LogStart, LogsRequest, SessionInfo, SessionName, SessionReply,
    SessionRequest, SessionSpec, SessionState, Stream,
};
use rustix::process::{Pid, Signal, kill_process_group};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that keeps sessions in a folder of its own.
pub(crate) struct Agent {
    pub(crate) child: Child,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn launch(folder: &tempfile::TempDir) -> Child {
    let socket = folder.path().join("socket");
    let _ = std::fs::remove_file(&socket);
    let child = Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"))
        .arg("serve")
        .arg(&socket)
        .arg(folder.path().join("sessions"))
        .spawn()
        .unwrap();
    until("the agent listens", || UnixStream::connect(&socket).is_ok());
    child
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        let pause = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

impl Agent {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = launch(&folder);
        Self { child, folder }
    }

    /// The guest dies, programs and all, and boots again.
    pub(crate) fn reboot(&mut self) {
        let live = self.list();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        for info in live {
            end(&info);
        }
        self.child = launch(&self.folder);
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("socket")).unwrap()
    }

    /// Gives the VM an environment, as the host does.
    pub(crate) fn set_environment(&self, variables: &[(&str, &str)]) -> Result<(), AgentCallError> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = Environment::new(variables.iter().map(pair).collect()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let stream = self.connect();
        stream.set_nonblocking(true).unwrap();
        runtime.block_on(async {
            let stream = tokio::net::UnixStream::from_std(stream).unwrap();
            AgentClient::over(stream)
                .set_environment(&environment)
                .await
        })
    }

    pub(crate) fn ask(&self, request: SessionRequest) -> Result<SessionReply, SessionError> {
        call(self.connect(), request)
    }

    pub(crate) fn begin(&self, spec: SessionSpec) -> Result<SessionInfo, SessionError> {
        match self.ask(SessionRequest::Start(spec))? {
            SessionReply::Started(info) => Ok(info),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn info(&self, request: SessionRequest) -> SessionInfo {
        match self.ask(request).unwrap() {
            SessionReply::Info(info) => info,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn show(&self, session: &str) -> SessionInfo {
        let name = name(session);
        self.info(SessionRequest::Show { name })
    }

    pub(crate) fn list(&self) -> Vec<SessionInfo> {
        match self.ask(SessionRequest::List).unwrap() {
            SessionReply::List { sessions } => sessions,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ended(&self, session: &str) -> SessionInfo {
        until("the session ends", || !self.show(session).state.is_live());
        self.show(session)
    }

    pub(crate) fn logs(&self, request: LogsRequest) -> Vec<LogItem> {
        let mut all = vec![];
        let mut next = None;
        let end = logs(self.connect(), request, &mut next, |item| {
            all.push(item);
            Ok(())
        });
        assert_eq!(Some(end.unwrap()), next);
        all
    }

    pub(crate) fn output(&self, session: &str, stream: Option<Stream>) -> String {
        let request = LogsRequest {
            name: name(session),
            from: LogStart::Oldest,
            stream,
            follow: true,
        };
        let items = self.logs(request).into_iter();
        let bytes: Vec<u8> = items
            .flat_map(|item| match item {
                LogItem::Record { bytes, .. } => bytes,
                LogItem::Gap { from, to } => panic!("a gap from {from} to {to}"),
            })
            .collect();
        String::from_utf8(bytes).unwrap()
    }
}

pub(crate) fn end(info: &SessionInfo) {
    if let SessionState::Running { pid } = info.state {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !thread::panicking() {
            for info in self.list() {
                end(&info);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn name(text: &str) -> SessionName {
    text.parse().unwrap()
}

pub(crate) fn sh(session: &str, script: &str) -> SessionSpec {
    SessionSpec {
        name: Some(name(session)),
        argv: ["sh", "-c", script].map(str::to_owned).into(),
        ..SessionSpec::default()
    }
}

pub(crate) fn refused(result: Result<SessionInfo, SessionError>, code: AgentErrorCode, text: &str) {
    match result {
        Err(SessionError::Refused(error)) if error.code == code => {
            assert!(error.message.contains(text), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// A client that is attached, in a thread, with pipes for its streams.
pub(crate) struct Client {
    pub(crate) stdin: Option<std::io::PipeWriter>,
    pub(crate) output: mpsc::Receiver<Vec<u8>>,
    pub(crate) seen: Vec<u8>,
    pub(crate) thread: thread::JoinHandle<(Result<AttachEnd, SessionError>, Option<u64>)>,
    pub(crate) stream: UnixStream,
}

impl Client {
    pub(crate) fn attach(agent: &Agent, session: &str, take_over: bool) -> Self {
        let (from, stdin) = std::io::pipe().unwrap();
        let (mut read, to) = std::io::pipe().unwrap();
        let (send, output) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = read.read(&mut buffer) {
                let _ = send.send(buffer[..count].to_vec());
            }
        });
        let request = AttachRequest {
            name: name(session),
            from: LogStart::Untaken,
            take_over,
            tty: None,
        };
        let connection = agent.connect();
        let stream = connection.try_clone().unwrap();
        let (tell, attached) = mpsc::channel();
        let thread = thread::spawn(move || {
            let io = AttachIo {
                stdin: Some(from.as_fd()),
                stdout: to.as_fd(),
                stderr: to.as_fd(),
            };
            let mut next = None;
            let end = attach(connection, &request, io, &mut next, &mut |note| {
                if matches!(note, AttachNote::Attached(_)) {
                    let _ = tell.send(());
                }
            });
            (end, next)
        });
        // Attached, or refused.
        let _ = attached.recv_timeout(PATIENCE);
        Self {
            stdin: Some(stdin),
            output,
            seen: vec![],
            thread,
            stream,
        }
    }

    pub(crate) fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn hear(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            let more = self.output.recv_timeout(PATIENCE);
            let more = more.unwrap_or_else(|_| panic!("{text} in {:?}", self.seen));
            self.seen.extend(more);
        }
    }

    /// The connection breaks, as when the client is killed.
    pub(crate) fn break_off(self) -> Option<u64> {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        let (end, next) = self.thread.join().unwrap();
        assert!(end.unwrap_err().is_lost());
        next
    }

    pub(crate) fn end(self) -> (AttachEnd, String) {
        let (end, _) = self.thread.join().unwrap();
        let mut seen = self.seen;
        while let Ok(more) = self.output.recv_timeout(PATIENCE) {
            seen.extend(more);
        }
        (end.unwrap(), String::from_utf8(seen).unwrap())
    }
}
