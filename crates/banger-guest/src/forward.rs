//! The host's side of forwarded streams. Asynchronous: one command carries many of them.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use banger_guest_proto::{
    AgentMessage, ClientMessage, Decoder, ForwardReply, ForwardRequest, Frame, INITIAL_WINDOW,
    MAX_DATA, ReceiveWindow, Stream, WindowExceeded, encode_control, encode_data, encode_frame,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Semaphore, mpsc};

use crate::session::{Conversation, Said, SessionError};

/// Asks the agent for a stream or a listener. Blocks for a round trip; `stream` is a dialled
/// connection on which nothing was spoken yet. Gives the agent's answer, and the connection.
///
/// # Errors
/// [`SessionError`] when the agent refuses, is too old, or is gone.
pub fn ask(
    stream: StdUnixStream,
    request: ForwardRequest,
) -> Result<(ForwardReply, StdUnixStream), SessionError> {
    let mut conversation = Conversation::begin_exact(stream, &ClientMessage::Forward(request))?;
    let Said::Forward(reply) = conversation.next()? else {
        return Err(SessionError::Unexpected);
    };
    Ok((reply, conversation.into_stream()?))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Frames from an agent.
#[derive(Debug)]
pub struct Frames<R> {
    from: R,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Over the reading half of a connection.
    pub fn new(from: R) -> Self {
        Self {
            from,
            decoder: Decoder::default(),
            buffer: vec![0; MAX_DATA],
        }
    }

    /// The next frame; `None` when the connection has ended. Cancel-safe.
    ///
    /// # Errors
    /// The connection failed, or carries something else.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(invalid)? {
                return Ok(Some(frame));
            }
            match self.from.read(&mut self.buffer).await? {
                0 => return Ok(None),
                count => self.decoder.push(&self.buffer[..count]),
            }
        }
    }

    /// The token of the next who connected in the guest; `None` when the listener is gone.
    ///
    /// # Errors
    /// The connection failed, or carries something else.
    pub async fn accepted(&mut self) -> io::Result<Option<u64>> {
        match self.next().await? {
            None => Ok(None),
            Some(Frame::Control(json)) => match Frame::parse(&json).map_err(invalid)? {
                AgentMessage::Forward(ForwardReply::Accepted { token }) => Ok(Some(token)),
                _ => Err(invalid("an answer that does not fit the question")),
            },
            Some(_) => Err(invalid("a frame that has no place here")),
        }
    }
}

/// Carries bytes between a stream that the agent has opened in the guest, and one of the host's, until
/// both directions have ended, and both sides have passed on what they had. Neither direction holds the
/// other up.
///
/// # Errors
/// One of the two failed.
pub async fn relay<S>(guest: StdUnixStream, local: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    guest.set_nonblocking(true)?;
    let (from_guest, to_guest) = UnixStream::from_std(guest)?.into_split();
    let (from_local, to_local) = tokio::io::split(local);
    let to_guest = Mutex::new(to_guest);
    let window = Semaphore::new(INITIAL_WINDOW as usize);
    // Bounded by the guest's window, which `held` checks.
    let (pieces, to_write) = mpsc::unbounded_channel();
    let held = AtomicUsize::new(0);
    let mut up = std::pin::pin!(upload(from_local, &to_guest, &window));
    let mut down = std::pin::pin!(download(to_write, to_local, &to_guest, &held));
    let mut heard = std::pin::pin!(receive(from_guest, pieces, &window, &held));
    let (mut up_done, mut down_done, mut heard_done) = (false, false, false);
    let mut failure = None;
    while !(up_done && down_done) {
        tokio::select! {
            // The guest takes no more. What it has sent is still to be written here.
            _ = &mut up, if !up_done => up_done = true,
            () = &mut down, if !down_done => down_done = true,
            // The connection has ended: nobody takes what is still to be sent.
            result = &mut heard, if !heard_done => {
                (heard_done, up_done) = (true, true);
                failure = result.err();
            }
        }
    }
    if !heard_done {
        // The guest passes on what it has, and then hangs up, too.
        let _ = to_guest.lock().await.shutdown().await;
        failure = heard.await.err();
    }
    failure.map_or(Ok(()), Err)
}

async fn say(to_guest: &Mutex<OwnedWriteHalf>, bytes: &[u8]) -> io::Result<()> {
    to_guest.lock().await.write_all(bytes).await
}

/// From the host's stream to the guest.
async fn upload(
    mut from: impl AsyncRead + Unpin,
    to_guest: &Mutex<OwnedWriteHalf>,
    window: &Semaphore,
) -> io::Result<()> {
    let mut buffer = vec![0; MAX_DATA];
    loop {
        // At least one byte's room, and then as much as there is.
        let Ok(first) = window.acquire().await else {
            return Ok(());
        };
        let most = (1 + window.available_permits()).min(buffer.len());
        let count = from.read(&mut buffer[..most]).await.unwrap_or(0);
        let mut bytes = vec![];
        if count == 0 {
            encode_control(&mut bytes, &ClientMessage::StdinEof);
            return say(to_guest, &bytes).await;
        }
        first.forget();
        window.forget_permits(count - 1);
        encode_data(&mut bytes, Stream::Stdin, &buffer[..count]);
        say(to_guest, &bytes).await?;
    }
}

/// What the guest says: its bytes to be written, room for ours.
async fn receive(
    from: OwnedReadHalf,
    pieces: mpsc::UnboundedSender<Vec<u8>>,
    window: &Semaphore,
    held: &AtomicUsize,
) -> io::Result<()> {
    let mut frames = Frames::new(from);
    let mut pieces = Some(pieces);
    loop {
        match frames.next().await? {
            None => {
                return Ok(());
            }
            Some(Frame::Data(Stream::Stdout, bytes)) => {
                let before = held.fetch_add(bytes.len(), Ordering::Relaxed);
                if before + bytes.len() > INITIAL_WINDOW as usize {
                    return Err(invalid(WindowExceeded));
                }
                if let Some(pieces) = &pieces {
                    let _ = pieces.send(bytes);
                }
            }
            Some(Frame::Credit(Stream::Stdin, count)) => {
                let count = usize::try_from(count).unwrap_or_default();
                let room = window.available_permits().saturating_add(count);
                if room > INITIAL_WINDOW as usize {
                    return Err(invalid("more credit than was used"));
                }
                window.add_permits(count);
            }
            Some(Frame::Control(json)) => match Frame::parse(&json).map_err(invalid)? {
                AgentMessage::StdoutEof => pieces = None,
                _ => return Err(invalid("an answer that does not fit the question")),
            },
            Some(_) => return Err(invalid("a frame that has no place here")),
        }
    }
}

/// From the guest to the host's stream. That the guest hears no more ends nothing: it may have said its
/// last, and what it said is written in any case.
async fn download(
    mut pieces: mpsc::UnboundedReceiver<Vec<u8>>,
    mut to: impl AsyncWrite + Unpin,
    to_guest: &Mutex<OwnedWriteHalf>,
    held: &AtomicUsize,
) {
    let mut window = ReceiveWindow::default();
    let mut open = true;
    while let Some(piece) = pieces.recv().await {
        let length = piece.len();
        let mut bytes = vec![];
        if open && to.write_all(&piece).await.is_err() {
            // Nobody reads it any more; the guest shall know.
            open = false;
            let stream = Stream::Stdout;
            encode_control(&mut bytes, &ClientMessage::CloseOutput { stream });
        }
        held.fetch_sub(length, Ordering::Relaxed);
        // `held` was checked when it came.
        if window.received(length).is_ok()
            && let Some(count) = window.consumed(length)
        {
            encode_frame(&mut bytes, &Frame::Credit(Stream::Stdout, count));
        }
        if !bytes.is_empty() {
            let _ = say(to_guest, &bytes).await;
        }
    }
    let _ = to.shutdown().await;
}
