//! Waits for the guest to become ready, in the agent's own loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use banger_guest_proto::InitKind;
use rustix::event::Timespec;
use rustix::fs::inotify;

use super::ready::{FOLDER, MARK};
use super::state::State;
use crate::boot;
use crate::root::Root;

/// How often to look for a service's listener, once the rest is there: the kernel has no event for
/// it. Nothing on the way of `run -- CMD` waits for it.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// The same, once it is late: somebody may still start it by hand.
const LOOK_RARELY: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// How long services may take after everything else.
const PATIENCE: Duration = Duration::from_secs(10);

/// A service that the image promises.
#[derive(Debug)]
struct Promise {
    what: &'static str,
    port: u16,
}

/// What is still missing.
#[derive(Debug)]
pub(super) struct ReadyWatcher {
    marks: Option<OwnedFd>,
    needs_mark: bool,
    promises: Vec<Promise>,
    /// Since when only services are missing.
    alone: Option<Instant>,
    reported: bool,
}

impl ReadyWatcher {
    /// Starts to watch for what the image promises. One that promises nothing is ready at the first
    /// check.
    pub(super) fn prepare(state: &State) -> Self {
        let promises = match Root::open("/") {
            Ok(root) => promises(&root, state.init()),
            Err(_) => vec![],
        };
        let _ = std::fs::create_dir(FOLDER);
        let marks = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        let marks = marks
            .ok()
            .filter(|fd| inotify::add_watch(fd, FOLDER, inotify::WatchFlags::CREATE).is_ok());
        Self {
            marks,
            needs_mark: state.init() == InitKind::Systemd,
            promises,
            alone: None,
            reported: false,
        }
    }

    /// Readable when something has changed.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.marks
            .as_ref()
            .filter(|_| self.needs_mark)
            .map(AsFd::as_fd)
    }

    /// How long to wait for the next check, when nothing says that one is due.
    pub(super) fn interval(&self) -> Option<Timespec> {
        match (self.needs_mark, &self.marks) {
            (true, Some(_)) => None,
            (false, _) if self.promises.is_empty() => Some(Timespec::default()),
            _ if self.reported => Some(LOOK_RARELY),
            _ => Some(LOOK),
        }
    }

    /// Whether the guest is ready now. A service that does not come is told as a problem: the guest is
    /// not ready then, and a client that gives up waiting can say why.
    pub(super) fn check(&mut self, state: &State) -> bool {
        if let Some(marks) = &self.marks {
            let mut events = [0; 1024];
            while rustix::io::read(marks, &mut events).is_ok_and(|count| count > 0) {}
        }
        self.needs_mark = self.needs_mark && !Path::new(MARK).exists();
        if self.needs_mark {
            return false;
        }
        self.promises.retain(|promise| !listens(promise.port));
        let since = *self.alone.get_or_insert_with(Instant::now);
        if !self.promises.is_empty() && !self.reported && since.elapsed() > PATIENCE {
            self.reported = true;
            for Promise { what, .. } in &self.promises {
                state.problem(format!("{what} has not come up"));
            }
        }
        self.promises.is_empty()
    }
}

/// The services that an image with that init starts at boot.
fn promises(root: &Root, init: InitKind) -> Vec<Promise> {
    let mut promises = vec![];
    if init != InitKind::Banger && boot::has_sshd(root) {
        let what = "the image's ssh server";
        promises.push(Promise { what, port: 22 });
    }
    if init == InitKind::Systemd && boot::opencode::is_served(root) {
        let (what, port) = ("the image's opencode server", boot::opencode::PORT);
        promises.push(Promise { what, port });
    }
    promises
}

/// Whether something listens on that TCP port, on any address (proc_pid_net(5)).
fn listens(port: u16) -> bool {
    let table = |path| std::fs::read_to_string(path).unwrap_or_default();
    has_listener(&table("/proc/net/tcp"), port) || has_listener(&table("/proc/net/tcp6"), port)
}

fn has_listener(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        // State 0A is TCP_LISTEN.
        local.ends_with(&port) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::has_listener;

    #[test]
    fn only_listeners_on_that_port_count() {
        let table = "  sl  local_address rem_address   st\n\
             0: 00000000:0016 00000000:0000 0A 0\n\
             1: 0100007F:1F90 00000000:0000 0A 0\n\
             2: 0100007F:0019 0100007F:9C40 01 0\n";
        assert!(has_listener(table, 22));
        assert!(has_listener(table, 8080));
        assert!(!has_listener(table, 25));
        assert!(!has_listener("", 22));
    }
}
