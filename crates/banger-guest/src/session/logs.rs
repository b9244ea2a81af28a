//! Reading a session's log.

use std::io;
use std::os::unix::net::UnixStream;

use banger_guest_proto::{
    ClientMessage, Frame, LogsRequest, ReceiveWindow, Sequence, SessionReply, SessionRequest,
    Stream,
};

use super::{Conversation, Said, SessionError};

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// Bytes of an output.
    Record {
        /// Which output.
        stream: Stream,
        /// Position of the first byte.
        position: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// These bytes are not in the log any more.
    Gap {
        /// The first.
        from: u64,
        /// After the last.
        to: u64,
    },
}

/// Reads a log to its end, or (following) to the session's end, and gives each piece to `take`, which
/// may take its time. The answer is the position to go on from.
///
/// `next` is kept at that position all the while, so that it is known when the reading fails.
///
/// # Errors
/// [`SessionError`] when the agent refuses, is too old, or is gone; also when `take` fails.
pub fn logs(
    stream: UnixStream,
    request: LogsRequest,
    next: &mut Option<u64>,
    mut take: impl FnMut(LogItem) -> io::Result<()>,
) -> Result<u64, SessionError> {
    let filtered = request.stream;
    let request = ClientMessage::Session(SessionRequest::Logs(request));
    let mut conversation = Conversation::begin(stream, &request)?;
    let Said::Session(SessionReply::Log { from }) = conversation.next()? else {
        return Err(SessionError::Unexpected);
    };
    let mut sequence = Sequence::new(from, filtered.is_some());
    let mut window = ReceiveWindow::default();
    let mut taken = |item| {
        take(item).map_err(|source| SessionError::Local {
            stream: "standard output",
            source,
        })
    };
    *next = Some(from);
    loop {
        match conversation.next()? {
            Said::Record(stream, position, bytes) => {
                let length = bytes.len();
                let fits = sequence.record(position, length);
                fits.map_err(SessionError::Sequence)?;
                window.received(length).map_err(SessionError::Window)?;
                if filtered.is_some_and(|only| only != stream) {
                    return Err(SessionError::Unexpected);
                }
                taken(LogItem::Record {
                    stream,
                    position,
                    bytes,
                })?;
                if let Some(count) = window.consumed(length) {
                    conversation.say(&Frame::Credit(Stream::Stdout, count))?;
                }
            }
            Said::Session(SessionReply::Gap { from, to }) => {
                sequence.gap(from, to).map_err(SessionError::Sequence)?;
                taken(LogItem::Gap { from, to })?;
            }
            Said::Session(SessionReply::LogEnd { next: end }) => {
                *next = Some(end);
                return Ok(end);
            }
            _ => return Err(SessionError::Unexpected),
        }
        *next = Some(sequence.next());
    }
}
