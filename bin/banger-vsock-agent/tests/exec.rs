//! The agent's exec against the host's client: real processes, over a socket pair in place of vsock.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use banger_guest::exec::{ExecError, ExecIo, bridge, run};
use banger_guest::{AgentErrorCode, ExecRequest, ExitStatus, TtySize};
use sha2::{Digest, Sha256};

/// An agent that serves one connection.
struct Agent(Child);

impl Agent {
    fn start() -> (Self, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"))
            .arg("serve")
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        (Self(child), ours)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Outcome {
    status: Result<ExitStatus, ExecError>,
    stdout: String,
    stderr: String,
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = vec![];
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn exec(request: ExecRequest, input: &[u8]) -> Outcome {
    let tty = request.tty.is_some();
    let (_agent, stream) = Agent::start();
    let (stdin, mut stdin_write) = std::io::pipe().unwrap();
    let (stdout_read, stdout) = std::io::pipe().unwrap();
    let (stderr_read, stderr) = std::io::pipe().unwrap();
    let input = input.to_vec();
    let feeder = thread::spawn(move || {
        // The program may end before it has read all.
        let _ = stdin_write.write_all(&input);
    });
    let readers = (drain(stdout_read), drain(stderr_read));
    let io = ExecIo {
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        tty,
    };
    let status = run(stream, request, io);
    drop((stdin, stdout, stderr));
    feeder.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Outcome {
        status,
        stdout: text(readers.0.join().unwrap()),
        stderr: text(readers.1.join().unwrap()),
    }
}

fn sh(script: &str) -> ExecRequest {
    ExecRequest::new(["sh", "-c", script])
}

#[test]
fn a_programs_code_and_both_outputs_come_back() {
    let outcome = exec(sh("echo out; echo err >&2; exit 7"), b"");
    assert_eq!(outcome.status.unwrap(), ExitStatus::Code(7));
    assert_eq!(outcome.stdout, "out\n");
    assert_eq!(outcome.stderr, "err\n");
}

#[test]
fn input_arrives_and_ends() {
    let outcome = exec(ExecRequest::new(["cat"]), b"hi\n");
    assert_eq!(outcome.status.unwrap(), ExitStatus::Code(0));
    assert_eq!(outcome.stdout, "hi\n");
}

#[test]
fn a_signal_that_ends_a_program_is_told() {
    let outcome = exec(sh("kill -9 $$"), b"");
    let status = outcome.status.unwrap();
    assert_eq!(status, ExitStatus::Signal(9));
    assert_eq!(status.exit_code(), 137);
}

#[test]
fn environment_and_directory_are_a_logins_and_can_be_set() {
    let mut request = sh("echo $HOME $USER $LOGNAME $A; pwd; umask; ulimit -Sn; echo $PATH");
    request.env = vec![("A".to_owned(), "b c".to_owned())];
    request.cwd = Some("/usr".to_owned());
    let outcome = exec(request, b"");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "/root root root b c");
    assert_eq!(lines[1], "/usr");
    assert!(lines[4].starts_with("/usr/local/sbin:"), "{lines:?}");
}

#[test]
fn another_user_is_that_user() {
    if !rustix::process::getuid().is_root() {
        println!("SKIPPED(exec as another user): needs root");
        return;
    }
    let mut request = sh("id -un; id -u; echo $HOME; id -G");
    request.user = Some("nobody".to_owned());
    let outcome = exec(request, b"");
    assert_eq!(
        outcome.status.unwrap(),
        ExitStatus::Code(0),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stdout.starts_with("nobody\n65534\n/nonexistent\n"),
        "{}",
        outcome.stdout
    );
    assert!(outcome.stdout.ends_with("\n65534\n"), "{}", outcome.stdout);
}

#[test]
fn what_cannot_start_is_told_apart() {
    for (request, code, exit) in [
        (
            ExecRequest::new(["no-such-command"]),
            AgentErrorCode::CommandNotFound,
            127,
        ),
        (
            ExecRequest::new(["/etc/passwd"]),
            AgentErrorCode::NotExecutable,
            126,
        ),
        (
            ExecRequest {
                cwd: Some("/no/such".to_owned()),
                ..sh("true")
            },
            AgentErrorCode::ExecFailed,
            125,
        ),
        (
            ExecRequest {
                user: Some("no-such-user".to_owned()),
                ..sh("true")
            },
            AgentErrorCode::BadRequest,
            125,
        ),
        (
            ExecRequest::new(["a\0b"]),
            AgentErrorCode::CommandNotFound,
            127,
        ),
    ] {
        let outcome = exec(request, b"some input");
        let error = outcome.status.unwrap_err();
        assert_eq!(error.exit_code(), exit, "{error:?}");
        assert!(
            matches!(&error, ExecError::Refused(refusal) if refusal.code == code),
            "{error:?}"
        );
    }
}

#[test]
fn a_script_without_an_interpreter_line_is_a_shells() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "echo from $1\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let outcome = exec(ExecRequest::new([script.to_str().unwrap(), "here"]), b"");
    assert_eq!(outcome.stdout, "from here\n");
}

#[test]
fn what_a_program_leaves_behind_does_not_hold_the_end_up() {
    let outcome = exec(sh("sleep 1000 & echo $!"), b"");
    assert_eq!(outcome.status.unwrap(), ExitStatus::Code(0));
    let pid = outcome.stdout.trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // Ours to clean up: it lives on, as after a login.
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_terminal_has_a_size_a_name_and_one_output() {
    let mut request = sh("stty size; echo $TERM; test -t 0 && test -t 1 && test -t 2 && echo tty");
    request.tty = Some(TtySize { rows: 33, cols: 77 });
    request.term = Some("vt100".to_owned());
    let outcome = exec(request, b"");
    assert_eq!(outcome.status.unwrap(), ExitStatus::Code(0));
    assert_eq!(outcome.stdout, "33 77\r\nvt100\r\ntty\r\n");
    assert_eq!(outcome.stderr, "");
}

#[test]
fn control_c_on_a_terminal_interrupts_the_foreground_only() {
    // The shell reads on after the interrupted sleep.
    let mut request = ExecRequest::new(["sh", "-i"]);
    request.tty = Some(TtySize { rows: 24, cols: 80 });
    request.env = vec![("PS1".to_owned(), "ready> ".to_owned())];
    let (_agent, stream) = Agent::start();
    let (stdin, mut keys) = std::io::pipe().unwrap();
    let (mut screen, stdout) = std::io::pipe().unwrap();
    let typist = thread::spawn(move || {
        let mut seen = String::new();
        let mut wait_for = |text: &str| {
            let mut byte = [0];
            while !seen.ends_with(text) {
                assert_eq!(screen.read(&mut byte).unwrap(), 1, "{seen:?}");
                seen.push(char::from(byte[0]));
            }
            seen.clear();
        };
        wait_for("ready> ");
        // It speaks when it is the foreground: an interrupt before that would be the shell's.
        keys.write_all(b"sh -c 'echo g''o; exec sleep 1000'\n")
            .unwrap();
        wait_for("go\r\n");
        keys.write_all(b"\x03").unwrap();
        wait_for("ready> ");
        keys.write_all(b"exit 5\n").unwrap();
        let mut rest = vec![];
        let _ = screen.read_to_end(&mut rest);
    });
    let io = ExecIo {
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stdout.as_fd(),
        tty: true,
    };
    let status = run(stream, request, io).unwrap();
    drop(stdout);
    typist.join().unwrap();
    assert_eq!(status, ExitStatus::Code(5));
}

/// Pseudo-random bytes of a given length, as a reader.
struct Noise {
    left: usize,
    state: u64,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.left);
        for byte in &mut buffer[..count] {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            *byte = self.state as u8;
        }
        self.left -= count;
        Ok(count)
    }
}

fn digest(mut from: impl Read) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => return format!("{:x}", hash.finalize()),
            count => hash.update(&buffer[..count]),
        }
    }
}

#[test]
fn much_data_in_both_directions_at_once_arrives_whole() {
    const SIZE: usize = 64 << 20;
    let noise = || Noise {
        left: SIZE,
        state: 42,
    };
    let (_agent, stream) = Agent::start();
    let (stdin, mut write) = std::io::pipe().unwrap();
    let (stdout_read, stdout) = std::io::pipe().unwrap();
    let feeder = thread::spawn(move || std::io::copy(&mut noise(), &mut write).unwrap());
    let reader = thread::spawn(move || digest(stdout_read));
    let null = File::options().write(true).open("/dev/null").unwrap();
    let io = ExecIo {
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: null.as_fd(),
        tty: false,
    };
    let status = run(stream, ExecRequest::new(["cat"]), io).unwrap();
    drop(stdout);
    assert!(status.success());
    assert_eq!(feeder.join().unwrap(), SIZE as u64);
    assert_eq!(reader.join().unwrap(), digest(noise()));
}

#[test]
fn an_output_that_nobody_takes_holds_up_neither_the_other_nor_the_input() {
    // Standard output stalls soon; input goes in, and its digest comes out of standard error. On a busy
    // machine `yes` may be ended before it ran: one line stands in any case.
    const SIZE: usize = 16 << 20;
    let script = "echo stalled; { yes stalled & } ; sha256sum >&2; kill %1; exit 3";
    let (_agent, stream) = Agent::start();
    let (stdin, mut write) = std::io::pipe().unwrap();
    let (stalled, stdout) = std::io::pipe().unwrap();
    let (stderr_read, stderr) = std::io::pipe().unwrap();
    let feeder = thread::spawn(move || {
        let mut noise = Noise {
            left: SIZE,
            state: 7,
        };
        std::io::copy(&mut noise, &mut write).unwrap();
    });
    let reader = thread::spawn(move || {
        let mut text = String::new();
        let mut lines = std::io::BufReader::new(stderr_read);
        std::io::BufRead::read_line(&mut lines, &mut text).unwrap();
        // Only now is standard output taken. Standard error stays open: the shell may still say that
        // its job was ended.
        (text, drain(stalled), lines)
    });
    let io = ExecIo {
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        tty: false,
    };
    let mut request = ExecRequest::new(["sh", "-c"]);
    // `yes` in the background reads no input; the shell's own is sha256sum's.
    request.argv.push(script.to_owned());
    let status = run(stream, request, io).unwrap();
    drop((stdout, stderr));
    feeder.join().unwrap();
    let (text, stalled, _open) = reader.join().unwrap();
    let expected = digest(Noise {
        left: SIZE,
        state: 7,
    });
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(status, ExitStatus::Code(3));
    assert!(!stalled.join().unwrap().is_empty());
}

#[test]
fn a_reader_that_goes_away_ends_an_endless_writer() {
    let (_agent, stream) = Agent::start();
    let (mut read, stdout) = std::io::pipe().unwrap();
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let reader = thread::spawn(move || {
        let mut head = [0; 2];
        read.read_exact(&mut head).unwrap();
        head
    });
    let io = ExecIo {
        stdin: null.as_fd(),
        stdout: stdout.as_fd(),
        stderr: null.as_fd(),
        tty: false,
    };
    let status = run(stream, ExecRequest::new(["yes"]), io).unwrap();
    assert_eq!(reader.join().unwrap(), *b"y\n");
    assert_eq!(status, ExitStatus::Signal(13));
}

#[test]
fn a_client_that_vanishes_takes_its_program_along() {
    let (mut agent, mut stream) = Agent::start();
    let mut hello = vec![];
    use banger_guest_proto::{ClientMessage, Hello, encode_control};
    encode_control(&mut hello, &ClientMessage::Hello(Hello::ours()));
    let request = sh("trap 'kill $!; exit 0' HUP; sleep 1000 & echo up; wait");
    encode_control(&mut hello, &ClientMessage::Exec(request));
    stream.write_all(&hello).unwrap();
    // Up when its output comes.
    let mut seen = vec![];
    while !seen.ends_with(b"up\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        seen.push(byte[0]);
    }
    drop(stream);
    // The agent ends when the program has been reaped.
    assert!(agent.0.wait().unwrap().success());
}

#[test]
fn the_program_says_its_version_and_nothing_else_by_itself() {
    let agent = || Command::new(env!("CARGO_BIN_EXE_banger-vsock-agent"));
    let output = agent().arg("--version").output().unwrap();
    assert!(output.stdout.starts_with(b"banger-vsock-agent "));
    let status = agent().stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

/// What a bridge came to, and what it left of its caller's input. The input stays open when `held`.
fn bridged(
    request: ExecRequest,
    input: &[u8],
    held: bool,
) -> (Result<ExitStatus, ExecError>, Vec<u8>) {
    let (_agent, stream) = Agent::start();
    let (mut stdin, mut caller) = std::io::pipe().unwrap();
    let (stdout_read, stdout) = std::io::pipe().unwrap();
    caller.write_all(input).unwrap();
    let caller = held.then_some(caller);
    let reader = drain(stdout_read);
    let io = ExecIo {
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stdout.as_fd(),
        tty: false,
    };
    let status = bridge(stream, request, io, Duration::from_millis(300));
    drop((stdout, caller));
    reader.join().unwrap();
    let mut left = vec![];
    stdin.read_to_end(&mut left).unwrap();
    (status, left)
}

#[test]
fn a_bridge_takes_no_input_for_a_program_that_says_nothing() {
    let (status, left) = bridged(sh("cat >/dev/null & exit 3"), b"SSH-2.0-x\r\n", true);
    assert_eq!(status.unwrap(), ExitStatus::Code(3));
    assert_eq!(left, b"SSH-2.0-x\r\n");
    let nowhere = ExecRequest::new(["/no/such/program"]);
    let (status, left) = bridged(nowhere, b"SSH-2.0-x\r\n", true);
    assert_eq!(status.unwrap_err().exit_code(), 127);
    assert_eq!(left, b"SSH-2.0-x\r\n");
    let (status, left) = bridged(sh("echo hello; read line; exit 4"), b"line\n", true);
    assert_eq!(status.unwrap(), ExitStatus::Code(4));
    assert!(left.is_empty());
}

#[test]
fn a_bridge_ends_soon_after_its_caller_whatever_the_program_does() {
    let (status, _) = bridged(sh("echo hello; exec cat >/dev/null"), b"x", false);
    assert_eq!(status.unwrap(), ExitStatus::Code(0));
    for script in ["echo hello; exec sleep 1000", "exec sleep 1000"] {
        let (status, _) = bridged(sh(script), b"", false);
        assert!(
            matches!(status, Err(ExecError::Overdue)),
            "{script}: {status:?}"
        );
    }
}
