//! What stands in for the daemon: fixed answers on a socket of its own, so that what is tested is the command line
//! and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use banger_api::{ApiError, Component, HelperStatus, Version};
use serde::Serialize;
use tempfile::TempDir;

/// Answers by method and path, the query left out.
#[derive(Debug, Default)]
pub(crate) struct Answers(BTreeMap<String, (u16, Vec<u8>)>);

impl Answers {
    /// A daemon whose words nobody understands.
    pub(crate) fn nonsense() -> Self {
        let mut answers = Self::default();
        answers.bytes("GET /v1/vms", b"hello".to_vec());
        answers
    }

    pub(crate) fn ok(&mut self, request: &str, body: &impl Serialize) {
        self.status(request, 200, body);
    }

    pub(crate) fn status(&mut self, request: &str, status: u16, body: &impl Serialize) {
        let json = serde_json::to_vec(body).unwrap();
        self.0.insert(request.to_owned(), (status, json));
    }

    /// Bytes, as a stream of events or a log is.
    pub(crate) fn bytes(&mut self, request: &str, body: Vec<u8>) {
        self.0.insert(request.to_owned(), (200, body));
    }
}

/// How a command ended, as it is reviewed.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A daemon's socket in a folder of its own, and commands that use it.
#[derive(Debug)]
pub(crate) struct StandIn {
    dir: TempDir,
}

impl StandIn {
    /// One that answers.
    pub(crate) fn new(answers: Answers) -> Self {
        let stand_in = Self::silent();
        let folder = stand_in.dir.path().join("run/banger");
        fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("bangerd.sock")).unwrap();
        let mut answers = answers;
        answers.ok("GET /v1/version", &version());
        let answers = Arc::new(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answers = Arc::clone(&answers);
                std::thread::spawn(move || answer(&answers, stream));
            }
        });
        stand_in
    }

    /// Nobody listens.
    pub(crate) fn silent() -> Self {
        let dir = tempfile::Builder::new().prefix("banger-").tempdir();
        Self { dir: dir.unwrap() }
    }

    /// A place in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `banger ARGS`, without a terminal, in an environment of its own.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_banger"));
        command.args(args);
        command
    }

    /// Another program, in the same environment.
    pub(crate) fn program(&self, program: &str) -> Command {
        let at = |name: &str| self.path(name);
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("BANGER_CHECKOUT", "1")
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", at("home"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("XDG_STATE_HOME", at("state"))
            .env("XDG_CONFIG_HOME", at("config"))
            .stdin(Stdio::null());
        command
    }

    /// The same, to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        self.finish(self.command(args))
    }

    /// Runs such a command to its end.
    pub(crate) fn finish(&self, mut command: Command) -> Finished {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let programs = Path::new(env!("CARGO_BIN_EXE_banger")).parent().unwrap();
            let text = text.replace(&programs.display().to_string(), "/PROGRAMS");
            text.replace(&self.dir.path().display().to_string(), "/HERE")
        };
        Finished {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The same as it is reviewed: both streams and the exit code.
    pub(crate) fn shown(&self, args: &[&str]) -> String {
        let Finished {
            code,
            stdout,
            stderr,
        } = self.run(args);
        let mut text = format!("$ banger {}\n{stdout}", args.join(" "));
        if !stderr.is_empty() {
            text += &format!("--- standard error\n{stderr}");
        }
        if code != 0 {
            text += &format!("--- exit code {code}\n");
        }
        text
    }
}

/// What the command line takes for a daemon of its own build.
pub(crate) fn version() -> Version {
    let beside = Path::new(env!("CARGO_BIN_EXE_banger")).with_file_name("bangerd");
    let build = fs::metadata(beside)
        .map(|m| format!("{}-{}-{}", m.ino(), m.mtime(), m.mtime_nsec()))
        .unwrap_or_default();
    Version {
        api_max: banger_api::API_VERSION,
        api_min: banger_api::API_VERSION,
        daemon: Component {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build,
            pid: 4000,
        },
        helper: HelperStatus {
            available: true,
            wanted: false,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            pid: Some(4001),
            socket: "/run/banger-root/1000/helper.sock".to_owned(),
            problem: None,
        },
    }
}

fn answer(answers: &Answers, stream: UnixStream) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if !reader.read_line(&mut first).is_ok_and(|count| count > 0) {
            return;
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        let request = first.trim_end().trim_end_matches(" HTTP/1.1");
        let request = request.split('?').next().unwrap_or(request);
        let unknown = || {
            let what = format!("the stand-in has no answer to {request}");
            let error = ApiError::new(banger_core::ErrorCode::Internal, what);
            (500, serde_json::to_vec(&error).unwrap())
        };
        let (status, body) = answers.0.get(request).cloned().unwrap_or_else(unknown);
        let head = format!(
            "HTTP/1.1 {status} -\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let stream = reader.get_mut();
        if stream.write_all(head.as_bytes()).is_err() || stream.write_all(&body).is_err() {
            return;
        }
    }
}
