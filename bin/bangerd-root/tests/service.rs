//! The helper as a systemd service: a socket opened by somebody else, options in root's file, readiness said;
//! and taking everything down when the installation goes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

mod common;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banger_root_proto::{Client, Reply, Request};
use common::{World, ip, ok, skipped, vm};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::{Pid, Signal, kill_process};

const OWNER: u32 = 4242;

/// The file's options are those of the world's helper.
fn config(world: &World) -> std::path::PathBuf {
    let path = world.temp.path().join("root.toml");
    let text = format!(
        "# written by a test\nowner = {}\nruntime-dir = \"{}\"\nbridge = \"banger0\"\nbridge-ip = \"172.16.0.1\"\n\
         prefix = 24\nqemu = \"{}\"\nvhost-vsock = \"{}\"\n",
        world.owner,
        world.runtime_dir().display(),
        world.qemu.display(),
        world.vhost_vsock.display(),
    );
    fs::write(&path, text).unwrap();
    path
}

/// What the service manager does: the socket as descriptor 3, its own process id in the environment.
fn activate(world: &World, socket: &OwnedFd, notify: &std::path::Path) -> Child {
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let mut command = Command::new("nsenter");
    command.args(["-t", &world.network().to_string(), "-n"]);
    command.args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_bangerd-root")]);
    command
        .arg("--config")
        .arg(config(world))
        .arg("--foreground");
    command
        .env("NOTIFY_SOCKET", notify)
        .stdin(socket.try_clone().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_socket_is_the_managers_and_requests_wait_in_it_for_the_next_helper() {
    if skipped() {
        return;
    }
    let mut world = World::new(OWNER);
    world.end(Signal::TERM);
    let path = world.temp.path().join("activated.sock");
    let kind = SocketType::SEQPACKET;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    chown(&path, Some(OWNER), None).unwrap();
    listen(&socket, 16).unwrap();
    let notify = world.temp.path().join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut said = [0; 32];

    let helper = activate(&world, &socket, &notify);
    let length = manager.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    let client = world.as_owner(|| Client::connect(&path)).unwrap();
    assert!(matches!(ok(&client, &Request::List {}), Reply::Owned(_)));
    assert!(!world.runtime_dir().join("helper.sock").exists());
    end(helper);
    assert!(path.exists(), "the manager's socket stays");

    // Connected before there is a helper: it is answered by the one that comes.
    let early = std::thread::scope(|scope| {
        let early = scope.spawn(|| world.as_owner(|| Client::connect(&path)));
        let helper = activate(&world, &socket, &notify);
        let client = early.join().unwrap().unwrap();
        ok(&client, &Request::List {});
        helper
    });
    end(early);
    world.start();
}

#[test]
fn another_socket_than_ours_is_refused() {
    if skipped() {
        return;
    }
    let mut world = World::new(OWNER);
    world.end(Signal::TERM);
    let kind = SocketType::STREAM;
    let stream = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    let mut helper = activate(&world, &stream, std::path::Path::new("/nowhere"));
    assert!(!helper.wait().unwrap().success());
    world.start();
}

#[test]
fn clearing_takes_everything_down_and_only_without_a_helper() {
    if skipped() {
        return;
    }
    let mut world = World::new(OWNER);
    let client = world.client();
    ok(&client, &Request::EnsureNetwork {});
    let tap = Request::EnsureTap {
        vm: vm(1),
        address: "172.16.0.2".parse().unwrap(),
        nat: false,
    };
    ok(&client, &tap);
    drop(client);
    let network = world.network();
    let config = config(&world);
    let clear = || {
        let mut command = Command::new("nsenter");
        command.args(["-t", &network.to_string(), "-n"]);
        command
            .arg(env!("CARGO_BIN_EXE_bangerd-root"))
            .arg("--config")
            .arg(&config)
            .arg("--clear");
        command.output().unwrap()
    };
    let running = clear();
    assert!(!running.status.success());
    let why = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(why.contains("stop it first"), "{why}");
    assert!(ip(network, "-o link").contains("banger0"));

    world.end(Signal::KILL);
    let cleared = clear();
    assert!(cleared.status.success(), "{cleared:?}");
    let links = ip(network, "-o link");
    assert_eq!(links.lines().count(), 1, "only lo is left: {links}");
    assert!(clear().status.success(), "again is fine");
    world.start();
}
