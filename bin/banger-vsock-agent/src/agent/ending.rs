//! How the guest comes to its end, and the agent with it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest_proto::{InitKind, ShutdownVerb};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::cgroup;
use super::ready::FOLDER;
use super::state::State;
use crate::pid1;

/// A unit whose end comes before anything is unmounted, also when the shutdown was begun in the guest:
/// clients' programs are no units, and systemd alone would end them after its mounts' (bootup(7),
/// "Shutdown"). There is nothing to start: it only has to be active (systemd.service(5), `Type=oneshot`).
pub(crate) const PROGRAMS_UNIT: &str = "\
[Unit]
Description=Programs started through banger
DefaultDependencies=no
After=local-fs.target
Conflicts=shutdown.target
Before=shutdown.target
RefuseManualStart=yes
RefuseManualStop=yes

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=/run/banger/agent end-programs
TimeoutStopSec=10
";

/// What makes the agent end its clients' programs.
pub(super) const END_PROGRAMS: i32 = libc::SIGUSR1;

/// Where the agent's process id is, for [`end_programs`].
const PID: &str = "/run/banger/agent.pid";

/// How long [`end_programs`] waits for what the agent does.
const LONGEST: Duration = Duration::from_secs(3);

/// What systemd-shutdown executes when all is unmounted (bootup(7)).
const LAST_PROGRAM: &str = "/run/initramfs/shutdown";

/// How long programs have to end by themselves.
const GRACE: Duration = Duration::from_millis(500);
/// How long process 1 has to come so far that it takes a signal.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Puts this program where systemd, the kernel and the ready unit will look for it.
pub(super) fn install_last_program() -> io::Result<()> {
    fs::create_dir_all(FOLDER)?;
    fs::create_dir_all("/run/initramfs")?;
    let agent = Path::new(FOLDER).join("agent");
    let temporary = Path::new(FOLDER).join(".agent");
    // The initramfs' copy is unlinked by now; the kernel still has its content.
    fs::copy("/proc/self/exe", &temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    fs::rename(&temporary, &agent)?;
    fs::write(PID, rustix::process::getpid().to_string())?;
    for link in [LAST_PROGRAM, "/run/banger/modprobe"] {
        match fs::hard_link(&agent, link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// `end-programs`: has the agent end its clients' programs, and waits for that.
pub(crate) fn end_programs() -> ExitCode {
    let text = fs::read_to_string(PID).unwrap_or_default();
    let agent = text.parse().ok().and_then(Pid::from_raw);
    let Some(agent) = agent.filter(|pid| is_named(*pid, super::NAME.to_bytes())) else {
        // It has ended, and its last deed is to end them.
        return ExitCode::SUCCESS;
    };
    crate::sys::kill_raw(agent, END_PROGRAMS);
    let deadline = Instant::now() + LONGEST;
    loop {
        let left = ours(agent);
        if left.is_empty() {
            return ExitCode::SUCCESS;
        }
        let time = deadline.saturating_duration_since(Instant::now());
        if time.is_zero() {
            return ExitCode::FAILURE;
        }
        wait_for_one(&left, time);
    }
}

/// Waits until one of them has ended.
fn wait_for_one(pids: &[Pid], longest: Duration) {
    let handles = pids.iter().map(|pid| pidfd_open(*pid, PidfdFlags::empty()));
    // One that cannot be opened has ended.
    let Ok(handles) = handles.collect::<Result<Vec<_>, _>>() else {
        return;
    };
    let ends = handles.iter().map(|it| PollFd::new(it, PollFlags::IN));
    let longest = Timespec::try_from(longest).ok();
    let _ = rustix::event::poll(&mut ends.collect::<Vec<_>>(), longest.as_ref());
}

/// Whether a process has that name (proc_pid_comm(5)).
fn is_named(pid: Pid, name: &[u8]) -> bool {
    fs::read(format!("/proc/{}/comm", pid.as_raw_nonzero()))
        .is_ok_and(|it| it.trim_ascii_end() == name)
}

/// Ends what clients have started, beside whatever else happens.
pub(super) fn end_all_beside(state: &Arc<State>) {
    let shared = Arc::clone(state);
    let started = std::thread::Builder::new()
        .name("end-programs".to_owned())
        .spawn(move || end_all(&shared));
    if let Err(error) = started {
        state.problem(format!("failed to end programs: {error}"));
    }
}

/// Begins the guest's end; the rest happens behind the answer.
pub(super) fn begin(state: &Arc<State>, verb: ShutdownVerb) -> Result<(), String> {
    let shared = Arc::clone(state);
    std::thread::Builder::new()
        .name("shutdown".to_owned())
        .spawn(move || {
            tell_init(&shared, verb);
            // Beside what init does meanwhile: what runs under /root keeps it from being unmounted.
            end_all(&shared);
        })
        .map(drop)
        .map_err(|error| format!("failed to begin the shutdown: {error}"))
}

fn tell_init(state: &State, verb: ShutdownVerb) {
    let number = match verb {
        ShutdownVerb::Poweroff => pid1::POWEROFF,
        ShutdownVerb::Reboot => pid1::REBOOT,
    };
    match state.init() {
        InitKind::Banger | InitKind::Systemd => {
            // Until process 1 has blocked or caught the signal, the kernel drops it.
            wait_until(state, || process_one_takes(number));
            send_to_process_one(number);
        }
        InitKind::OpenRc | InitKind::Other => {
            wait_until(state, || !is_early_runit());
            let program = format!("/sbin/{}", verb.as_str());
            let _ = Command::new(program).stdin(Stdio::null()).status();
        }
    }
}

/// Waits until process 1 is so, for as long as there is patience.
fn wait_until(state: &State, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() && Instant::now() < deadline {
        state.pause(LOOK);
    }
}

/// Whether process 1 is a runit that has not come to `runsvdir`, the program of its second stage (runit(8)): before
/// that stage it loses what it is told (its own words: "signals only work in stage 2").
fn is_early_runit() -> bool {
    is_named(Pid::INIT, b"runit") && !pids().any(|pid| is_named(pid, b"runsvdir"))
}

fn send_to_process_one(number: i32) {
    crate::sys::kill_raw(Pid::INIT, number);
}

/// Whether process 1 catches the signal or holds it back to read it (proc_pid_status(5)).
fn process_one_takes(number: i32) -> bool {
    let status = fs::read_to_string("/proc/1/status").unwrap_or_default();
    takes(&status, number)
}

fn takes(status: &str, number: i32) -> bool {
    let Some(bit) = number
        .checked_sub(1)
        .and_then(|n| 1_u64.checked_shl(n.unsigned_abs()))
    else {
        return false;
    };
    status.lines().any(|line| {
        let mask = line
            .strip_prefix("SigBlk:")
            .or_else(|| line.strip_prefix("SigCgt:"));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & bit != 0)
    })
}

/// Ends every program that clients started, and what they left behind. systemd-shutdown has sent
/// SIGTERM to all of them and waits, up to 90 s, for whoever ignores it: an interactive shell does.
pub(super) fn end_all(state: &State) {
    state.begin_end();
    for signal in [Signal::HUP, Signal::TERM, Signal::CONT] {
        kill_ours(signal);
    }
    if !state.wait_for_sessions(GRACE) || !ours(rustix::process::getpid()).is_empty() {
        kill_ours(Signal::KILL);
        state.wait_for_sessions(GRACE);
    }
}

fn kill_ours(signal: Signal) {
    for pid in ours(rustix::process::getpid()) {
        let _ = kill_process(pid, signal);
    }
}

/// Every process there is.
fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(Pid::from_raw)
}

/// Every process that descends from a client's program of that agent, told by its control group.
fn ours(agent: Pid) -> Vec<Pid> {
    pids()
        .filter(|pid| *pid != agent && *pid != Pid::INIT)
        .filter(|pid| {
            let folder = format!("/proc/{}", pid.as_raw_nonzero());
            // A kernel thread has no program.
            fs::read_link(format!("{folder}/exe")).is_ok()
                && fs::read_to_string(format!("{folder}/cgroup"))
                    .is_ok_and(|it| cgroup::is_ours(&it))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::takes;

    #[test]
    fn blocked_and_caught_signals_are_taken() {
        let status = "Name:\tx\nSigBlk:\t0000006000000000\nSigCgt:\t0000000000000002\n";
        assert!(takes(status, 38));
        assert!(takes(status, 39));
        assert!(takes(status, 2));
        assert!(!takes(status, 15));
        assert!(!takes("", 38));
    }
}
