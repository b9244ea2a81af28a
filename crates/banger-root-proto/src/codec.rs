//! One frame is one datagram of a `SOCK_SEQPACKET` socket (unix(7)): JSON, with descriptors beside it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame in bytes.
pub const MAX_FRAME: usize = 64 << 10;
/// The most descriptors beside a frame.
pub const MAX_FDS: usize = 16;

/// Why a frame could not be sent or received. The connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket failed.
    #[error("the helper's connection failed")]
    Socket(#[source] Errno),
    /// Longer than [`MAX_FRAME`], or with more than [`MAX_FDS`] descriptors.
    #[error(
        "the frame is longer than {MAX_FRAME} bytes or carries more than {MAX_FDS} descriptors"
    )]
    TooLarge,
    /// Not the JSON that was expected.
    #[error("the frame is malformed: {0}")]
    Malformed(#[source] serde_json::Error),
}

/// Sends one frame.
///
/// # Errors
/// [`FrameError::TooLarge`] before anything is sent; the socket's own.
pub fn send_frame(
    socket: impl AsFd,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> Result<(), FrameError> {
    let json = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    if json.len() > MAX_FRAME || fds.len() > MAX_FDS {
        return Err(FrameError::TooLarge);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = retry(|| {
        sendmsg(
            &socket,
            &[IoSlice::new(&json)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    });
    sent.map(|_| ()).map_err(FrameError::Socket)
}

/// Receives one frame; `None` when the peer has closed.
///
/// # Errors
/// A truncated, malformed or oversized frame (its descriptors are closed); the socket's own.
pub fn recv_frame<T: DeserializeOwned>(
    socket: impl AsFd,
) -> Result<Option<(T, Vec<OwnedFd>)>, FrameError> {
    let mut bytes = vec![0; MAX_FRAME + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry(|| {
        let mut into = [IoSliceMut::new(&mut bytes)];
        recvmsg(&socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(FrameError::Socket)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    if received.bytes > MAX_FRAME || received.flags.intersects(cut) {
        return Err(FrameError::TooLarge);
    }
    let message =
        serde_json::from_slice(&bytes[..received.bytes]).map_err(FrameError::Malformed)?;
    Ok(Some((message, fds)))
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reply, Request};
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, send, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_frame_and_its_descriptors_arrive() {
        let (ours, theirs) = pair();
        let file = tempfile_like();
        send_frame(&ours, &Request::List {}, &[file.as_fd()]).unwrap();
        let (request, fds) = recv_frame::<Request>(&theirs).unwrap().unwrap();
        assert_eq!((request, fds.len()), (Request::List {}, 1));
        drop(ours);
        assert!(recv_frame::<Request>(&theirs).unwrap().is_none());
    }

    fn tempfile_like() -> OwnedFd {
        rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap()
    }

    #[test]
    fn too_long_and_too_many_are_refused() {
        let (ours, theirs) = pair();
        send(&ours, &vec![b' '; MAX_FRAME + 1], SendFlags::empty()).unwrap();
        assert!(matches!(
            recv_frame::<Request>(&theirs),
            Err(FrameError::TooLarge)
        ));
        let file = tempfile_like();
        let many = vec![file.as_fd(); MAX_FDS + 1];
        assert!(matches!(
            send_frame(&ours, &Request::List {}, &many),
            Err(FrameError::TooLarge)
        ));
    }

    #[test]
    fn unknown_verbs_and_fields_are_refused() {
        for bad in [
            r#"{"verb":"run","argv":["sh"]}"#,
            r#"{"verb":"list","extra":1}"#,
            r#"{"verb":"probe_vmm","vm":"../../etc"}"#,
            r#"{"verb":"remove_tap"}"#,
            "[]",
            "",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
            let (ours, theirs) = pair();
            send(&ours, &bytes, SendFlags::empty()).unwrap();
            prop_assert!(recv_frame::<Request>(&theirs).is_err());
            let _ = serde_json::from_slice::<Reply>(&bytes);
        }
    }
}
