//! A helper in a network namespace and a directory of its own, gone with the value.
#![allow(
    clippy::print_stderr,
    reason = "the helper's log, when a test has failed"
)]
#![allow(dead_code, reason = "each test file uses another part of it")]

pub(crate) mod packets;

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io::Read as _, thread};

use banger_core::VmId;
use banger_root_proto::{CallError, Client, Refusal, RefusalCode, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

/// Says loudly why a test does nothing; true when it must end.
pub(crate) fn skipped() -> bool {
    let missing = |tool: &str| {
        let found = Command::new(tool)
            .arg("-V")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_err().then(|| format!("`{tool}` is missing"))
    };
    let why = match rustix::process::geteuid().is_root() {
        false => Some("not root".to_owned()),
        true => ["unshare", "nft", "ip"].into_iter().find_map(missing),
    };
    if let Some(why) = &why {
        println!("SKIPPED(helper): {why}");
    }
    why.is_some()
}

pub(crate) fn vm(number: u8) -> VmId {
    VmId::from_entropy([number, 0xab, 0xcd, 0xef, 0x01, 0x02])
}

/// A network namespace, as long as its process.
pub(crate) struct Netns(Child);

impl Netns {
    pub(crate) fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo up; exec cat"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 3];
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs something on a thread inside the network namespace of a process.
pub(crate) fn inside<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let enter = || {
            let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind).unwrap();
            work()
        };
        scope.spawn(enter).join().unwrap()
    })
}

/// Runs `ip`, words separated by blanks, inside the network namespace of a process.
pub(crate) fn ip(pid: u32, args: &str) -> String {
    let (pid, target) = (pid.to_string(), "-n");
    let mut command = Command::new("nsenter");
    command
        .args(["-t", &pid, target, "ip"])
        .args(args.split(' '));
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A running helper.
pub(crate) struct World {
    pub(crate) temp: TempDir,
    pub(crate) owner: u32,
    pub(crate) qemu: PathBuf,
    pub(crate) max_vms: usize,
    pub(crate) vhost_vsock: PathBuf,
    pub(crate) firecracker: Option<PathBuf>,
    helper: Option<Child>,
    /// Bridge and the host's address on it.
    bridge: [&'static str; 2],
    /// A process in the helper's network namespace, and the namespace when it is ours to end.
    network: (u32, Option<Netns>),
}

impl World {
    pub(crate) fn new(owner: u32) -> Self {
        Self::configured(owner, "/usr/bin/qemu-system-x86_64".into(), 64)
    }

    pub(crate) fn configured(owner: u32, qemu: PathBuf, max_vms: usize) -> Self {
        let network = Netns::new();
        let network = (network.pid(), Some(network));
        Self::made(owner, qemu, max_vms, ["banger0", "172.16.0.1"], network)
    }

    /// Another owner's helper, in the same network namespace.
    pub(crate) fn beside(
        world: &Self,
        owner: u32,
        bridge: &'static str,
        address: &'static str,
    ) -> Self {
        let network = (world.network(), None);
        Self::made(owner, world.qemu.clone(), 64, [bridge, address], network)
    }

    fn made(
        owner: u32,
        qemu: PathBuf,
        max_vms: usize,
        bridge: [&'static str; 2],
        network: (u32, Option<Netns>),
    ) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let mut world = Self {
            temp,
            owner,
            qemu,
            max_vms,
            vhost_vsock: Self::backend(),
            firecracker: None,
            helper: None,
            bridge,
            network,
        };
        world.start();
        world
    }

    /// The helper's process.
    pub(crate) fn pid(&self) -> u32 {
        self.helper.as_ref().unwrap().id()
    }

    /// A process that stays in the helper's network namespace.
    pub(crate) fn network(&self) -> u32 {
        self.network.0
    }

    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.temp.path().join("h")
    }

    /// The helper as it was built with the tests, or where they were told on another machine.
    pub(crate) fn program() -> PathBuf {
        match std::env::var_os("BANGER_TEST_PROGRAMS") {
            Some(folder) => Path::new(&folder).join("bangerd-root"),
            None => env!("CARGO_BIN_EXE_bangerd-root").into(),
        }
    }

    pub(crate) fn backend() -> PathBuf {
        Self::program().with_file_name("banger-vhost-vsock")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.network().to_string(), "-n"]);
        command.arg(Self::program());
        command.args(["--owner", &self.owner.to_string()]);
        command.arg("--runtime-dir").arg(self.runtime_dir());
        let [bridge, address] = self.bridge;
        command.args(["--bridge", bridge, "--bridge-ip", address, "--prefix", "24"]);
        command.arg("--qemu").arg(&self.qemu);
        command.arg("--vhost-vsock").arg(&self.vhost_vsock);
        if let Some(firecracker) = &self.firecracker {
            command.arg("--firecracker").arg(firecracker);
        }
        command.args(["--max-vms", &self.max_vms.to_string()]);
        command
    }

    pub(crate) fn start(&mut self) {
        let mut command = self.command();
        command
            .arg("--foreground")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "ready\n");
        self.helper = Some(child);
    }

    pub(crate) fn end(&mut self, signal: Signal) {
        let mut helper = self.helper.take().unwrap();
        let pid = rustix::process::Pid::from_child(&helper);
        rustix::process::kill_process(pid, signal).unwrap();
        helper.wait().unwrap();
    }

    /// Does something as the owner, on a thread with only the owner's rights.
    pub(crate) fn as_owner<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        thread::scope(|scope| {
            let change = || {
                rustix::thread::set_thread_groups(&[]).unwrap();
                rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                work()
            };
            scope.spawn(change).join().unwrap()
        })
    }

    pub(crate) fn client(&self) -> Client {
        let path = self.runtime_dir().join("helper.sock");
        self.as_owner(|| Client::connect(&path)).unwrap()
    }

    /// A connection of the owner's that has not said hello.
    pub(crate) fn socket(&self) -> OwnedFd {
        let kind = SocketType::SEQPACKET;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let address = SocketAddrUnix::new(self.runtime_dir().join("helper.sock")).unwrap();
        self.as_owner(|| connect(&socket, &address)).unwrap();
        socket
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.runtime_dir().join("helper.log")).unwrap()
    }

    /// A directory of the owner's.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.temp.path().join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(self.owner), Some(self.owner)).unwrap();
        path
    }

    /// A file of the owner's.
    pub(crate) fn file(&self, path: &Path, content: &[u8], mode: u32) -> File {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chown(path, Some(self.owner), Some(self.owner)).unwrap();
        File::open(path).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.helper.is_some() {
            // A test that failed in the middle leaves VMs.
            let path = self.runtime_dir().join("helper.sock");
            if let Ok(client) = self.as_owner(|| Client::connect(&path))
                && let Ok((Reply::Owned(facts), _)) = client.call(&Request::List {}, &[])
            {
                for owned in facts.vmms {
                    let _ = client.call(&Request::RemoveVmm { vm: owned.vm }, &[]);
                }
            }
            self.end(Signal::TERM);
        }
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// What came, or why it was refused.
pub(crate) fn call(
    client: &Client,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
    match client.call(request, fds) {
        Ok(answer) => Ok(answer),
        Err(CallError::Refused(refusal)) => Err(refusal),
        Err(other) => panic!("{other:?}"),
    }
}

pub(crate) fn ok(client: &Client, request: &Request) -> Reply {
    call(client, request, &[])
        .unwrap_or_else(|refusal| panic!("{refusal:?}"))
        .0
}

pub(crate) fn code(client: &Client, request: &Request) -> RefusalCode {
    call(client, request, &[]).unwrap_err().code
}

/// Runs a program inside the network namespace of a process: what it printed, when it ended well.
pub(crate) fn tool(pid: u32, words: &[&str]) -> Option<String> {
    let mut command = Command::new("nsenter");
    command.args(["-t", &pid.to_string(), "-n"]).args(words);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    output.status.success().then_some(text)
}

/// Waits for something that comes by itself.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + packets::PATIENCE * 4;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come");
        thread::yield_now();
    }
}

/// A kernel for `-kernel` (ELF with the PVH entry note, "x86/HVM direct boot ABI") that prints
/// `hi` on the first serial port and halts.
pub(crate) fn tiny_kernel() -> Vec<u8> {
    const CODE: &[u8] = &[
        0xba, 0xf8, 0x03, 0, 0, // mov edx, 0x3f8
        0xb0, b'h', 0xee, 0xb0, b'i', 0xee, 0xb0, b'\n', 0xee, // mov al, …; out dx, al
        0xfa, 0xf4, 0xeb, 0xfd, // cli; hlt; jmp to hlt
    ];
    const ENTRY: u32 = 0x10_1000;
    let words = |values: &[u32]| {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let length = u32::try_from(CODE.len()).unwrap();
    let mut image = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    image.extend(words(&[1, ENTRY, 52, 0, 0]));
    image.extend([52, 0, 32, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    image.extend(words(&[1, 0x1000, ENTRY, ENTRY, length, length, 7, 0x1000]));
    image.extend(words(&[4, 116, 0, 0, 20, 20, 4, 4]));
    image.extend(words(&[4, 4, 18]));
    image.extend(b"Xen\0");
    image.extend(ENTRY.to_le_bytes());
    image.resize(0x1000, 0);
    image.extend(CODE);
    image
}

/// Waits until a file holds a text, woken by each change of it.
pub(crate) fn wait_for(path: &Path, text: &str) {
    use rustix::fs::inotify;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
    inotify::add_watch(&watch, path.parent().unwrap(), flags).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let holds = || fs::read_to_string(path).is_ok_and(|content| content.contains(text));
    while !holds() {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{} never held `{text}`", path.display());
        let timeout = Timespec::try_from(left).unwrap();
        poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout)).unwrap();
        rustix::io::read(&watch, &mut [0; 4096]).unwrap();
    }
}
