//! Streams to guests' agents, as the kernel has them (`sock_diag(7)`): who holds one is a client, whoever handed it
//! out. They are Unix sockets, accepted where `run/v` listens; so they are told apart by that file's inode.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

// From include/uapi/linux/{netlink,sock_diag,unix_diag}.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_UNIX: u8 = 1;
/// `1 << TCP_ESTABLISHED`.
const CONNECTED: u32 = 1 << 1;
/// `UDIAG_SHOW_VFS | UDIAG_SHOW_PEER`.
const SHOW: u32 = 0x2 | 0x4;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;

/// A message's header, and that of an attribute.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// What every reply begins with: family, type, state, inode, cookie.
const REPLY: usize = 16;

/// A connected socket that was accepted at a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Accepted {
    /// The lower half of the file's inode.
    file: u32,
    /// The socket at the other end.
    peer: u32,
}

/// Streams that others hold than this process.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Accepted>);

impl Streams {
    /// All there are now.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub(super) fn look() -> io::Result<Self> {
        let ours = own_sockets()?;
        let mut found = ask()?;
        found.retain(|stream| !ours.contains(&stream.peer));
        Ok(Self(found))
    }

    /// Those to the agent behind that socket.
    pub(super) fn to(&self, socket: &Path) -> usize {
        let Ok(metadata) = fs::metadata(socket) else {
            return 0;
        };
        let is_its = |stream: &&Accepted| u64::from(stream.file) == metadata.ino() & 0xffff_ffff;
        self.0.iter().filter(is_its).count()
    }
}

/// The inodes of this process's sockets.
fn own_sockets() -> io::Result<HashSet<u32>> {
    let number = |target: &Path| {
        let text = target.to_str()?.strip_prefix("socket:[")?;
        text.strip_suffix(']')?.parse().ok()
    };
    let links = fs::read_dir("/proc/self/fd")?.flatten();
    Ok(links
        .filter_map(|link| number(&fs::read_link(link.path()).ok()?))
        .collect())
}

fn ask() -> io::Result<Vec<Accepted>> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send_to(&request(), &SocketAddr::new(0, 0), 0)?;
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if !take_in(&datagram, &mut found)? {
            return Ok(found);
        }
    }
}

fn request() -> Vec<u8> {
    let mut body = vec![AF_UNIX, 0, 0, 0];
    body.extend(CONNECTED.to_ne_bytes());
    // Any inode.
    body.extend(0_u32.to_ne_bytes());
    body.extend(SHOW.to_ne_bytes());
    body.extend([0xff; 8]);
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Takes in what a datagram says; false: it was the last one.
fn take_in(datagram: &[u8], found: &mut Vec<Accepted>) -> io::Result<bool> {
    let mut rest = datagram;
    while let Some((kind, body, after)) = message(rest) {
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                return Err(io::Error::other("the kernel tells nothing of Unix sockets"));
            }
            SOCK_DIAG_BY_FAMILY => found.extend(accepted(body)),
            _ => {}
        }
        rest = after;
    }
    Ok(true)
}

/// The first message's kind and body, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((half(bytes, 4)?, body, &bytes[next..]))
}

fn accepted(reply: &[u8]) -> Option<Accepted> {
    let (mut file, mut peer) = (None, None);
    let mut rest = reply.get(REPLY..)?;
    while let Some(length) = half(rest, 0) {
        let length = usize::from(length);
        let Some(value) = rest.get(ATTRIBUTE..length) else {
            break;
        };
        match half(rest, 2)? {
            UNIX_DIAG_VFS => file = number(value, 0),
            UNIX_DIAG_PEER => peer = number(value, 0),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Accepted {
        file: file?,
        // One whose other end is closed holds nobody.
        peer: peer.filter(|inode| *inode != 0)?,
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(two.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_stream_is_found_by_the_file_it_came_through_until_its_client_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (at, elsewhere) = (dir.path().join("v"), dir.path().join("w"));
        let (listener, _other) = (
            UnixListener::bind(&at).unwrap(),
            UnixListener::bind(&elsewhere).unwrap(),
        );
        let count = || {
            let streams = match ask() {
                Ok(found) => Streams(found),
                Err(why) => panic!("the kernel does not tell: {why}"),
            };
            (streams.to(&at), streams.to(&elsewhere))
        };
        assert_eq!(count(), (0, 0));
        let client = UnixStream::connect(&at).unwrap();
        let _held = listener.accept().unwrap();
        assert_eq!(count(), (1, 0));
        // Our own are nobody's use.
        assert_eq!(Streams::look().unwrap().to(&at), 0);
        drop(client);
        assert_eq!(count(), (0, 0));
        assert_eq!(Streams::default().to(Path::new("/nowhere/v")), 0);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = take_in(&bytes, &mut vec![]);
            let _ = accepted(&bytes);
        }
    }
}
