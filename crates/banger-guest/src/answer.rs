//! A program in a guest whose output is an answer. The guest is not trusted: what it may say is bounded, and
//! so is how long it may say nothing.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use banger_guest_proto::{
    AgentError, AgentMessage, ClientMessage, ExecRequest, ExitStatus, Frame, Hello, MAX_DATA,
    ReceiveWindow, SendWindow, Stream, encode_control, encode_data, encode_frame,
};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::{Instant, timeout_at};

use crate::forward::Frames;

/// So much of the program's standard error is kept, in bytes.
const MAX_STDERR: usize = 16 << 10;

/// What an answer may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of standard output.
    pub bytes: u64,
    /// How long no byte may come or be taken.
    pub silence: Duration,
}

/// How the program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: ExitStatus,
    /// The beginning of what it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The agent did not start the program.
    #[error("the program was not started")]
    Refused(#[source] AgentError),
    /// More came than may.
    #[error("the guest sends more than {bytes} bytes")]
    TooMuch {
        /// The bound.
        bytes: u64,
    },
    /// Nothing happened for too long.
    #[error("the guest has sent nothing for {} s", silence.as_secs())]
    Silent {
        /// The bound.
        silence: Duration,
    },
    /// The connection ended before the program did.
    #[error("the guest went away before the program ended")]
    GuestGone,
    /// The connection failed, or carries something else.
    #[error("the connection to the guest failed")]
    Connection(#[source] io::Error),
    /// A message that has no place here, or more than a window allows.
    #[error("the agent gave an answer that does not fit the question")]
    Unexpected,
    /// What came could not be written.
    #[error("failed to write what the guest sent")]
    Write(#[source] io::Error),
}

/// Runs a program with `input` on its standard input, and writes its standard output to `to`. `stream` is a
/// dialled connection on which nothing was spoken yet.
///
/// # Errors
/// [`AnswerError`]; the program is then ended by the agent.
pub async fn answer<W: AsyncWrite + Unpin>(
    stream: StdUnixStream,
    request: &ExecRequest,
    input: &[u8],
    to: &mut W,
    bounds: Bounds,
) -> Result<Answer, AnswerError> {
    let mut stderr = vec![];
    let keep = |came: &[u8]| {
        let room = MAX_STDERR - stderr.len();
        stderr.extend_from_slice(&came[..came.len().min(room)]);
    };
    let status = follow(stream, request, input, to, keep, bounds).await?;
    Ok(Answer { status, stderr })
}

/// The same, with all of its standard error as it comes.
///
/// # Errors
/// [`AnswerError`]; the program is then ended by the agent.
pub async fn follow<W: AsyncWrite + Unpin>(
    stream: StdUnixStream,
    request: &ExecRequest,
    mut input: &[u8],
    to: &mut W,
    mut stderr: impl FnMut(&[u8]),
    bounds: Bounds,
) -> Result<ExitStatus, AnswerError> {
    stream
        .set_nonblocking(true)
        .map_err(AnswerError::Connection)?;
    let stream = UnixStream::from_std(stream).map_err(AnswerError::Connection)?;
    let (from, mut guest) = stream.into_split();
    let mut frames = Frames::new(from);
    let mut bytes = vec![];
    encode_control(&mut bytes, &ClientMessage::Hello(Hello::ours()));
    encode_control(&mut bytes, &ClientMessage::Exec(request.clone()));
    let (mut send, mut input_open) = (SendWindow::default(), !request.no_stdin);
    let mut windows = [ReceiveWindow::default(), ReceiveWindow::default()];
    let mut came = 0_u64;
    let mut deadline = Instant::now() + bounds.silence;
    loop {
        while input_open && send.left() > 0 && !input.is_empty() {
            let (part, rest) = input.split_at(send.left().min(MAX_DATA).min(input.len()));
            encode_data(&mut bytes, Stream::Stdin, part);
            send.sent(part.len());
            input = rest;
        }
        if input_open && input.is_empty() {
            encode_control(&mut bytes, &ClientMessage::StdinEof);
            input_open = false;
        }
        let next = async {
            say(&mut guest, &mut bytes).await?;
            frames.next().await.map_err(AnswerError::Connection)
        };
        let Ok(next) = timeout_at(deadline, next).await else {
            let silence = bounds.silence;
            return Err(AnswerError::Silent { silence });
        };
        match next?.ok_or(AnswerError::GuestGone)? {
            Frame::Data(stream @ (Stream::Stdout | Stream::Stderr), data) => {
                let window = &mut windows[usize::from(stream == Stream::Stderr)];
                let fits = window.received(data.len());
                fits.map_err(|_| AnswerError::Unexpected)?;
                if stream == Stream::Stderr {
                    stderr(&data);
                } else {
                    came += data.len() as u64;
                    if came > bounds.bytes {
                        let bytes = bounds.bytes;
                        return Err(AnswerError::TooMuch { bytes });
                    }
                    to.write_all(&data).await.map_err(AnswerError::Write)?;
                    deadline = Instant::now() + bounds.silence;
                }
                if let Some(count) = window.consumed(data.len()) {
                    encode_frame(&mut bytes, &Frame::Credit(stream, count));
                }
            }
            Frame::Credit(Stream::Stdin, count) => {
                send.granted(count);
                deadline = Instant::now() + bounds.silence;
            }
            Frame::Control(json) => match Frame::parse(&json) {
                Ok(AgentMessage::Exited(status)) => {
                    to.flush().await.map_err(AnswerError::Write)?;
                    return Ok(status);
                }
                Ok(AgentMessage::Error(error)) => return Err(AnswerError::Refused(error)),
                Ok(
                    AgentMessage::Hello(_)
                    | AgentMessage::ExecStarted { .. }
                    | AgentMessage::StdoutEof
                    | AgentMessage::StderrEof,
                ) => {}
                _ => return Err(AnswerError::Unexpected),
            },
            _ => return Err(AnswerError::Unexpected),
        }
    }
}

/// Sends what waits. A guest that hears no more may have said why, which is still to be read.
async fn say(guest: &mut OwnedWriteHalf, bytes: &mut Vec<u8>) -> Result<(), AnswerError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let sent = guest.write_all(bytes).await;
    bytes.clear();
    match sent {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(AnswerError::Connection(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const BOUNDS: Bounds = Bounds {
        bytes: 100,
        silence: Duration::from_secs(60),
    };

    /// An answer by an agent that says just these bytes, whatever it is asked.
    fn said(
        bytes: &[u8],
        bounds: Bounds,
        hangs_up: bool,
    ) -> Result<(Answer, Vec<u8>), AnswerError> {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        if hangs_up {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut out = vec![];
        let request = ExecRequest::new(["x"]);
        let answer = runtime.block_on(answer(ours, &request, b"input", &mut out, bounds));
        let mut heard = vec![];
        theirs.read_to_end(&mut heard).unwrap();
        assert!(!heard.is_empty());
        answer.map(|answer| (answer, out))
    }

    fn control(bytes: &mut Vec<u8>, message: &AgentMessage) {
        encode_control(bytes, message);
    }

    #[test]
    fn an_answer_is_what_came_on_standard_output() {
        let mut bytes = vec![];
        control(&mut bytes, &AgentMessage::ExecStarted { pid: 7 });
        encode_data(&mut bytes, Stream::Stdout, b"yes");
        encode_data(&mut bytes, Stream::Stderr, &[b'e'; MAX_STDERR + 7]);
        control(&mut bytes, &AgentMessage::Exited(ExitStatus::Code(3)));
        let (answer, out) = said(&bytes, BOUNDS, false).unwrap();
        assert_eq!(
            (answer.status, out.as_slice()),
            (ExitStatus::Code(3), &b"yes"[..])
        );
        assert_eq!(answer.stderr.len(), MAX_STDERR);
    }

    #[test]
    fn a_hostile_guest_is_heard_no_longer_than_it_may_speak() {
        let mut much = vec![];
        encode_data(&mut much, Stream::Stdout, &[0; 101]);
        let error = said(&much, BOUNDS, false).unwrap_err();
        assert!(matches!(error, AnswerError::TooMuch { bytes: 100 }));
        let silence = Duration::from_millis(20);
        let short = Bounds { silence, ..BOUNDS };
        let error = said(b"", short, false).unwrap_err();
        assert!(matches!(error, AnswerError::Silent { .. }));
        let error = said(b"", BOUNDS, true).unwrap_err();
        assert!(matches!(error, AnswerError::GuestGone));
        for bad in [&b"\xff\xff\xff\xff\x01"[..], b"\x02\0\0\0\x09x"] {
            assert!(said(bad, BOUNDS, true).is_err());
        }
        let mut wrong = vec![];
        control(&mut wrong, &AgentMessage::Pong);
        let error = said(&wrong, BOUNDS, false).unwrap_err();
        assert!(matches!(error, AnswerError::Unexpected));
    }
}
