//! What readiness is made of, and programs that need it.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use banger_guest_proto::{InitKind, Readiness};

use super::state::State;

/// A unit that systemd starts when the image's services are up: an event, where asking `systemctl`
/// again and again would slow the boot down. Without default dependencies a target does not wait for
/// what it wants (systemd.target(5)), so the unit can come after its own target.
pub(crate) const READY_UNIT: &str = "\
[Unit]
Description=Tell banger that the guest is ready
DefaultDependencies=no
After=multi-user.target ssh.service sshd.service ssh.socket sshd.socket
RefuseManualStart=yes

[Service]
Type=oneshot
ExecStart=/run/banger/agent mark-ready
";

/// The agent's folder in the guest's `/run`.
pub(super) const FOLDER: &str = "/run/banger";

/// Exists once the unit has run.
pub(super) const MARK: &str = "/run/banger/ready";

/// `mark-ready`: leaves the mark.
pub(crate) fn mark_ready() -> ExitCode {
    match std::fs::write(MARK, b"") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// systemd's own socket: it answers as soon as the manager takes requests, also while it boots.
const SYSTEMD: &str = "/run/systemd/private";

/// What a program needs that an early client may start before it is there.
const SERVICES: [(&str, &str); 5] = [
    ("systemctl", SYSTEMD),
    ("service", SYSTEMD),
    ("systemd-run", SYSTEMD),
    ("docker", "/run/docker.sock"),
    ("docker-compose", "/run/docker.sock"),
];

/// How long an early program waits for its service.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the service is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Holds an early `systemctl` or `docker` until what it talks to listens; everything else starts at
/// once.
///
/// # Errors
/// A sentence, when the service does not come.
pub(super) fn wait_for_services(program: &str, state: &State) -> Result<(), String> {
    let base = program.rsplit('/').next().unwrap_or(program);
    let Some((_, socket)) = SERVICES.into_iter().find(|(name, _)| *name == base) else {
        return Ok(());
    };
    if state.init() != InitKind::Systemd {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    // A ready guest whose service is not there gets the program's own error.
    while state.readiness() < Readiness::Ready && !answers(socket) {
        if Instant::now() >= deadline {
            return Err(format!(
                "the guest is still booting: the service that `{base}` talks to is not up yet"
            ));
        }
        state.wait(Readiness::Ready, LOOK);
    }
    Ok(())
}

fn answers(socket: &str) -> bool {
    if socket == SYSTEMD {
        return UnixStream::connect(socket).is_ok();
    }
    // A connection would start the daemon behind it; that it listens is enough.
    Path::new(socket).exists()
}
