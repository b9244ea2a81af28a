//! From a request to a running program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use banger_guest_proto::{AgentError, AgentErrorCode, AgentMessage, ExecRequest, SessionSpec};
use banger_login::{Terminal, User};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::connection::error;
use super::environment;
use super::state::State;
use super::{cgroup, lookup, ready};
use crate::sys::{Spawn, Streams};

/// Pipes to and from programs hold this much, in bytes: each turn of the loop then moves more.
const PIPE_SIZE: usize = 256 << 10;

/// A running program and the agent's ends of its streams.
pub(super) struct Program {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Standard input and output are both ends of this terminal.
    pub(super) terminal: Option<OwnedFd>,
}

fn refusal(code: AgentErrorCode, message: String) -> Box<AgentMessage> {
    Box::new(error(code, message))
}

fn failed(what: &str, error: &io::Error) -> Box<AgentMessage> {
    refusal(AgentErrorCode::ExecFailed, format!("{what}: {error}"))
}

/// Whether all is there that a session needs: its directory, its program, and the commands that it
/// requires. Gives the directory.
pub(super) fn check(spec: &SessionSpec, state: &State) -> Result<String, Box<AgentMessage>> {
    let request = ExecRequest {
        env: spec.env.clone(),
        cwd: spec.cwd.clone(),
        ..ExecRequest::default()
    };
    let Some(user) = User::find(None) else {
        let what = "there is no root in the guest".to_owned();
        return Err(refusal(AgentErrorCode::Internal, what));
    };
    let variables = environment::variables(&user, &state.environment().current(), &request);
    let search = variables.iter().find(|(name, _)| name == "PATH");
    let search = search.map_or("", |(_, value)| value.as_str());
    let cwd = environment::working_directory(&user, &request);
    if !cwd.starts_with('/') {
        let what = format!("`{cwd}` is no absolute path");
        return Err(refusal(AgentErrorCode::BadRequest, what));
    }
    if !Path::new(&cwd).is_dir() {
        let what = format!("there is no directory `{cwd}` in the guest");
        return Err(refusal(AgentErrorCode::ExecFailed, what));
    }
    for name in spec.argv.iter().take(1).chain(&spec.require) {
        lookup::find(name, search, &cwd).map_err(|(code, what)| refusal(code, what))?;
    }
    Ok(cwd)
}

/// Starts the program, or says why not.
pub(super) fn start(request: &ExecRequest, state: &State) -> Result<Program, Box<AgentMessage>> {
    start_in(request, state, None)
}

/// The same in a control group, given as the file by which one enters.
pub(super) fn start_in(
    request: &ExecRequest,
    state: &State,
    door: Option<&Path>,
) -> Result<Program, Box<AgentMessage>> {
    let user = User::find(request.user.as_deref()).ok_or_else(|| {
        let name = request.user.as_deref().unwrap_or("root");
        let what = format!("there is no user `{name}` in the guest");
        refusal(AgentErrorCode::BadRequest, what)
    })?;
    let variables = environment::variables(&user, &state.environment().current(), request);
    let search = variables.iter().find(|(name, _)| name == "PATH");
    let search = search.map_or("", |(_, value)| value.as_str());
    let cwd = environment::working_directory(&user, request);
    if !Path::new(&cwd).is_dir() {
        let what = format!("there is no directory `{cwd}` in the guest");
        return Err(refusal(AgentErrorCode::ExecFailed, what));
    }
    // Without a command: the login shell, which a leading hyphen tells that it is one.
    let (name, mut argv) = match request.argv.first() {
        Some(name) => (name.clone(), request.argv.clone()),
        None => {
            let base = user.shell.rsplit('/').next().unwrap_or("sh");
            (user.shell.clone(), vec![format!("-{base}")])
        }
    };
    let program = lookup::find(&name, search, &cwd).map_err(|(code, what)| refusal(code, what))?;
    ready::wait_for_services(&name, state).map_err(|what| {
        Box::new(AgentMessage::Error(AgentError {
            code: AgentErrorCode::StillBooting,
            message: what,
            hint: Some("wait until the VM is ready: `--wait ready`".to_owned()),
        }))
    })?;
    cgroup::enter();
    let mut program = program.to_string_lossy().into_owned();
    if user.uid != 0 {
        let mut wrapped = vec!["as-user".to_owned(), "as-user".to_owned()];
        wrapped.extend([user.name.clone(), program]);
        wrapped.append(&mut argv);
        argv = wrapped;
        program = "/proc/self/exe".to_owned();
    }
    if let Some(door) = door {
        let door = door.to_string_lossy().into_owned();
        let mut wrapped = vec!["in-group".to_owned(), "in-group".to_owned(), door, program];
        wrapped.append(&mut argv);
        argv = wrapped;
        program = "/proc/self/exe".to_owned();
    }
    let env = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let plan = Plan {
        program: c_string(program)?,
        argv: c_strings(argv)?,
        env: c_strings(env)?,
        cwd: c_string(cwd)?,
    };
    match &request.tty {
        Some(size) => {
            let terminal =
                Terminal::open(*size).map_err(|e| failed("failed to open a terminal", &e))?;
            let streams = Streams::Terminal(terminal.path.clone());
            let (pid, pidfd) = plan.spawn(streams, state)?;
            let copy = |fd: &OwnedFd| fd.try_clone().ok();
            Ok(Program {
                pid,
                pidfd,
                stdin: copy(&terminal.master),
                stdout: copy(&terminal.master),
                stderr: None,
                terminal: Some(terminal.master),
            })
        }
        None => with_pipes(plan, request, state),
    }
}

fn with_pipes(
    plan: Plan,
    request: &ExecRequest,
    state: &State,
) -> Result<Program, Box<AgentMessage>> {
    let pipe = || {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Only a wish: the user's share of pipe memory may be used up.
        let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
        Ok::<_, io::Error>((read, write))
    };
    let pipe = || pipe().map_err(|e| failed("failed to make a pipe", &e));
    let (stdin, stdin_write) = if request.no_stdin {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty());
        (
            null.map_err(|e| failed("failed to open /dev/null", &e.into()))?,
            None,
        )
    } else {
        let (read, write) = pipe()?;
        (read, Some(write))
    };
    let (stdout_read, stdout) = pipe()?;
    let (stderr_read, stderr) = pipe()?;
    let streams = Streams::Pipes([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    let (pid, pidfd) = plan.spawn(streams, state)?;
    Ok(Program {
        pid,
        pidfd,
        stdin: stdin_write,
        stdout: Some(stdout_read),
        stderr: Some(stderr_read),
        terminal: None,
    })
}

struct Plan {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
}

impl Plan {
    fn spawn(
        self,
        streams: Streams<'_>,
        state: &State,
    ) -> Result<(Pid, OwnedFd), Box<AgentMessage>> {
        let mut spawn = Spawn {
            program: self.program,
            argv: self.argv,
            env: self.env,
            cwd: self.cwd,
            streams,
        };
        let started = state.start_session(|| match spawn.start() {
            // A script without `#!`: a shell's, as execvp(3) has it.
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                let script = std::mem::replace(&mut spawn.program, c"/bin/sh".to_owned());
                if !spawn.argv.is_empty() {
                    spawn.argv[0] = script;
                }
                spawn.argv.insert(0, c"sh".to_owned());
                spawn.start()
            }
            result => result,
        });
        let what = format!("failed to start `{}`", spawn.program.to_string_lossy());
        let Some(started) = started else {
            let what = "the guest is going down".to_owned();
            return Err(refusal(AgentErrorCode::ShuttingDown, what));
        };
        let pid = started.map_err(|error| match error.raw_os_error() {
            // The file is there (it was looked up): what its first line names is not.
            Some(libc::ENOENT) => {
                let what = format!("{what}: its interpreter is not there");
                refusal(AgentErrorCode::CommandNotFound, what)
            }
            Some(libc::EACCES) => {
                refusal(AgentErrorCode::NotExecutable, format!("{what}: {error}"))
            }
            _ => failed(&what, &error),
        })?;
        // It cannot have been reaped: only its session's thread does that, and has not yet.
        let pidfd = pidfd_open(pid, PidfdFlags::empty());
        let pidfd = pidfd.map_err(|e| failed("failed to watch the program", &e.into()))?;
        Ok((pid, pidfd))
    }
}

fn c_string(text: impl Into<Vec<u8>>) -> Result<CString, Box<AgentMessage>> {
    CString::new(text).map_err(|_| {
        let what = "a zero byte cannot stand in an argument or a variable".to_owned();
        refusal(AgentErrorCode::BadRequest, what)
    })
}

fn c_strings(texts: impl IntoIterator<Item = String>) -> Result<Vec<CString>, Box<AgentMessage>> {
    texts.into_iter().map(c_string).collect()
}
