//! Who listens in this guest: the kernel's tables of sockets, and the processes that hold them. No
//! tool of the image is needed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_guest_proto::{Listener, Listeners, MAX_LISTENERS, MAX_OWNER_NAME, Transport};

use super::sockets::{Socket, bound, listening, socket_inode};

/// Every listening socket of this network namespace.
pub(super) fn find() -> Listeners {
    let read =
        |name: &str| fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let tcp = [listening(&read("tcp")), listening(&read("tcp6"))].concat();
    let udp = [bound(&read("udp")), bound(&read("udp6"))].concat();
    let inodes = tcp.iter().chain(&udp).map(|socket| socket.inode).collect();
    let holders = holders(Path::new("/proc"), &inodes);
    let users = users(&fs::read("/etc/passwd").unwrap_or_default());
    let tag = |transport| move |socket: Socket| (transport, socket);
    let tcp = tcp.into_iter().map(tag(Transport::Tcp));
    let udp = udp.into_iter().map(tag(Transport::Udp));
    let mut listeners: Vec<Listener> = tcp
        .chain(udp)
        .map(|(transport, socket)| {
            let holder = holders.get(&socket.inode);
            Listener {
                transport,
                address: socket.address,
                port: socket.port,
                uid: socket.uid,
                user: users.get(&socket.uid).cloned(),
                pid: holder.map(|(pid, _)| *pid),
                process: holder.map(|(_, name)| name.clone()),
            }
        })
        .collect();
    listeners.sort_by_key(|it| (it.transport, it.port, it.address, it.pid));
    // Sockets that share a port (SO_REUSEPORT) of one process are one listener.
    listeners.dedup();
    let cut = listeners.len() > MAX_LISTENERS;
    listeners.truncate(MAX_LISTENERS);
    Listeners { listeners, cut }
}

/// Which process holds which of these sockets; the one with the lowest number, of several.
fn holders(proc: &Path, inodes: &HashSet<u64>) -> HashMap<u64, (u32, String)> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut holders = HashMap::new();
    for pid in pids {
        let folder = proc.join(pid.to_string());
        // A process that has just ended has no folder any more.
        let fds = fs::read_dir(folder.join("fd")).into_iter().flatten();
        for fd in fds.flatten() {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            let inode = socket_inode(link.as_os_str().as_bytes());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                holders
                    .entry(inode)
                    .or_insert_with(|| (pid, name_of(&folder)));
            }
        }
    }
    holders
}

fn name_of(folder: &Path) -> String {
    let name = fs::read(folder.join("comm")).unwrap_or_default();
    owner_name(&name)
}

/// A name as an answer may carry it.
fn owner_name(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut name = String::new();
    for c in text.trim_end_matches('\n').chars() {
        if name.len() + c.len_utf8() > MAX_OWNER_NAME {
            break;
        }
        name.push(if c.is_control() { '?' } else { c });
    }
    name
}

/// The names of users, by number; the first of several counts (passwd(5)).
fn users(passwd: &[u8]) -> HashMap<u32, String> {
    let mut users = HashMap::new();
    for line in passwd.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else {
            continue;
        };
        let uid = std::str::from_utf8(uid)
            .ok()
            .and_then(|uid| uid.parse().ok());
        if let (Some(uid), false) = (uid, name.is_empty()) {
            users.entry(uid).or_insert_with(|| owner_name(name));
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_socket_of_our_own_is_found_with_its_process_and_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = find().listeners;
        for (transport, port) in [
            (Transport::Tcp, listener.local_addr().unwrap().port()),
            (Transport::Udp, datagrams.local_addr().unwrap().port()),
        ] {
            let ours = found
                .iter()
                .find(|it| it.transport == transport && it.port == port)
                .unwrap();
            assert!(ours.address.is_loopback());
            assert_eq!(ours.pid, Some(std::process::id()));
            assert_eq!(ours.uid, rustix::process::getuid().as_raw());
            assert!(ours.process.as_ref().is_some_and(|name| !name.is_empty()));
        }
    }

    #[test]
    fn users_have_names_where_the_table_has_them() {
        let users = users(b"root:x:0:0::/:/bin/sh\nbroken\n:x:5:\nme:x:1000:1::/:\nme2:x:1000:1\n");
        assert_eq!(users.get(&0).map(String::as_str), Some("root"));
        assert_eq!(users.get(&1000).map(String::as_str), Some("me"));
        assert_eq!(users.len(), 2);
    }

    proptest! {
        #[test]
        fn a_name_is_short_and_has_nothing_that_a_terminal_would_obey(bytes: Vec<u8>) {
            let name = owner_name(&bytes);
            prop_assert!(name.len() <= MAX_OWNER_NAME);
            prop_assert!(!name.chars().any(char::is_control));
            users(&bytes);
        }
    }
}
