//! Receiving a connection to a guest: our byte says that we read nothing ahead, the daemon's byte
//! carries the descriptor (unix(7), `SCM_RIGHTS`).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream as StdUnixStream;

use hyper_util::rt::TokioIo;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

pub(crate) async fn receive(upgraded: hyper::upgrade::Upgraded) -> io::Result<StdUnixStream> {
    let wrong = || io::Error::other("the connection is no Unix socket");
    let parts = upgraded
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| wrong())?;
    let mut daemon = parts.io.into_inner();
    daemon.write_u8(0).await?;
    daemon
        .async_io(Interest::READABLE, || receive_fd(&daemon))
        .await
}

fn receive_fd(daemon: &UnixStream) -> io::Result<StdUnixStream> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        daemon,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(StdUnixStream::from(fd));
        }
    }
    let why = if received.bytes == 0 {
        "the daemon closed the connection"
    } else {
        "no descriptor came"
    };
    Err(io::Error::other(why))
}
