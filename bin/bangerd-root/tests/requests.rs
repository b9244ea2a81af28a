//! Who may ask, how, and what a bad request gets: an answer, and nothing changed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::process::Command;

use banger_core::MemoryMib;
use banger_root_proto::{
    Accel, CacheMode, CallError, Client, DriveFormat, DriveRole, DriveSpec, LaunchSpec, Refusal,
    RefusalCode, Reply, Request, VmmSpec, recv_frame, send_frame,
};
use common::{World, call, code, ok, skipped, vm};
use rustix::net::{SendFlags, send};
use rustix::process::Signal;

const OWNER: u32 = 4242;

fn refusal(socket: &std::os::fd::OwnedFd) -> RefusalCode {
    match recv_frame::<Reply>(socket).unwrap().unwrap().0 {
        Reply::Refused(Refusal { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

fn is_closed(socket: &std::os::fd::OwnedFd) -> bool {
    matches!(recv_frame::<Reply>(socket), Ok(None) | Err(_))
}

#[test]
fn only_the_owner_is_served() {
    if skipped() {
        return;
    }
    let world = World::new(OWNER);
    let path = world.runtime_dir().join("helper.sock");
    // This test is root: the socket's mode does not keep it out, its user id does.
    assert!(matches!(Client::connect(&path), Err(CallError::Refused(_))));
    assert!(world.log().contains("refused (not the owner)"));
    assert_eq!(world.client().info().bridge, "banger0");
}

#[test]
fn malformed_oversized_and_early_requests_are_refused() {
    if skipped() {
        return;
    }
    let world = World::new(OWNER);
    for bad in [
        &b"{"[..],
        b"{\"verb\":\"shell\",\"argv\":[\"sh\"]}",
        b"{\"verb\":\"list\",\"x\":1}",
        b"{\"verb\":\"remove_tap\",\"vm\":\"../../../etc\"}",
        &[b' '; (64 << 10) + 1],
    ] {
        let socket = world.socket();
        send(&socket, bad, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(refusal(&socket), RefusalCode::Invalid);
        assert!(is_closed(&socket));
    }
    let early = world.socket();
    send_frame(&early, &Request::List {}, &[]).unwrap();
    assert_eq!(refusal(&early), RefusalCode::Protocol);
    let old = world.socket();
    send_frame(&old, &Request::Hello { protocol: 0 }, &[]).unwrap();
    assert_eq!(refusal(&old), RefusalCode::Protocol);
    assert!(is_closed(&old));
    // A descriptor where none belongs.
    let client = world.client();
    let null = File::open("/dev/null").unwrap();
    let refused = call(&client, &Request::List {}, &[null.as_fd()]).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Descriptor);
    // And it still serves.
    ok(&client, &Request::List {});
}

#[test]
fn connections_are_limited() {
    if skipped() {
        return;
    }
    let world = World::new(OWNER);
    let many: Vec<Client> = (0..8).map(|_| world.client()).collect();
    let path = world.runtime_dir().join("helper.sock");
    let one_more = world.as_owner(|| Client::connect(&path));
    assert!(matches!(
        one_more,
        Err(CallError::Refused(Refusal {
            code: RefusalCode::Quota,
            ..
        }))
    ));
    ok(&many[7], &Request::List {});
}

#[test]
fn one_helper_for_a_directory_and_a_stale_socket_is_replaced() {
    if skipped() {
        return;
    }
    let mut world = World::new(OWNER);
    let output = world.command().output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"already running\n");
    world.end(Signal::KILL);
    assert!(world.runtime_dir().join("helper.sock").exists());
    world.start();
    ok(&world.client(), &Request::List {});
    world.end(Signal::TERM);
    assert!(!world.runtime_dir().join("helper.sock").exists());
    // In the background: it has ended when the other one listens.
    let output = world.command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let pid = world.client().info().pid;
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let mut fds = [rustix::event::PollFd::new(
        &handle,
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut fds, None).unwrap();
}

#[test]
fn what_cannot_start_says_why() {
    if skipped() {
        return;
    }
    let mut world = World::new(OWNER);
    world.end(Signal::TERM);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let newer = format!("{{\"version\":99,\"boot_id\":\"{}\"}}", boot.trim());
    fs::write(world.runtime_dir().join("ledger.json"), newer).unwrap();
    let output = world.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("written by another banger (version 99"),
        "{stderr}"
    );
    fs::remove_dir_all(world.runtime_dir()).unwrap();
    std::os::unix::fs::symlink("/tmp", world.runtime_dir()).unwrap();
    let output = world.command().output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("not a directory that only root can write to"),
        "{stderr}"
    );
    fs::remove_file(world.runtime_dir()).unwrap();
    let usage = Command::new(env!("CARGO_BIN_EXE_bangerd-root"))
        .arg("--shell")
        .output()
        .unwrap();
    assert_eq!(usage.status.code(), Some(2));
    world.start();
}

#[test]
fn bad_taps_are_refused() {
    if skipped() {
        return;
    }
    let world = World::configured(OWNER, "/usr/bin/qemu-system-x86_64".into(), 2);
    let client = world.client();
    let tap = |number, address: &str| Request::EnsureTap {
        vm: vm(number),
        address: address.parse().unwrap(),
        nat: false,
    };
    assert_eq!(
        code(&client, &tap(1, "172.16.0.2")),
        RefusalCode::Unknown,
        "no bridge yet"
    );
    ok(&client, &Request::EnsureNetwork {});
    for bad in [
        "172.16.0.1",
        "172.16.0.0",
        "172.16.0.255",
        "172.16.1.2",
        "127.0.0.1",
    ] {
        assert_eq!(code(&client, &tap(1, bad)), RefusalCode::Invalid, "{bad}");
    }
    ok(&client, &tap(1, "172.16.0.2"));
    ok(&client, &tap(1, "172.16.0.2"));
    assert_eq!(code(&client, &tap(2, "172.16.0.2")), RefusalCode::Conflict);
    ok(&client, &tap(2, "172.16.0.3"));
    assert_eq!(code(&client, &tap(3, "172.16.0.4")), RefusalCode::Quota);
    assert_eq!(
        code(
            &client,
            &Request::SetNat {
                vm: vm(3),
                nat: true
            }
        ),
        RefusalCode::Unknown
    );
    assert_eq!(code(&client, &Request::RemoveNetwork {}), RefusalCode::Busy);
    for number in 1..=3 {
        ok(&client, &Request::RemoveTap { vm: vm(number) });
    }
    ok(&client, &Request::RemoveNetwork {});
    ok(&client, &Request::RemoveNetwork {});
}

#[test]
fn bad_launches_are_refused_and_leave_nothing() {
    if skipped() {
        return;
    }
    if !World::backend().exists() {
        println!("SKIPPED(backend): banger-vhost-vsock is not built");
        return;
    }
    let world = World::new(OWNER);
    let client = world.client();
    let folder_path = world.folder("vm");
    let folder = File::open(&folder_path).unwrap();
    let shared = world.file(&folder_path.join("kernel"), b"not a kernel", 0o644);
    let private = world.file(&folder_path.join("private"), b"x", 0o600);
    let root = world.file(&folder_path.join("disk"), &[0; 512], 0o644);
    let spec = LaunchSpec {
        vmm: VmmSpec::Qemu { accel: Accel::Tcg },
        vcpu: 1,
        memory_mib: MemoryMib(64),
        boot_args: String::new(),
        drives: vec![DriveSpec {
            role: DriveRole::Root,
            format: DriveFormat::Raw,
            read_only: false,
        }],
        mac: None,
        cache: CacheMode::Unsafe,
    };
    let launch = |spec: &LaunchSpec, fds: [&File; 4]| {
        let request = Request::LaunchVmm {
            vm: vm(1),
            spec: spec.clone(),
        };
        let fds = fds.map(|file| file.as_fd());
        let refusal = call(&client, &request, &fds).unwrap_err();
        assert!(!folder_path.join("run").exists(), "{refusal:?}");
        refusal.code
    };
    let good = [&folder, &shared, &shared, &root];
    for change in [
        (|s: &mut LaunchSpec| s.vcpu = 0) as fn(&mut LaunchSpec),
        |s| s.memory_mib = MemoryMib(0),
        |s| s.boot_args = "a\nb".into(),
        |s| s.drives.clear(),
        |s| s.mac = Some(vm(2).mac()),
        |s| {
            s.vmm = VmmSpec::Firecracker {};
            s.drives[0].format = DriveFormat::Qcow2;
        },
    ] {
        let mut spec = spec.clone();
        change(&mut spec);
        assert_eq!(launch(&spec, good), RefusalCode::Invalid, "{spec:?}");
    }
    let with_tap = LaunchSpec {
        mac: Some(vm(1).mac()),
        ..spec.clone()
    };
    assert_eq!(launch(&with_tap, good), RefusalCode::Unknown, "no such tap");
    let in_firecracker = LaunchSpec {
        vmm: VmmSpec::Firecracker {},
        ..spec.clone()
    };
    let code = launch(&in_firecracker, good);
    assert_eq!(code, RefusalCode::HostNotReady, "it was given none");
    let null = File::open("/dev/null").unwrap();
    let of_root = File::open("/etc/hostname").unwrap();
    let elsewhere = File::open("/").unwrap();
    for bad in [
        [&elsewhere, &shared, &shared, &root],
        [&shared, &shared, &shared, &root],
        [&folder, &null, &shared, &root],
        [&folder, &private, &shared, &root],
        [&folder, &shared, &folder, &root],
        [&folder, &shared, &shared, &of_root],
        [&folder, &shared, &shared, &null],
    ] {
        assert_eq!(launch(&spec, bad), RefusalCode::Descriptor);
    }
    // Another file system.
    let other = tempfile::Builder::new().tempfile_in("/dev/shm").unwrap();
    let other = world.file(other.path(), b"x", 0o644);
    assert_eq!(
        launch(&spec, [&folder, &other, &shared, &root]),
        RefusalCode::Descriptor
    );
    // A link where the run folder belongs.
    std::os::unix::fs::symlink("/etc", folder_path.join("run")).unwrap();
    let request = Request::LaunchVmm {
        vm: vm(1),
        spec: spec.clone(),
    };
    let refused = call(&client, &request, &good.map(|file| file.as_fd())).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Descriptor, "{refused:?}");
    assert!(fs::metadata("/etc/passwd").is_ok());
    let Reply::Owned(facts) = ok(&client, &Request::List {}) else {
        panic!()
    };
    assert_eq!(facts.vmms, vec![]);
}

#[test]
fn a_missing_vmm_is_named() {
    if skipped() {
        return;
    }
    let world = World::configured(OWNER, "/nowhere/qemu".into(), 2);
    let client = world.client();
    let spec = LaunchSpec {
        vmm: VmmSpec::Qemu { accel: Accel::Tcg },
        vcpu: 1,
        memory_mib: MemoryMib(64),
        boot_args: String::new(),
        drives: vec![DriveSpec {
            role: DriveRole::Root,
            format: DriveFormat::Raw,
            read_only: true,
        }],
        mac: None,
        cache: CacheMode::Unsafe,
    };
    let folder_path = world.folder("vm");
    let folder = File::open(&folder_path).unwrap();
    let file = world.file(&folder_path.join("file"), b"x", 0o644);
    let fds = [folder.as_fd(), file.as_fd(), file.as_fd(), file.as_fd()];
    let refused = call(&client, &Request::LaunchVmm { vm: vm(1), spec }, &fds).unwrap_err();
    assert_eq!(refused.code, RefusalCode::HostNotReady);
    assert!(refused.message.contains("/nowhere/qemu"), "{refused:?}");
}
