//! Process 1 from the kernel's hand to the image's init. In order: modules, drives, root, identity,
//! network, what would fight them, the agent's listener; then the agent is forked and this process
//! becomes the image's init. Nothing here waits for the host: a daemon that died during a boot
//! strands nobody.

mod drives;
mod file_sync;
mod files;
mod fstab;
mod identity;
mod init;
mod modules;
mod mounts;
mod network;
pub(crate) mod opencode;
mod overrides;
mod report;
mod slow;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use banger_guest_proto::{AGENT_PORT, BOOT_FAILED, GuestConfig, InitKind};

pub(crate) use files::has_sshd;
use report::{BootError, Report};
use slow::{Place, Slow};

use crate::root::Root;
use crate::{agent, console, farewell, pid1, sys};

/// Where the image's root is mounted before it becomes `/`.
const NEW_ROOT: &str = "/newroot";

/// What the agent gets to know of the boot.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The identity that was applied.
    pub(crate) config: GuestConfig,
    /// Who will run the guest.
    pub(crate) init: InitKind,
    /// What went wrong without being fatal.
    pub(crate) problems: Vec<String>,
}

/// Boots. Returns only when that failed, or when this process stayed and the guest's end failed.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let chain =
                std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
            let text: Vec<String> = chain.map(ToString::to_string).collect();
            // On the console without a farewell: the host shows it with the failed VM.
            console::say_and_drain(&format!("{BOOT_FAILED}{}", text.join(": ")));
            farewell::reset()
        }
    }
}

fn run() -> Result<ExitCode, BootError> {
    let mut report = Report::default();
    mounts::kernel_file_systems().map_err(|e| BootError::step("mount /proc, /sys and /dev", e))?;
    let (place, beside_place) = (Place::default(), Place::default());
    let slow = Slow::watch(vec![place.clone(), beside_place.clone()])
        .map_err(|e| BootError::step("start a thread", e))?;
    let beside = Beside::start(beside_place).map_err(|e| BootError::step("start a thread", e))?;
    place.at("find the drives");
    let drives = drives::find(&beside.loaded)?;
    place.at("read the config drive");
    let (config, files_at) = drives::read_config(&drives.config)?;
    beside.give(Task::Network(Box::new(config.clone())));
    place.step("mount the root disk", || {
        mounts::root(&drives.root, NEW_ROOT)
    })?;
    let root = place.step("open the root", || Root::open(NEW_ROOT))?;
    if let Some(node) = drives.modules.clone() {
        beside.give(Task::Modules(node));
    }
    place.step("mount /run", || mounts::run(&root))?;
    place.at("mount the work disk");
    report.note("mount the work disk", mounts::work(&root, &drives));
    place.at("apply identity and files");
    identity::apply(&root, &config, &mut report);
    file_sync::apply(&root, &drives.config, files_at, &mut report);
    place.at("prepare the image's root");
    let kind = init::detect(&root);
    let image_init = kind.map(|found| found.kind);
    mounts::prepare_tmp(&root, image_init, &mut report);
    overrides::write(&root, &config, &mut report);
    if kind.is_some() {
        report.note("shorten fstab", fstab::shorten(&root));
    }
    report.note("mount what programs expect", mounts::for_programs(&root));
    report.note(
        "point the kernel at modprobe",
        modules::offer_modprobe(&root),
    );
    let signals = match kind {
        None => Some(pid1::watch().map_err(|e| BootError::step("watch signals", e))?),
        Some(_) => None,
    };
    if kind.is_none() {
        report.note("mount cgroups", mounts::cgroups(&root));
    }
    place.at("wait for modules and network");
    report.merge(beside.finish());
    let listener = place.step("listen on vsock", || sys::vsock_listen(AGENT_PORT))?;
    drop(root);
    place.step("enter the image's root", || mounts::switch_root(NEW_ROOT))?;
    raise_limits(&mut report);
    // The last thread but this one ends here: the fork below needs that.
    slow.done();
    let booted = Booted {
        config,
        init: image_init.unwrap_or(InitKind::Banger),
        problems: report.into_problems(),
    };
    if sys::fork()
        .map_err(|e| BootError::step("fork the agent", e))?
        .is_none()
    {
        return Ok(agent::main(listener, booted));
    }
    drop(listener);
    Ok(match (kind, signals) {
        (Some(found), _) => become_init(found.path),
        (None, Some(signals)) => stay(&signals),
        (None, None) => ExitCode::FAILURE,
    })
}

/// What runs beside the mounting, on the second processor where there is one: the rest of the
/// modules (those of the drives come first in the list), then what it is given.
struct Beside {
    loaded: Arc<AtomicBool>,
    tasks: mpsc::Sender<Task>,
    thread: JoinHandle<Report>,
}

/// Something that only has to be done before the image's init runs.
enum Task {
    /// Set up the network.
    Network(Box<GuestConfig>),
    /// Mount the modules drive, this device, in the root.
    Modules(PathBuf),
}

impl Beside {
    fn start(place: Place) -> std::io::Result<Self> {
        let loaded = Arc::new(AtomicBool::new(false));
        let (tasks, given) = mpsc::channel::<Task>();
        let done = Arc::clone(&loaded);
        let thread = std::thread::Builder::new().spawn(move || {
            let mut report = Report::default();
            place.at("load modules");
            modules::load_in_order("/banger/modules.order", &mut report);
            done.store(true, Ordering::Release);
            place.at("nothing");
            for task in given {
                place.at(task.title());
                task.run(&mut report);
                place.at("nothing");
            }
            report
        })?;
        Ok(Self {
            loaded,
            tasks,
            thread,
        })
    }

    fn give(&self, task: Task) {
        // It only fails when the thread has panicked, and then the process has aborted.
        let _ = self.tasks.send(task);
    }

    fn finish(self) -> Report {
        drop(self.tasks);
        self.thread.join().unwrap_or_default()
    }
}

impl Task {
    const fn title(&self) -> &'static str {
        match self {
            Self::Network(_) => "set up the network",
            Self::Modules(_) => "mount the kernel's modules",
        }
    }

    fn run(self, report: &mut Report) {
        let title = self.title();
        let done = match self {
            Self::Network(config) => network::set_up(&config),
            Self::Modules(node) => {
                Root::open(NEW_ROOT).and_then(|root| mounts::modules(&root, &node))
            }
        };
        report.note(title, done);
    }
}

fn stay(signals: &OwnedFd) -> ExitCode {
    pid1::stay(signals)
}

/// Replaces this program by the image's init, with the environment that the kernel gives one.
fn become_init(path: &str) -> ExitCode {
    let text = |s: &str| CString::new(s).unwrap_or_default();
    let env = [
        text("HOME=/"),
        text("TERM=linux"),
        text("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ];
    let error = sys::exec(&text(path), &[text(path)], &env);
    console::say_and_drain(&format!("{BOOT_FAILED}execute {path}: {error}"));
    farewell::reset()
}

/// What programs in the guest find: the usual soft limit, and systemd's hard limit.
fn raise_limits(report: &mut Report) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let files = Rlimit {
        current: Some(1024),
        maximum: Some(524_288),
    };
    report.note(
        "set limits",
        setrlimit(Resource::Nofile, files).map_err(Into::into),
    );
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}
