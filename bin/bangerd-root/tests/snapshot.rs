//! Real VMMs on root disks that are snapshots. They need device-mapper; elsewhere they say so.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_core::{ByteSize, MemoryMib, VmId, cow_store_size};
use banger_root_proto::{
    Accel, CacheMode, Client, DriveFormat, DriveRole, DriveSpec, LaunchSpec, Refusal, RefusalCode,
    Reply, Request, SnapshotSupport, StoreFill, VmmSpec,
};
use common::{World, call, ok, skipped, vm};
use rustix::process::Signal;

const OWNER: u32 = 4242;
const BASE: u64 = 8 << 20;

fn skipped_here(world: &World) -> bool {
    if let SnapshotSupport::Missing { why } = &world.client().info().snapshots {
        println!("SKIPPED(device-mapper): {why}");
        return true;
    }
    if !world.qemu.exists() {
        println!("SKIPPED(vmm): {} is missing", world.qemu.display());
        return true;
    }
    false
}

/// A VM's folder with a store, and a base that it may share.
struct Vm {
    number: u8,
    path: PathBuf,
    fds: Vec<OwnedFd>,
}

impl Vm {
    fn new(world: &World, number: u8, base: &Path) -> Self {
        let path = world.folder(&format!("vm{number}"));
        Self::in_folder(world, number, path, base)
    }

    fn in_folder(world: &World, number: u8, path: PathBuf, base: &Path) -> Self {
        let store = path.join("root.cow");
        drop(world.file(&store, b"", 0o600));
        let store = File::options().read(true).write(true).open(&store).unwrap();
        store.set_len(cow_store_size(ByteSize(BASE)).0).unwrap();
        let fds = [
            File::open(&path).unwrap(),
            world.file(&path.join("vmlinux"), &common::tiny_kernel(), 0o644),
            world.file(&path.join("initramfs"), b"none", 0o644),
            store,
            File::open(base).unwrap(),
            world.file(&path.join("config.img"), &[0; 4096], 0o600),
        ];
        let fds = fds.into_iter().map(OwnedFd::from).collect();
        Self { number, path, fds }
    }

    fn id(&self) -> VmId {
        vm(self.number)
    }

    fn launch(&self, client: &Client) -> Result<(), Refusal> {
        let fds: Vec<_> = self.fds.iter().map(OwnedFd::as_fd).collect();
        let request = Request::LaunchVmm {
            vm: self.id(),
            spec: spec(),
        };
        call(client, &request, &fds).map(drop)
    }

    fn remove(&self, client: &Client) {
        let request = Request::RemoveVmm { vm: self.id() };
        call(client, &request, &[self.fds[0].as_fd()]).unwrap();
        assert!(!self.path.join("run").exists());
    }

    fn store(&self, client: &Client) -> Option<StoreFill> {
        let Reply::Owned(facts) = ok(client, &Request::List {}) else {
            panic!()
        };
        let mine = facts.vmms.iter().find(|owned| owned.vm == self.id());
        mine.and_then(|owned| owned.store)
    }
}

fn spec() -> LaunchSpec {
    let drive = |role, format, read_only| DriveSpec {
        role,
        format,
        read_only,
    };
    LaunchSpec {
        vmm: VmmSpec::Qemu { accel: Accel::Tcg },
        vcpu: 1,
        memory_mib: MemoryMib(64),
        boot_args: "console=ttyS0".into(),
        drives: vec![
            drive(DriveRole::Root, DriveFormat::Snapshot, false),
            drive(DriveRole::Config, DriveFormat::Raw, true),
        ],
        mac: None,
        cache: CacheMode::Writeback,
    }
}

fn base(world: &World) -> PathBuf {
    let path = world.temp.path().join("base.ext4");
    let bytes: Vec<u8> = (0..BASE).map(|at| (at / 512 % 251) as u8).collect();
    drop(world.file(&path, &bytes, 0o644));
    path
}

/// Loop devices over files below a folder, and device-mapper devices of that VM.
fn left(world: &World, id: &VmId) -> Vec<String> {
    let root = world.temp.path().to_str().unwrap().to_owned();
    let is_left = |path: &Path| {
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        read("loop/backing_file").starts_with(&root) || read("dm/uuid").contains(id.as_str())
    };
    let entries = fs::read_dir("/sys/block").unwrap().flatten();
    let names = entries.filter(|entry| is_left(&entry.path()));
    names
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn assert_clean(world: &World, id: &VmId) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !left(world, id).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", left(world, id));
        std::thread::yield_now();
    }
}

#[test]
fn a_vm_runs_on_a_snapshot_and_nothing_is_left() {
    if skipped() {
        return;
    }
    let mut world = World::new(OWNER);
    if skipped_here(&world) {
        return;
    }
    let path = base(&world);
    let before = fs::read(&path).unwrap();
    let [one, two] = [1, 2].map(|number| Vm::new(&world, number, &path));
    let client = world.client();
    let begin = Instant::now();
    one.launch(&client).unwrap();
    println!(
        "a launch took {:.1} ms",
        begin.elapsed().as_secs_f64() * 1e3
    );
    two.launch(&client).unwrap();
    common::wait_for(&one.path.join("run/console"), "hi");
    let run = fs::metadata(one.path.join("run")).unwrap();
    let node = fs::symlink_metadata(one.path.join("run/root")).unwrap();
    assert!(node.file_type().is_block_device());
    assert_eq!((node.uid(), node.mode() & 0o7777), (run.uid(), 0o600));
    let opened = world.as_owner(|| File::open(one.path.join("run/root")));
    assert!(opened.is_err(), "the owner has opened the device");
    assert!(
        !one.path.join("run/base").exists(),
        "the VMM has no name for the base"
    );
    let store = fs::metadata(one.path.join("root.cow")).unwrap();
    assert_eq!((store.uid(), store.mode() & 0o777), (OWNER, 0o600));
    assert!(matches!(one.store(&client), Some(StoreFill::Used { .. })));
    let loops = |world: &World| {
        let all = left(world, &vm(9));
        all.iter().filter(|name| name.starts_with("loop")).count()
    };
    assert_eq!(loops(&world), 3, "two stores, one base");

    world.end(Signal::KILL);
    world.start();
    let client = world.client();
    assert!(matches!(one.store(&client), Some(StoreFill::Used { .. })));
    one.remove(&client);
    assert_eq!(one.store(&client), None);
    let deadline = Instant::now() + Duration::from_secs(20);
    while loops(&world) != 2 {
        assert!(Instant::now() < deadline, "{:?}", left(&world, &vm(9)));
        std::thread::yield_now();
    }
    one.launch(&client).unwrap();
    two.remove(&client);
    one.remove(&client);
    for vm in [&one, &two] {
        assert_clean(&world, &vm.id());
    }
    assert!(fs::read(&path).unwrap() == before, "the base was written");
    let node = fs::read_dir(&one.path).unwrap().flatten();
    assert!(
        node.map(|entry| entry.file_name())
            .all(|name| name != "run")
    );
}

#[test]
fn what_is_no_file_for_a_snapshot_is_refused_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let world = World::new(OWNER);
    if skipped_here(&world) {
        return;
    }
    let path = base(&world);
    let client = world.client();
    let temp = world.temp.path();
    let writable = |path: &Path| File::options().read(true).write(true).open(path).unwrap();
    let foreign = temp.join("foreign");
    fs::write(&foreign, vec![0; BASE as usize]).unwrap();
    let everybodys = temp.join("everybodys");
    drop(world.file(&everybodys, &vec![0; BASE as usize], 0o666));
    let device = Path::new("/dev/null");
    let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let folder = || OwnedFd::from(File::open(temp).unwrap());
    let (store, base) = (3, 4);
    let cases: Vec<(usize, OwnedFd)> = vec![
        (store, folder()),
        (store, writable(device).into()),
        (store, socket()),
        (store, writable(&foreign).into()),
        (base, folder()),
        (base, File::open(device).unwrap().into()),
        (base, socket()),
        (base, File::open(&foreign).unwrap().into()),
        (base, writable(&path).into()),
        (base, File::open(&everybodys).unwrap().into()),
    ];
    let mut guest = Vm::new(&world, 1, &path);
    for (at, bad) in cases {
        let good = std::mem::replace(&mut guest.fds[at], bad);
        let refusal = guest.launch(&client).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Descriptor, "{at}: {refusal:?}");
        assert!(!guest.path.join("run").exists());
        assert_clean(&world, &guest.id());
        guest.fds[at] = good;
    }
    // `run` is a link to somewhere else: nothing there is touched.
    let elsewhere = world.folder("elsewhere");
    fs::write(elsewhere.join("root"), b"mine").unwrap();
    symlink(&elsewhere, guest.path.join("run")).unwrap();
    let refusal = guest.launch(&client).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Descriptor, "{refusal:?}");
    assert_eq!(fs::read(elsewhere.join("root")).unwrap(), b"mine");
    assert_clean(&world, &guest.id());
    fs::remove_file(guest.path.join("run")).unwrap();
    guest.launch(&client).unwrap();
    guest.remove(&client);
    assert_clean(&world, &guest.id());
}

#[test]
fn a_folder_without_devices_is_refused_and_leaves_nothing() {
    if skipped() {
        return;
    }
    let world = World::new(OWNER);
    if skipped_here(&world) {
        return;
    }
    let path = base(&world);
    let client = world.client();
    let mounted = world.folder("vm1");
    let flags = rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("tmpfs", &mounted, "tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
    std::os::unix::fs::chown(&mounted, Some(OWNER), Some(OWNER)).unwrap();
    fs::set_permissions(&mounted, fs::Permissions::from_mode(0o700)).unwrap();
    let inner = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let guest = Vm::in_folder(&world, 1, mounted.clone(), &path);
        let refusal = guest.launch(&client).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::HostNotReady, "{refusal:?}");
        assert!(refusal.message.contains("nodev"), "{refusal}");
        assert!(!guest.path.join("run").exists());
        assert_clean(&world, &guest.id());
    }));
    rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).unwrap();
    inner.unwrap();
}
