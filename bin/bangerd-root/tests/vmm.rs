//! Real VMMs: launched, found again, ended, and nothing left.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use banger_core::MemoryMib;
use banger_root_proto::{
    Accel, CacheMode, Client, DriveFormat, DriveRole, DriveSpec, LaunchSpec, ProcessIdentity,
    ProcessState, RefusalCode, Reply, Request, VmmSignal, VmmSpec,
};
use common::{World, call, code, ok, skipped, tiny_kernel, vm, wait_for};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

const OWNER: u32 = 4242;

struct Vm {
    path: PathBuf,
    owner: u32,
    folder: File,
    fds: Vec<File>,
}

impl Vm {
    fn new(world: &World, name: &str, kernel: &[u8]) -> Self {
        Self::at(world, world.folder(name), kernel)
    }

    /// The same in a folder that may not be there yet.
    fn at(world: &World, path: PathBuf, kernel: &[u8]) -> Self {
        if !path.exists() {
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(world.owner), Some(world.owner)).unwrap();
        }
        let fds = vec![
            world.file(&path.join("vmlinux"), kernel, 0o644),
            world.file(&path.join("initramfs"), b"none", 0o644),
            world.file(&path.join("disk"), &[0; 4096], 0o644),
            world.file(&path.join("config.img"), &[0; 4096], 0o600),
        ];
        Self {
            owner: world.owner,
            folder: File::open(&path).unwrap(),
            path,
            fds,
        }
    }

    fn launch(&self, client: &Client, number: u8, tap: bool) -> Launched {
        let request = Request::LaunchVmm {
            vm: vm(number),
            spec: spec(number, tap),
        };
        let mut fds = vec![self.folder.as_fd()];
        fds.extend(self.fds.iter().map(File::as_fd));
        match call(client, &request, &fds) {
            Ok((Reply::Launched { vmm, backend }, pidfds)) => Launched {
                vmm,
                backend: backend.unwrap(),
                pidfds,
            },
            other => panic!("{other:?}"),
        }
    }

    fn remove(&self, client: &Client, number: u8) {
        let request = Request::RemoveVmm { vm: vm(number) };
        call(client, &request, &[self.folder.as_fd()]).unwrap();
        assert!(!self.path.join("run").exists());
        for name in ["disk", "config.img"] {
            let file = fs::metadata(self.path.join(name)).unwrap();
            assert_eq!((file.uid(), file.nlink()), (self.owner, 1), "{name}");
        }
    }
}

struct Launched {
    vmm: ProcessIdentity,
    backend: ProcessIdentity,
    pidfds: Vec<OwnedFd>,
}

fn spec(number: u8, tap: bool) -> LaunchSpec {
    let drive = |role, read_only| DriveSpec {
        role,
        format: DriveFormat::Raw,
        read_only,
    };
    LaunchSpec {
        vmm: VmmSpec::Qemu { accel: Accel::Tcg },
        vcpu: 1,
        memory_mib: MemoryMib(64),
        boot_args: "console=ttyS0".into(),
        drives: vec![
            drive(DriveRole::Root, false),
            drive(DriveRole::Config, true),
        ],
        mac: tap.then(|| vm(number).mac()),
        cache: CacheMode::Writeback,
    }
}

fn skipped_here() -> bool {
    if skipped() {
        return true;
    }
    let qemu = Path::new("/usr/bin/qemu-system-x86_64");
    for program in [qemu, &World::backend()] {
        if !program.exists() {
            println!("SKIPPED(vmm): {} is missing", program.display());
            return true;
        }
    }
    false
}

fn ended(pidfd: &OwnedFd) -> bool {
    let timeout = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

fn alive(state: &ProcessState) -> Option<u32> {
    match state {
        ProcessState::Alive(identity) => Some(identity.pid),
        ProcessState::Gone {} => None,
    }
}

fn probe(client: &Client, number: u8) -> [Option<u32>; 2] {
    match ok(client, &Request::ProbeVmm { vm: vm(number) }) {
        Reply::Probed { vmm, backend } => [alive(&vmm), alive(&backend.unwrap())],
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_vm_runs_confined_and_is_found_by_the_next_helper() {
    if !skipped_here() {
        runs_confined_and_is_found(World::new(OWNER));
    }
}

#[test]
fn the_same_when_the_owner_is_root() {
    if !skipped_here() {
        runs_confined_and_is_found(World::new(0));
    }
}

fn runs_confined_and_is_found(mut world: World) {
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let address = "172.16.0.2".parse().unwrap();
    ok(
        &client,
        &Request::EnsureTap {
            vm: vm(1),
            address,
            nat: false,
        },
    );
    let guest = Vm::new(&world, "vm", &tiny_kernel());
    let launched = guest.launch(&client, 1, true);
    let run = guest.path.join("run");
    wait_for(&run.join("console"), "hi");

    let user = fs::metadata(&run).unwrap().uid();
    assert!((880_000..890_000).contains(&user));

    // The owner comes to the sockets; both processes run as a user of their own with nothing.
    let greeting = world.as_owner(|| {
        let mut api = BufReader::new(UnixStream::connect(run.join("api")).unwrap());
        let mut line = String::new();
        api.read_line(&mut line).unwrap();
        let mut host = UnixStream::connect(run.join("v")).unwrap();
        host.write_all(b"CONNECT 1024\n").unwrap();
        File::open(run.join("vmm.log")).unwrap();
        line
    });
    assert!(greeting.starts_with("{\"QMP\""), "{greeting}");
    for identity in [&launched.vmm, &launched.backend] {
        let status = fs::read_to_string(format!("/proc/{}/status", identity.pid)).unwrap();
        let field = |key: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap();
            line.split_ascii_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let uid = field("Uid:");
        assert!(uid.iter().all(|id| *id == user.to_string()), "{uid:?}");
        assert!(field("Groups:").is_empty(), "{status}");
        assert_eq!(field("NoNewPrivs:"), ["1"]);
        assert_eq!(field("CapEff:"), ["0000000000000000"]);
        let blocked = u64::from_str_radix(&field("SigBlk:")[0], 16).unwrap();
        assert_eq!(blocked & (1 << 14), 0, "SIGTERM reaches it");
    }
    assert_eq!(fs::metadata(guest.path.join("disk")).unwrap().uid(), user);
    let nobody = fs::metadata(&run).unwrap();
    assert_eq!(
        (nobody.uid(), nobody.permissions().mode() & 0o007),
        (user, 0)
    );

    // Twice is once.
    let request = Request::LaunchVmm {
        vm: vm(1),
        spec: spec(1, true),
    };
    let mut fds = vec![guest.folder.as_fd()];
    fds.extend(guest.fds.iter().map(File::as_fd));
    assert_eq!(
        call(&client, &request, &fds).unwrap_err().code,
        RefusalCode::Busy
    );

    // Another helper finds it, also when the first was killed before it had noted anything.
    let both = [Some(launched.vmm.pid), Some(launched.backend.pid)];
    world.end(Signal::KILL);
    world.start();
    assert_eq!(probe(&world.client(), 1), both);
    world.end(Signal::KILL);
    let ledger = world.runtime_dir().join("ledger.json");
    let text = fs::read_to_string(&ledger).unwrap();
    let start = text.find("\"vmm\":{").unwrap();
    let forgotten = format!("{}\"vmm\":null,\"backend\":null}}}}}}", &text[..start]);
    fs::write(&ledger, forgotten).unwrap();
    world.start();
    let client = world.client();
    assert_eq!(probe(&client, 1), both);
    let Reply::Owned(facts) = ok(&client, &Request::List {}) else {
        panic!()
    };
    assert!(facts.network && facts.taps.len() == 1 && facts.vmms.len() == 1);

    let signal = |signal| Request::SignalVmm { vm: vm(1), signal };
    ok(&client, &signal(VmmSignal::Stop));
    ok(&client, &signal(VmmSignal::Cont));
    ok(&client, &signal(VmmSignal::Kill));
    assert!(ended(&launched.pidfds[0]));
    assert_eq!(probe(&client, 1)[0], None);
    assert_eq!(
        code(&client, &signal(VmmSignal::Term)),
        RefusalCode::Unknown
    );
    guest.remove(&client, 1);
    assert!(ended(&launched.pidfds[1]));
    assert!(!fs::exists(Path::new("/run/banger-root/uids").join(user.to_string())).unwrap());

    // The same disks serve again; a removal without the folder ends the processes all the same.
    let again = guest.launch(&client, 1, true);
    ok(&client, &Request::RemoveVmm { vm: vm(1) });
    assert!(again.pidfds.iter().all(ended));
    assert!(run.exists());
    guest.remove(&client, 1);
    ok(&client, &Request::RemoveTap { vm: vm(1) });
    ok(&client, &Request::RemoveNetwork {});
    let Reply::Owned(facts) = ok(&client, &Request::List {}) else {
        panic!()
    };
    assert!(!facts.network && facts.taps.is_empty() && facts.vmms.is_empty());
    println!("{}", world.log());
}

#[test]
fn a_vmm_that_ends_at_once_says_why() {
    if skipped_here() {
        return;
    }
    let world = World::new(OWNER);
    let client = world.client();
    let guest = Vm::new(&world, "vm", b"not a kernel");
    let launched = guest.launch(&client, 1, false);
    assert!(ended(&launched.pidfds[0]));
    assert_eq!(probe(&client, 1)[0], None);
    let said = fs::read_to_string(guest.path.join("run/vmm.log")).unwrap();
    assert!(said.contains("qemu"), "{said}");
    guest.remove(&client, 1);
}

#[test]
fn a_program_in_a_private_home_is_run() {
    if skipped_here() {
        return;
    }
    let mut world = World::new(OWNER);
    world.end(Signal::TERM);
    let home = world.folder("home");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    world.vhost_vsock = home.join("banger-vhost-vsock");
    fs::copy(World::backend(), &world.vhost_vsock).unwrap();
    world.start();
    let client = world.client();
    let guest = Vm::new(&world, "vm", &tiny_kernel());
    let launched = guest.launch(&client, 1, false);
    wait_for(&guest.path.join("run/console"), "hi");
    let both = [Some(launched.vmm.pid), Some(launched.backend.pid)];
    assert_eq!(probe(&client, 1), both);
    guest.remove(&client, 1);
}

#[test]
fn drives_left_by_a_lost_ledger_serve_again() {
    if skipped_here() {
        return;
    }
    let mut world = World::new(OWNER);
    let guest = Vm::new(&world, "vm", &tiny_kernel());
    let launched = guest.launch(&world.client(), 1, false);
    // As after a restart of the machine: no processes, no runtime directory, drives lent out.
    for process in &launched.pidfds {
        rustix::process::pidfd_send_signal(process, Signal::KILL).unwrap();
    }
    assert!(launched.pidfds.iter().all(ended));
    world.end(Signal::KILL);
    fs::remove_dir_all(world.runtime_dir()).unwrap();
    world.start();
    let client = world.client();
    let again = guest.launch(&client, 1, false);
    wait_for(&guest.path.join("run/console"), "hi");
    guest.remove(&client, 1);
    assert!(again.pidfds.iter().all(ended));
}

#[test]
fn vms_are_counted_and_apart() {
    if skipped_here() {
        return;
    }
    let qemu = "/usr/bin/qemu-system-x86_64".into();
    let world = World::configured(OWNER, qemu, 2);
    let client = world.client();
    let kernel = tiny_kernel();
    let guests: Vec<Vm> = ["one", "two", "three"]
        .iter()
        .map(|name| Vm::new(&world, name, &kernel))
        .collect();
    let launched = [
        guests[0].launch(&client, 1, false),
        guests[1].launch(&client, 2, false),
    ];
    let users: Vec<u32> = ["one", "two"]
        .iter()
        .map(|name| {
            fs::metadata(world.temp.path().join(name).join("run"))
                .unwrap()
                .uid()
        })
        .collect();
    assert_ne!(users[0], users[1]);
    let request = |number| Request::LaunchVmm {
        vm: vm(number),
        spec: spec(number, false),
    };
    let mut fds = vec![guests[2].folder.as_fd()];
    fds.extend(guests[2].fds.iter().map(File::as_fd));
    assert_eq!(
        call(&client, &request(3), &fds).unwrap_err().code,
        RefusalCode::Quota
    );
    // A folder whose `run` belongs to another VM, and a disk that another VM writes.
    fds[0] = guests[0].folder.as_fd();
    assert_eq!(
        call(&client, &request(3), &fds).unwrap_err().code,
        RefusalCode::Busy
    );
    guests[1].remove(&client, 2);
    let lent = File::open(guests[0].path.join("disk")).unwrap();
    fds[0] = guests[2].folder.as_fd();
    fds[3] = lent.as_fd();
    assert_eq!(
        call(&client, &request(3), &fds).unwrap_err().code,
        RefusalCode::Descriptor
    );
    assert!(alive_now(&launched[0].pidfds[0]));
    guests[0].remove(&client, 1);
}

fn alive_now(pidfd: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).unwrap() == 0
}

/// The file in which the helper keeps what it made.
fn ledger(world: &World) -> PathBuf {
    world.runtime_dir().join("ledger.json")
}

/// Ends the helper, does something to its ledger, and starts the next one.
fn with_ledger(world: &mut World, change: impl FnOnce(&Path)) -> Client {
    world.end(Signal::KILL);
    change(&ledger(world));
    world.start();
    world.client()
}

/// What happens to a ledger.
type Damage = (&'static str, fn(&Path));

#[test]
fn a_lost_or_damaged_ledger_is_made_again_from_what_runs() {
    if skipped_here() {
        return;
    }
    let mut world = World::new(OWNER);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let tap = Request::EnsureTap {
        vm: vm(1),
        address: "172.16.0.2".parse().unwrap(),
        nat: true,
    };
    ok(&client, &tap);
    let folder = world.folder("vms");
    let guest = Vm::at(&world, folder.join(vm(1).as_str()), &tiny_kernel());
    let launched = guest.launch(&client, 1, true);
    wait_for(&guest.path.join("run/console"), "hi");
    let both = [Some(launched.vmm.pid), Some(launched.backend.pid)];
    let damages: [Damage; 4] = [
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("empty", |path| fs::write(path, "").unwrap()),
        ("cut off", |path| {
            let text = fs::read(path).unwrap();
            fs::write(path, &text[..text.len() / 2]).unwrap();
        }),
        // Of somebody whose programs would be ended with the VM.
        ("of root's", |path| {
            let text = fs::read_to_string(path).unwrap();
            let at = text.find("\"uid\":88").unwrap();
            let rest = &text[at + "\"uid\":88".len() + 4..];
            fs::write(path, format!("{}\"uid\":0{rest}", &text[..at])).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let client = with_ledger(&mut world, damage);
        assert_eq!(probe(&client, 1), both, "{what}");
        let Reply::Owned(facts) = ok(&client, &Request::List {}) else {
            panic!()
        };
        assert_eq!((facts.vmms.len(), facts.taps.len()), (1, 1), "{what}");
        // The owner, who knows the address, says it again; then all is as it was.
        ok(&client, &Request::EnsureNetwork {});
        ok(&client, &tap);
        let Reply::Owned(facts) = ok(&client, &Request::List {}) else {
            panic!()
        };
        assert!(facts.network && facts.taps[0].nat, "{what}");
    }
    let client = world.client();
    guest.remove(&client, 1);
    assert!(launched.pidfds.iter().all(ended));
    ok(&client, &Request::RemoveTap { vm: vm(1) });
    ok(&client, &Request::RemoveNetwork {});
}

#[test]
fn what_the_ledger_says_of_another_process_is_not_believed() {
    if skipped_here() {
        return;
    }
    let mut world = World::new(OWNER);
    let guest = Vm::new(&world, "vm", &tiny_kernel());
    let launched = guest.launch(&world.client(), 1, false);
    wait_for(&guest.path.join("run/console"), "hi");
    let both = [Some(launched.vmm.pid), Some(launched.backend.pid)];
    // Somebody else's process, of the same program: it might have got a VMM's number after that had ended.
    let mut stranger = std::process::Command::new(&world.qemu);
    stranger.args(["-M", "none", "-display", "none", "-nodefaults", "-S"]);
    let mut stranger = stranger.spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", stranger.id())).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    let own = &launched.vmm;
    // Stale: the number alone. Foreign: number and start time of a process that this helper never started.
    for start in [own.start_ticks.to_string(), fields[20].to_owned()] {
        let lie = |path: &Path| {
            let text = fs::read_to_string(path).unwrap();
            let said = format!("\"pid\":{},\"start_ticks\":{}", own.pid, own.start_ticks);
            assert!(text.contains(&said), "{text}");
            let wrong = format!("\"pid\":{},\"start_ticks\":{start}", stranger.id());
            fs::write(path, text.replace(&said, &wrong)).unwrap();
        };
        let client = with_ledger(&mut world, lie);
        assert_eq!(
            probe(&client, 1),
            both,
            "what runs as the VM's user is the VM's"
        );
    }
    // And when nothing of the VM's runs any more.
    for process in &launched.pidfds {
        rustix::process::pidfd_send_signal(process, Signal::KILL).unwrap();
    }
    assert!(launched.pidfds.iter().all(ended));
    let client = with_ledger(&mut world, |path| {
        let text = fs::read_to_string(path).unwrap();
        let said = format!("\"pid\":{},\"start_ticks\":{}", own.pid, own.start_ticks);
        let wrong = format!("\"pid\":{},\"start_ticks\":{}", stranger.id(), fields[20]);
        fs::write(path, text.replace(&said, &wrong)).unwrap();
    });
    assert_eq!(probe(&client, 1), [None, None]);
    for signal in [VmmSignal::Stop, VmmSignal::Term, VmmSignal::Kill] {
        let request = Request::SignalVmm { vm: vm(1), signal };
        assert_eq!(code(&client, &request), RefusalCode::Unknown);
    }
    guest.remove(&client, 1);
    assert_eq!(stranger.try_wait().unwrap(), None, "it still runs");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn a_ledger_with_anothers_vm_in_it_does_not_touch_it() {
    if skipped_here() {
        return;
    }
    let theirs = World::new(OWNER);
    let guest = Vm::new(&theirs, "vm", &tiny_kernel());
    let launched = guest.launch(&theirs.client(), 1, false);
    let mut ours = World::beside(&theirs, 4343, "banger1", "172.17.0.1");
    let copied = fs::read(ledger(&theirs)).unwrap();
    let client = with_ledger(&mut ours, |path| fs::write(path, copied).unwrap());
    assert_eq!(
        code(
            &client,
            &Request::SignalVmm {
                vm: vm(1),
                signal: VmmSignal::Kill
            }
        ),
        RefusalCode::Unknown
    );
    ok(&client, &Request::RemoveVmm { vm: vm(1) });
    let both = [Some(launched.vmm.pid), Some(launched.backend.pid)];
    assert_eq!(probe(&theirs.client(), 1), both);
    guest.remove(&theirs.client(), 1);
}
