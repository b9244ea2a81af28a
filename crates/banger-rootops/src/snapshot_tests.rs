//! Snapshots for real. They need root, loop devices and device-mapper; elsewhere they say so.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_core::{
    ByteSize, COW_HEADER, COW_VALID_AT, CowStoreState, VmId, cow_store_size, cow_store_state,
};
use banger_root_proto::{RefusalCode, StoreFill};
use rustix::fs::{Dev, major, minor};
use tempfile::TempDir;

use crate::device_mapper::{DeviceMapper, DmName, Removed, Table};
use crate::helper::Helper;
use crate::ledger::VmmEntry;
use crate::loop_device::{FileId, LoopDevice, Purpose};
use crate::qemu::Role;
use crate::root_disk::SnapshotFiles;
use crate::run_dir::{self, RunDir};
use crate::{CLAIMS_DIR, UID_BASE};

const MIB: u64 = 1 << 20;
const CHUNK: usize = 16 << 10;

fn skipped() -> bool {
    let why = match rustix::process::geteuid().is_root() {
        false => Some("not root".to_owned()),
        true => DeviceMapper::open().err().map(|error| error.to_string()),
    };
    if let Some(why) = &why {
        println!("SKIPPED(device-mapper): {why}");
    }
    why.is_some()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}

/// A helper in a folder of its own; its tag is its own, too.
struct World {
    temp: TempDir,
    helper: Helper,
}

impl World {
    fn new() -> Self {
        fs::create_dir_all(CLAIMS_DIR).unwrap();
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("h")).unwrap();
        let helper = Self::open(&temp);
        Self { temp, helper }
    }

    fn open(temp: &TempDir) -> Helper {
        let mut config = crate::config::example();
        config.owner = 0;
        config.runtime_dir = temp.path().join("h");
        Helper::open(config).unwrap()
    }

    /// The helper was killed, and another one starts.
    fn restart(&mut self) {
        self.helper = Self::open(&self.temp);
    }

    fn ledger(&self) -> PathBuf {
        self.temp.path().join("h/ledger.json")
    }

    fn tag(&self) -> String {
        self.helper.config.device_tag()
    }

    fn name(&self, vm: &VmId) -> DmName {
        DmName::new(&self.tag(), vm)
    }

    fn device(&self, vm: &VmId) -> Option<Dev> {
        DeviceMapper::open()
            .unwrap()
            .device(&self.name(vm))
            .unwrap()
    }

    fn base_of(&self, vm: &VmId) -> Option<Dev> {
        DeviceMapper::open().unwrap().base(&self.name(vm)).unwrap()
    }

    /// What the launch notes before it makes anything.
    fn announce(&mut self, vm: &VmId, disk: &Disk) {
        let entry = VmmEntry {
            uid: UID_BASE + 9_000,
            kind: banger_core::VmmKind::Qemu,
            vmm: None,
            backend: None,
            snapshot_of: Some(disk.files().base_id().unwrap()),
        };
        self.helper.ledger.vmms.insert(vm.clone(), entry);
        self.helper.save().unwrap();
    }

    fn start(&mut self, vm: &VmId, disk: &Disk) -> File {
        self.announce(vm, disk);
        let device = self.helper.make_snapshot(vm, disk.files()).unwrap();
        open_device(device)
    }

    fn fill(&self, vm: &VmId) -> Option<StoreFill> {
        let mapper = DeviceMapper::open().unwrap();
        self.helper.store_fill(Some(&mapper), vm)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.helper.ledger.vmms.clear();
        self.helper.sweep_snapshots();
    }
}

fn open_device(device: Dev) -> File {
    let path = format!("/dev/dm-{}", minor(device));
    File::options().read(true).write(true).open(path).unwrap()
}

/// A base image and a store.
struct Disk {
    base_path: PathBuf,
    store_path: PathBuf,
    base: File,
    store: File,
}

impl Disk {
    fn new(world: &World, name: &str, base: &Path) -> Self {
        Self::in_folder(world.temp.path(), name, base)
    }

    fn in_folder(folder: &Path, name: &str, base: &Path) -> Self {
        let store_path = folder.join(name);
        let mut options = OpenOptions::new();
        let store = options.read(true).write(true).create(true).truncate(false);
        let store = store.open(&store_path).unwrap();
        let base_file = File::open(base).unwrap();
        let size = cow_store_size(ByteSize(base_file.metadata().unwrap().len()));
        store.set_len(size.0).unwrap();
        Self {
            base_path: base.to_owned(),
            store_path,
            base: base_file,
            store,
        }
    }

    fn files(&self) -> SnapshotFiles<'_> {
        SnapshotFiles {
            store: self.store.as_fd(),
            base: self.base.as_fd(),
        }
    }
}

/// Bytes that are not zero and not the same everywhere.
fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at / 512 % 251 + 1) as u8).collect()
}

fn base(world: &World, length: u64) -> PathBuf {
    let path = world.temp.path().join("base.ext4");
    fs::write(&path, pattern(length)).unwrap();
    path
}

fn vm(number: u8) -> VmId {
    VmId::from_entropy([number, 0x5a, 0x0e, 0x11, 0x22, 0x33])
}

fn read(device: &File, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    device.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Numbers of the loop devices over a file.
fn loops_over(path: &Path) -> Vec<String> {
    let Ok(file) = File::open(path) else {
        return vec![];
    };
    let id = FileId::of(file.as_fd()).unwrap();
    let mut found = vec![];
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let node: Option<OwnedFd> = File::open(format!("/dev/{name}")).ok().map(Into::into);
        let info = node.and_then(|node| crate::sys::loop_status(&node).ok());
        if info.is_some_and(|info| (info.lo_device, info.lo_inode) == (id.dev, id.ino)) {
            found.push(name);
        }
    }
    found
}

fn assert_clean(world: &World, disks: &[&Disk]) {
    let mapper = DeviceMapper::open().unwrap();
    assert_eq!(mapper.list(&world.tag()).unwrap(), []);
    for disk in disks {
        // The kernel closes the files of a device behind the removal's back.
        until("no loop device is left", || {
            loops_over(&disk.base_path).is_empty() && loops_over(&disk.store_path).is_empty()
        });
    }
}

#[test]
fn writes_go_to_the_store_and_the_base_stays_as_it_is() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, 4 * MIB);
    let before = fs::read(&base).unwrap();
    let disk = Disk::new(&world, "one.cow", &base);
    let begin = Instant::now();
    let device = world.start(&vm(1), &disk);
    println!(
        "a snapshot took {:.1} ms",
        begin.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(read(&device, MIB), before[MIB as usize..][..512]);
    device.write_all_at(&[0xee; 512], MIB).unwrap();
    device
        .write_all_at(&[0xdd; CHUNK], 4 * MIB - CHUNK as u64)
        .unwrap();
    device.sync_all().unwrap();
    let Some(StoreFill::Used {
        used_bytes,
        total_bytes,
    }) = world.fill(&vm(1))
    else {
        panic!("{:?}", world.fill(&vm(1)));
    };
    assert!(
        used_bytes >= 3 * CHUNK as u64 && used_bytes < MIB,
        "{used_bytes}"
    );
    assert_eq!(total_bytes, cow_store_size(ByteSize(4 * MIB)).0);
    drop(device);
    assert_eq!(world.helper.remove_snapshot(&vm(1)).unwrap(), Removed::Gone);
    assert_eq!(world.helper.remove_snapshot(&vm(1)).unwrap(), Removed::Gone);
    assert_clean(&world, &[&disk]);

    // The next start finds what was written, and beside it the base.
    let device = world.start(&vm(1), &disk);
    assert_eq!(read(&device, MIB), [0xee; 512]);
    assert_eq!(
        read(&device, MIB + 512),
        before[MIB as usize + 512..][..512]
    );
    assert_eq!(read(&device, 4 * MIB - 512), [0xdd; 512]);
    drop(device);
    assert_eq!(world.helper.remove_snapshot(&vm(1)).unwrap(), Removed::Gone);
    assert_clean(&world, &[&disk]);
    assert!(fs::read(&base).unwrap() == before, "the base was written");
    assert!(fs::metadata(&disk.store_path).unwrap().blocks() * 512 < MIB);
}

#[test]
fn vms_on_one_base_share_its_loop_device() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, MIB);
    let [one, two] = ["one.cow", "two.cow"].map(|name| Disk::new(&world, name, &base));
    let first = world.start(&vm(1), &one);
    // Also for a helper that has only the ledger.
    world.restart();
    let second = world.start(&vm(2), &two);
    assert_eq!(loops_over(&base).len(), 1);
    assert_eq!(world.base_of(&vm(1)), world.base_of(&vm(2)));
    first.write_all_at(&[1; 512], 0).unwrap();
    second.write_all_at(&[2; 512], 0).unwrap();
    assert_eq!(
        (read(&first, 0), read(&second, 0)),
        (vec![1; 512], vec![2; 512])
    );
    drop(first);
    world.helper.remove_snapshot(&vm(1)).unwrap();
    assert_eq!(loops_over(&base).len(), 1, "the second still needs it");
    assert_eq!(read(&second, 512), pattern(MIB)[512..1024]);
    drop(second);
    world.helper.remove_snapshot(&vm(2)).unwrap();
    assert_clean(&world, &[&one, &two]);
}

#[test]
fn what_somebody_has_open_goes_when_they_close_it() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, MIB);
    let disk = Disk::new(&world, "one.cow", &base);
    let device = world.start(&vm(1), &disk);
    let busy = world.helper.remove_snapshot(&vm(1)).unwrap();
    assert_eq!(busy, Removed::Deferred);
    assert!(DeviceMapper::open().unwrap().is_open(&world.name(&vm(1))));
    assert_eq!(
        world.helper.remove_snapshot(&vm(1)).unwrap(),
        Removed::Deferred
    );
    // A start in the meantime waits for it.
    let again = std::thread::scope(|scope| {
        let again = scope.spawn(|| world.helper.make_snapshot(&vm(1), disk.files()));
        drop(device);
        again.join().unwrap().unwrap()
    });
    drop(open_device(again));
    assert_eq!(world.helper.remove_snapshot(&vm(1)).unwrap(), Removed::Gone);
    assert_clean(&world, &[&disk]);
}

#[test]
fn a_store_is_under_one_device_only() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, MIB);
    let disk = Disk::new(&world, "one.cow", &base);
    let device = world.start(&vm(1), &disk);
    let again = File::options()
        .read(true)
        .write(true)
        .open(&disk.store_path)
        .unwrap();
    let files = SnapshotFiles {
        store: again.as_fd(),
        base: disk.base.as_fd(),
    };
    let refusal = world.helper.make_snapshot(&vm(2), files).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Busy, "{refusal:?}");
    let refusal = world
        .helper
        .make_snapshot(&vm(1), disk.files())
        .unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Busy, "{refusal:?}");
    device.write_all_at(&[1; 512], 0).unwrap();
    device.sync_all().unwrap();
}

/// Everything that a launch does until it is killed after so many steps.
fn die_after(world: &mut World, steps: usize, vm: &VmId, disk: &Disk) {
    world.announce(vm, disk);
    let mapper = DeviceMapper::open().unwrap();
    let name = world.name(vm);
    let mut base = None;
    let mut store = None;
    let step = |number, base: &mut Option<LoopDevice>, store: &mut Option<LoopDevice>| match number
    {
        1 => *base = Some(LoopDevice::attach(disk.base.as_fd(), Purpose::Base).unwrap()),
        2 => *store = Some(LoopDevice::attach(disk.store.as_fd(), Purpose::Store).unwrap()),
        3 => drop(mapper.create(&name).unwrap()),
        4 => {
            let (base, store) = (base.as_ref().unwrap(), store.as_ref().unwrap());
            let table = Table {
                sectors: MIB / 512,
                base: base.device().unwrap(),
                store: store.device().unwrap(),
            };
            mapper.load(&name, &table).unwrap();
        }
        _ => mapper.resume(&name).unwrap(),
    };
    for number in 1..=steps {
        step(number, &mut base, &mut store);
    }
}

#[test]
fn a_helper_that_dies_at_any_step_leaves_nothing_for_good() {
    if skipped() {
        return;
    }
    for steps in 0..=5 {
        let mut world = World::new();
        let base = base(&world, MIB);
        let disk = Disk::new(&world, "one.cow", &base);
        // With its ledger: the entry says that there is something to remove.
        die_after(&mut world, steps, &vm(1), &disk);
        world.restart();
        assert!(world.helper.ledger.vmms.contains_key(&vm(1)));
        world.helper.forget(&vm(1), None).unwrap();
        assert_clean(&world, &[&disk]);
        // Without: the device's name says it.
        die_after(&mut world, steps, &vm(1), &disk);
        fs::remove_file(world.ledger()).unwrap();
        world.restart();
        assert_clean(&world, &[&disk]);
        // And the VM starts as if nothing had been.
        let device = world.start(&vm(1), &disk);
        assert_eq!(read(&device, 0), pattern(MIB)[..512]);
        drop(device);
        world.helper.forget(&vm(1), None).unwrap();
        assert_clean(&world, &[&disk]);
    }
}

#[test]
fn a_running_disk_outlives_the_helper() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, MIB);
    let disk = Disk::new(&world, "one.cow", &base);
    let device = world.start(&vm(1), &disk);
    world.restart();
    device.write_all_at(&[3; 512], 0).unwrap();
    device.sync_all().unwrap();
    assert!(matches!(world.fill(&vm(1)), Some(StoreFill::Used { .. })));
}

#[test]
fn devices_of_others_are_not_touched() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, MIB);
    let disk = Disk::new(&world, "one.cow", &base);
    let mapper = DeviceMapper::open().unwrap();
    let ours = world.name(&vm(1));
    // Another helper's VM of the same id; the administrator's volume; one with our name only.
    let others = [
        DmName::new("4242-00000000", &vm(1)),
        DmName::raw("vg0-banger-test", "LVM-banger-test"),
    ];
    for other in &others {
        mapper.create(other).unwrap();
    }
    world.announce(&vm(1), &disk);
    let refusal = world
        .helper
        .make_snapshot(&vm(1), disk.files())
        .unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal:?}");
    world.helper.forget(&vm(1), None).unwrap();
    fs::remove_file(world.ledger()).unwrap();
    world.restart();
    for other in &others {
        assert!(mapper.device(other).unwrap().is_some(), "{other:?}");
    }
    mapper.remove(&others[0]).unwrap();
    let namesake = DmName::raw(ours.name(), "LVM-namesake");
    mapper.create(&namesake).unwrap();
    world.announce(&vm(1), &disk);
    let refusal = world
        .helper
        .make_snapshot(&vm(1), disk.files())
        .unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Conflict, "{refusal:?}");
    world.helper.forget(&vm(1), None).unwrap();
    assert!(mapper.device(&namesake).unwrap().is_some());
    for foreign in [&namesake, &others[1]] {
        mapper.remove(foreign).unwrap();
    }
    assert_clean(&world, &[&disk]);
}

#[test]
fn a_base_that_is_deleted_or_replaced_is_still_there_for_those_who_use_it() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let path = base(&world, MIB);
    let [one, two] = ["one.cow", "two.cow"].map(|name| Disk::new(&world, name, &path));
    let first = world.start(&vm(1), &one);
    let next = world.temp.path().join("next");
    fs::write(&next, vec![9; MIB as usize]).unwrap();
    fs::rename(&next, &path).unwrap();
    let third = Disk::new(&world, "three.cow", &path);
    let newer = world.start(&vm(3), &third);
    assert_eq!(read(&newer, 4096), [9; 512]);
    assert_ne!(world.base_of(&vm(1)), world.base_of(&vm(3)));
    fs::remove_file(&path).unwrap();
    // Nothing of it is in the caches of this device yet.
    assert_eq!(read(&first, 512 << 10), pattern(MIB)[512 << 10..][..512]);
    let second = world.start(&vm(2), &two);
    assert_eq!(read(&second, 4096), pattern(MIB)[4096..4608]);
    drop((first, second, newer));
    for number in 1..=3 {
        world.helper.remove_snapshot(&vm(number)).unwrap();
    }
    assert_clean(&world, &[&one, &two, &third]);
}

#[test]
fn a_store_of_the_right_size_holds_every_chunk() {
    if skipped() {
        return;
    }
    // Just so many chunks as one chunk of metadata describes; and one sector more.
    for length in [16 * MIB, 16 * MIB + 512] {
        let mut world = World::new();
        let base = base(&world, length);
        let disk = Disk::new(&world, "one.cow", &base);
        let mut device = world.start(&vm(1), &disk);
        device.write_all(&vec![0xab; length as usize]).unwrap();
        device.sync_all().unwrap();
        let fill = world.fill(&vm(1));
        let Some(StoreFill::Used {
            used_bytes,
            total_bytes,
        }) = fill
        else {
            panic!("{fill:?}");
        };
        assert!(
            used_bytes >= length && used_bytes <= total_bytes,
            "{fill:?}"
        );
        drop(device);
        world.helper.remove_snapshot(&vm(1)).unwrap();
        let device = world.start(&vm(1), &disk);
        assert_eq!(read(&device, length - 512), [0xab; 512]);
        drop(device);
        world.helper.remove_snapshot(&vm(1)).unwrap();
        assert_clean(&world, &[&disk]);
    }
}

#[test]
fn and_one_that_is_a_chunk_smaller_does_not() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, 16 * MIB);
    let disk = Disk::new(&world, "one.cow", &base);
    let size = cow_store_size(ByteSize(16 * MIB)).0;
    disk.store.set_len(size - CHUNK as u64).unwrap();
    let mut device = world.start(&vm(1), &disk);
    let written = device.write_all(&vec![0xab; 16 << 20]);
    assert!(written.and_then(|()| device.sync_all()).is_err());
    assert_eq!(world.fill(&vm(1)), Some(StoreFill::Invalid {}));
}

/// A file system of so many MiB, gone with the value.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf, mib: u64) -> Self {
        fs::create_dir(&path).unwrap();
        let data = std::ffi::CString::new(format!("size={mib}m")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, data.as_c_str()).unwrap();
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_host_without_room_loses_nothing_that_was_flushed() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, 8 * MIB);
    let before = fs::read(&base).unwrap();
    let small = Small::mount(world.temp.path().join("small"), 3);
    let ballast = small.0.join("ballast");
    fs::write(&ballast, vec![1; MIB as usize]).unwrap();
    let disk = Disk::in_folder(&small.0, "one.cow", &base);
    let other = Disk::new(&world, "two.cow", &base);
    let device = world.start(&vm(1), &disk);
    let neighbour = world.start(&vm(2), &other);
    device.write_all_at(&[7; CHUNK], 0).unwrap();
    device.sync_all().unwrap();
    let too_much = device.write_all_at(&vec![8; 4 * MIB as usize], MIB);
    assert!(too_much.and_then(|()| device.sync_all()).is_err());
    assert_eq!(world.fill(&vm(1)), Some(StoreFill::Invalid {}));
    assert!(
        device.read_exact_at(&mut [0; 512], 5 * MIB).is_err(),
        "an error, no zeroes"
    );
    neighbour.write_all_at(&[9; 512], 0).unwrap();
    neighbour.sync_all().unwrap();
    drop(device);
    assert_eq!(world.helper.remove_snapshot(&vm(1)).unwrap(), Removed::Gone);

    // There is room again, and the owner's side says that the store is good (it does so itself).
    fs::remove_file(&ballast).unwrap();
    let mut header = [0; COW_HEADER];
    disk.store.read_exact_at(&mut header, 0).unwrap();
    assert_eq!(cow_store_state(&header), CowStoreState::GivenUp);
    disk.store.write_all_at(&[1], COW_VALID_AT).unwrap();
    let device = world.start(&vm(1), &disk);
    assert_eq!(read(&device, 0), [7; 512]);
    assert_eq!(read(&device, 6 * MIB), before[6 * MIB as usize..][..512]);
    device.write_all_at(&[6; CHUNK], 6 * MIB).unwrap();
    device.sync_all().unwrap();
    assert!(matches!(world.fill(&vm(1)), Some(StoreFill::Used { .. })));
    drop((device, neighbour));
    for number in 1..=2 {
        world.helper.remove_snapshot(&vm(number)).unwrap();
    }
    assert_clean(&world, &[&disk, &other]);
    assert!(fs::read(&base).unwrap() == before, "the base was written");
}

#[test]
fn the_vmm_gets_a_node_that_only_it_may_open() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let base = base(&world, MIB);
    let disk = Disk::new(&world, "one.cow", &base);
    let device = world.start(&vm(1), &disk);
    let number = world.device(&vm(1)).unwrap();
    let path = world.temp.path().join("vm");
    fs::create_dir(&path).unwrap();
    let folder = File::open(&path).unwrap();
    let owner = 4242;
    let run = RunDir::create(folder.as_fd(), owner, UID_BASE + 1).unwrap();
    run.node(Role::Drive(banger_root_proto::DriveRole::Root), number)
        .unwrap();
    run.hand_over().unwrap();
    let node = fs::symlink_metadata(path.join("run/root")).unwrap();
    assert!(node.file_type().is_block_device());
    assert_eq!(
        (major(node.rdev()), minor(node.rdev())),
        (major(number), minor(number))
    );
    assert_eq!((node.uid(), node.mode() & 0o7777), (UID_BASE + 1, 0o600));
    run_dir::remove(folder.as_fd(), owner, |_| false).unwrap();
    assert!(!path.join("run").exists());
    assert_eq!(
        read(&device, 0),
        pattern(MIB)[..512],
        "the device is another matter"
    );
}
