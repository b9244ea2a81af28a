//! A hostile owner: random requests, whole and broken, with random descriptors, for as long as
//! `BANGER_FUZZ_SECONDS` says (3 when it does not). The helper lives, nothing but its own things
//! changes, and in the end everything can be taken away.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::fs::{self, File};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_core::{MemoryMib, VmId};
use banger_root_proto::{
    Accel, CacheMode, DriveFormat, DriveRole, DriveSpec, LaunchSpec, MAX_FDS, PROTOCOL, Reply,
    Request, VmmSignal, VmmSpec, recv_frame,
};
use common::{World, ip, ok, skipped, vm};
use fastrand::Rng;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};

const OWNER: u32 = 4242;
const SOMEBODY: u32 = 4343;
/// How many VMs are spoken of: few, so that requests meet.
const VMS: u8 = 4;

/// What must not change, whatever is asked.
struct Canary {
    path: PathBuf,
    before: (u32, u32, u32, Vec<u8>),
}

impl Canary {
    fn new(path: PathBuf, owner: u32, mode: u32) -> Self {
        fs::write(&path, b"canary").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        let before = Self::look(&path);
        Self { path, before }
    }

    fn look(path: &Path) -> (u32, u32, u32, Vec<u8>) {
        let facts = fs::metadata(path).unwrap();
        let content = fs::read(path).unwrap();
        (facts.uid(), facts.gid(), facts.mode(), content)
    }

    fn check(&self) {
        assert_eq!(
            Self::look(&self.path),
            self.before,
            "{}",
            self.path.display()
        );
    }
}

/// Descriptors of every kind, good and bad.
struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    fn new(world: &World, canaries: &[Canary]) -> Self {
        let mut all: Vec<OwnedFd> = vec![];
        for number in 0..VMS {
            let folder = world.folder(&format!("vm-{number}"));
            for (name, mode) in [("kernel", 0o644), ("disk", 0o644), ("config", 0o600)] {
                all.push(world.file(&folder.join(name), &[0; 4096], mode).into());
            }
            all.push(File::open(folder).unwrap().into());
        }
        // A folder whose `run` leads elsewhere.
        let trap = world.folder("trap");
        symlink("/etc", trap.join("run")).unwrap();
        all.push(File::open(trap).unwrap().into());
        all.extend(
            canaries
                .iter()
                .map(|canary| File::open(&canary.path).unwrap().into()),
        );
        for path in ["/dev/null", "/etc", "/etc/passwd", "/proc/self/mem", "/"] {
            all.push(File::open(path).unwrap().into());
        }
        let kind = (AddressFamily::UNIX, SocketType::STREAM);
        let (one, other) = socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        all.extend([one, other, read, write]);
        Self(all)
    }

    fn some(&self, rng: &mut Rng, fitting: &[usize]) -> Vec<BorrowedFd<'_>> {
        let mut chosen: Vec<usize> = fitting.to_vec();
        if rng.u8(..4) == 0 {
            for _ in 0..rng.usize(..4) {
                let at = rng.usize(..=chosen.len());
                chosen.insert(at, rng.usize(..self.0.len()));
            }
        }
        if rng.u8(..6) == 0 && !chosen.is_empty() {
            chosen.remove(rng.usize(..chosen.len()));
        }
        if rng.u8(..6) == 0 && !chosen.is_empty() {
            let at = rng.usize(..chosen.len());
            chosen[at] = rng.usize(..self.0.len());
        }
        chosen.truncate(MAX_FDS);
        chosen.iter().map(|at| self.0[*at].as_fd()).collect()
    }
}

/// Where a VM's own files stand among the descriptors: kernel, disk, config, folder.
fn files_of(number: u8) -> [usize; 4] {
    let first = usize::from(number) * 4;
    [first, first + 1, first + 2, first + 3]
}

fn spec(rng: &mut Rng, id: &VmId) -> LaunchSpec {
    let drive = |role, format, read_only| DriveSpec {
        role,
        format,
        read_only,
    };
    let format = match rng.u8(..8) {
        0 => DriveFormat::Qcow2,
        1 => DriveFormat::Snapshot,
        _ => DriveFormat::Raw,
    };
    LaunchSpec {
        vmm: [
            VmmSpec::Qemu { accel: Accel::Tcg },
            VmmSpec::Qemu { accel: Accel::Kvm },
            VmmSpec::Firecracker {},
        ][rng.usize(..3)],
        vcpu: [0, 1, 1, 1, 2, 32, 33][rng.usize(..7)],
        memory_mib: MemoryMib([0, 64, 64, 64, 1 << 20, u32::MAX][rng.usize(..6)]),
        boot_args: ["console=ttyS0", "a\nb", "é", ",file=/etc/shadow"][rng.usize(..4)].into(),
        drives: vec![
            drive(DriveRole::Root, format, false),
            drive(DriveRole::Config, DriveFormat::Raw, true),
        ],
        mac: [None, None, Some(id.mac()), Some(vm(99).mac())][rng.usize(..4)],
        cache: CacheMode::Unsafe,
    }
}

/// A request and the places of the descriptors that fit it.
fn request(rng: &mut Rng) -> (Request, Vec<usize>) {
    let number = rng.u8(..VMS);
    let id = vm(number);
    let [kernel, disk, config, folder] = files_of(number);
    let address = [
        [172, 16, 0, 2 + number],
        [172, 16, 0, 1],
        [172, 16, 0, 255],
        [10, 0, 0, 1],
        [127, 0, 0, 1],
    ][rng.usize(..5)];
    let nat = rng.bool();
    let request = match rng.u8(..15) {
        12 => Request::TendNetwork {
            names: [None, Some(0), Some(53), Some(u16::MAX)][rng.usize(..4)],
            pool: [0, 0, 2, u8::MAX][rng.usize(..4)],
        },
        13 => Request::InspectNetwork {},
        14 => Request::OpenGuestDns {},
        0 => Request::EnsureNetwork {},
        1 => Request::RemoveNetwork {},
        2 | 3 => Request::EnsureTap {
            vm: id,
            address: address.into(),
            nat,
        },
        4 => Request::RemoveTap { vm: id },
        5 => Request::SetNat { vm: id, nat },
        6 | 7 => {
            let spec = spec(rng, &id);
            let fds = vec![folder, kernel, kernel, disk, config];
            return (Request::LaunchVmm { vm: id, spec }, fds);
        }
        8 => Request::ProbeVmm { vm: id },
        9 => {
            use VmmSignal::{Cont, Kill, Stop, Term};
            let signal = [Term, Kill, Stop, Cont][rng.usize(..4)];
            Request::SignalVmm { vm: id, signal }
        }
        10 => return (Request::RemoveVmm { vm: id }, vec![folder]),
        _ => Request::List {},
    };
    (request, vec![])
}

/// The bytes as they are, or hurt.
fn perhaps_broken(rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    if rng.u8(..4) > 0 {
        return bytes;
    }
    for _ in 0..=rng.usize(..4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(..bytes.len());
        match rng.u8(..5) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes.insert(at, rng.u8(..)),
            2 => drop(bytes.remove(at)),
            3 => bytes.truncate(at),
            _ => {
                let again = bytes[at..].to_vec();
                bytes.extend(again);
            }
        }
    }
    if rng.u8(..64) == 0 {
        bytes.resize(70 << 10, b' ');
    }
    bytes
}

/// Sends a datagram and reads the answer. None: the connection is over.
fn exchange(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Reply> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let data = [std::io::IoSlice::new(bytes)];
    sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL).ok()?;
    recv_frame::<Reply>(socket)
        .ok()
        .flatten()
        .map(|(reply, _)| reply)
}

/// The names of the links in the helper's network namespace.
fn links(world: &World) -> Vec<String> {
    let name = |line: &str| {
        let name = line.split(": ").nth(1).unwrap_or_default();
        name.split('@').next().unwrap_or_default().to_owned()
    };
    ip(world.network(), "-o link").lines().map(name).collect()
}

fn check_world(world: &World, canaries: &[Canary], others: &[String]) {
    for canary in canaries {
        canary.check();
    }
    assert!(Path::new(&format!("/proc/{}", world.pid())).exists());
    let links = links(world);
    for other in others {
        assert!(links.contains(other), "{other} is gone: {links:?}");
    }
    for link in links {
        let ours = link.starts_with("banger0") || link.starts_with("bgr");
        assert!(ours || others.contains(&link), "nobody asked for {link}");
    }
}

#[test]
fn a_hostile_owner_gets_nothing_but_its_own() {
    if skipped() {
        return;
    }
    let seconds = std::env::var("BANGER_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let seed = std::env::var("BANGER_FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (BANGER_FUZZ_SEED repeats it)");
    let mut rng = Rng::with_seed(seed);

    let programs = tempfile::tempdir().unwrap();
    fs::set_permissions(programs.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = programs.path().join("vmm");
    fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut world = World::configured(OWNER, program.clone(), usize::from(VMS) - 1);
    world.end(rustix::process::Signal::TERM);
    world.vhost_vsock = program;
    world.start();
    ip(
        world.network(),
        "link add foreign0 type veth peer bgr-not-ours",
    );
    let others = links(&world);

    let secrets = world.temp.path();
    let canaries = [
        Canary::new(secrets.join("of-root"), 0, 0o644),
        Canary::new(secrets.join("of-root-writable"), 0, 0o666),
        Canary::new(secrets.join("of-somebody"), SOMEBODY, 0o644),
    ];
    let descriptors = Descriptors::new(&world, &canaries);

    let hello = serde_json::to_vec(&Request::Hello { protocol: PROTOCOL }).unwrap();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut asked, mut done, mut refused, mut closed) = (0u64, 0u64, 0u64, 0u64);
    while Instant::now() < end {
        let socket = world.socket();
        if rng.u8(..16) > 0 && exchange(&socket, &hello, &[]).is_none() {
            continue;
        }
        for _ in 0..rng.usize(1..40) {
            let (request, fitting) = request(&mut rng);
            let bytes = perhaps_broken(&mut rng, serde_json::to_vec(&request).unwrap());
            let fds = descriptors.some(&mut rng, &fitting);
            asked += 1;
            match exchange(&socket, &bytes, &fds) {
                Some(Reply::Refused(_)) => refused += 1,
                Some(_) => done += 1,
                None => {
                    closed += 1;
                    break;
                }
            }
        }
        check_world(&world, &canaries, &others);
    }
    println!("{asked} requests: {done} done, {refused} refused, {closed} connections ended");
    assert!(done > 0 && refused > 0, "the requests meet nothing");

    let client = world.client();
    for number in 0..VMS {
        let folder = descriptors.0[files_of(number)[3]].as_fd();
        let request = Request::RemoveVmm { vm: vm(number) };
        common::call(&client, &request, &[folder]).unwrap();
        ok(&client, &Request::RemoveTap { vm: vm(number) });
    }
    ok(&client, &Request::RemoveNetwork {});
    check_world(&world, &canaries, &others);
    assert_eq!(links(&world), others, "something is left");
    let log = world.log();
    assert!(!log.contains("panicked"), "{log}");
}
