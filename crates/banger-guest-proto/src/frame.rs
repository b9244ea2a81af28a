//! Frames: `[u32 length, little endian][u8 type][payload]`; the length counts type and payload.

use std::io::Read;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest frame: type and payload, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

const HEADER: usize = 4;

pub(crate) const CONTROL: u8 = 1;
const STDIN: u8 = 2;
const STDOUT: u8 = 3;
const STDERR: u8 = 4;
const CREDIT: u8 = 5;
const RECORD: u8 = 6;

/// What stands before a record's bytes: its stream and its position.
const RECORD_HEAD: usize = 9;

/// One of the byte streams of an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Host to guest.
    Stdin,
    /// Guest to host; with a terminal the only one.
    Stdout,
    /// Guest to host.
    Stderr,
}

impl Stream {
    const fn kind(self) -> u8 {
        match self {
            Self::Stdin => STDIN,
            Self::Stdout => STDOUT,
            Self::Stderr => STDERR,
        }
    }

    const fn of_kind(kind: u8) -> Option<Self> {
        match kind {
            STDIN => Some(Self::Stdin),
            STDOUT => Some(Self::Stdout),
            STDERR => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// JSON, one message.
    Control(Vec<u8>),
    /// Bytes of a stream.
    Data(Stream, Vec<u8>),
    /// So many more bytes of that stream may be sent.
    Credit(Stream, u32),
    /// Bytes of a session's log: which output, the position of the first, the bytes. Generation 4.
    Record(Stream, u64, Vec<u8>),
}

/// What came is not a frame of this protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is zero or over [`MAX_FRAME`].
    #[error("a frame of {length} bytes (1 to {MAX_FRAME} are allowed)")]
    Length {
        /// The length as sent.
        length: u32,
    },
    /// No frame has this type.
    #[error("a frame of unknown type {kind}")]
    Kind {
        /// The type as sent.
        kind: u8,
    },
    /// A credit frame whose payload is not a stream and a number.
    #[error("a malformed credit frame")]
    Credit,
    /// A record frame without a stream of output and a position.
    #[error("a malformed record frame")]
    Record,
    /// A control frame's JSON is not a message.
    #[error("a malformed control message")]
    Json(#[source] serde_json::Error),
}

impl Frame {
    /// The message in a control frame's payload.
    ///
    /// # Errors
    /// [`FrameError::Json`] when it is not such a message.
    pub fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
        serde_json::from_slice(payload).map_err(FrameError::Json)
    }

    fn decode(kind: u8, payload: Vec<u8>) -> Result<Self, FrameError> {
        match kind {
            CONTROL => Ok(Self::Control(payload)),
            CREDIT => {
                let [stream, count @ ..] = payload.as_slice() else {
                    return Err(FrameError::Credit);
                };
                let stream = Stream::of_kind(*stream).ok_or(FrameError::Credit)?;
                let count = count.try_into().map_err(|_| FrameError::Credit)?;
                Ok(Self::Credit(stream, u32::from_le_bytes(count)))
            }
            RECORD => {
                let Some((head, bytes)) = payload.split_first_chunk::<RECORD_HEAD>() else {
                    return Err(FrameError::Record);
                };
                let [stream, position @ ..] = *head;
                match Stream::of_kind(stream) {
                    None | Some(Stream::Stdin) => Err(FrameError::Record),
                    Some(stream) => Ok(Self::Record(
                        stream,
                        u64::from_le_bytes(position),
                        bytes.to_vec(),
                    )),
                }
            }
            _ => match Stream::of_kind(kind) {
                Some(stream) => Ok(Self::Data(stream, payload)),
                None => Err(FrameError::Kind { kind }),
            },
        }
    }
}

fn push_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len() + 1).expect("callers stay far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(payload);
}

/// Appends a message as a control frame.
///
/// # Panics
/// Never for this crate's messages: they render as JSON objects, and callers keep them small.
pub fn encode_control<T: Serialize>(out: &mut Vec<u8>, message: &T) {
    let json = serde_json::to_vec(message).expect("messages have string keys only");
    push_frame(out, CONTROL, &json);
}

/// Appends bytes of a stream, in frames of at most [`MAX_DATA`](crate::MAX_DATA).
///
/// # Panics
/// Never: the pieces are far below the limit.
pub fn encode_data(out: &mut Vec<u8>, stream: Stream, bytes: &[u8]) {
    for piece in bytes.chunks(crate::MAX_DATA) {
        push_frame(out, stream.kind(), piece);
    }
}

/// Appends bytes of a session's log as one frame.
///
/// # Panics
/// When they are 4 GiB or more; callers keep to [`MAX_DATA`](crate::MAX_DATA).
pub fn encode_record(out: &mut Vec<u8>, stream: Stream, position: u64, bytes: &[u8]) {
    let length = u32::try_from(1 + RECORD_HEAD + bytes.len()).expect("callers stay below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[RECORD, stream.kind()]);
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends any frame.
///
/// # Panics
/// When a control payload is 4 GiB or more.
pub fn encode_frame(out: &mut Vec<u8>, frame: &Frame) {
    match frame {
        Frame::Control(json) => push_frame(out, CONTROL, json),
        Frame::Data(stream, bytes) => encode_data(out, *stream, bytes),
        Frame::Credit(stream, count) => {
            let mut payload = [0; 5];
            payload[0] = stream.kind();
            payload[1..].copy_from_slice(&count.to_le_bytes());
            push_frame(out, CREDIT, &payload);
        }
        Frame::Record(stream, position, bytes) => encode_record(out, *stream, *position, bytes),
    }
}

/// Cuts a stream of bytes into frames. Holds at most one incomplete frame more than it was given;
/// a frame's length is checked before room for it is made.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Takes in what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// What came after the last frame that was taken: it is no frame's of this kind.
    #[must_use]
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.start);
        self.buffer.clear();
        self.start = 0;
        rest
    }

    /// The next complete frame.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes are not of this protocol; the connection is then useless.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some((head, body)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let size = checked_length(u32::from_le_bytes(*head))?;
        if body.len() < size {
            return Ok(None);
        }
        let (kind, payload) = (body[0], body[1..size].to_vec());
        self.start += HEADER + size;
        Frame::decode(kind, payload).map(Some)
    }
}

pub(crate) fn checked_length(length: u32) -> Result<usize, FrameError> {
    match usize::try_from(length) {
        Ok(size) if (1..=MAX_FRAME).contains(&size) => Ok(size),
        _ => Err(FrameError::Length { length }),
    }
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFrameError {
    /// The connection ended between two frames.
    #[error("the connection was closed")]
    Closed,
    /// Reading failed, or the connection ended within a frame.
    #[error("failed to read a frame")]
    Read(#[source] std::io::Error),
    /// What came is not a frame.
    #[error("the peer does not speak this protocol")]
    Frame(#[source] FrameError),
}

/// Reads exactly one frame, and not a byte beyond it.
///
/// # Errors
/// [`ReadFrameError`] when the connection ends or carries something else.
pub fn read_frame(from: &mut impl Read) -> Result<Frame, ReadFrameError> {
    let mut head = [0; HEADER];
    let got = from.read(&mut head[..1]).map_err(ReadFrameError::Read)?;
    if got == 0 {
        return Err(ReadFrameError::Closed);
    }
    let rest = from.read_exact(&mut head[1..]);
    rest.map_err(ReadFrameError::Read)?;
    let size = checked_length(u32::from_le_bytes(head)).map_err(ReadFrameError::Frame)?;
    let mut body = vec![0; size];
    from.read_exact(&mut body).map_err(ReadFrameError::Read)?;
    let payload = body.split_off(1);
    Frame::decode(body[0], payload).map_err(ReadFrameError::Frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn streams() -> impl Strategy<Value = Stream> {
        prop_oneof![
            Just(Stream::Stdin),
            Just(Stream::Stdout),
            Just(Stream::Stderr)
        ]
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let bytes = || proptest::collection::vec(any::<u8>(), 1..3000);
        prop_oneof![
            bytes().prop_map(Frame::Control),
            (streams(), bytes()).prop_map(|(s, b)| Frame::Data(s, b)),
            (streams(), any::<u32>()).prop_map(|(s, n)| Frame::Credit(s, n)),
            (any::<bool>(), any::<u64>(), bytes()).prop_map(|(is_out, at, bytes)| {
                let stream = if is_out {
                    Stream::Stdout
                } else {
                    Stream::Stderr
                };
                Frame::Record(stream, at, bytes)
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            sent in proptest::collection::vec(frames(), 0..12),
            cut in 1_usize..500,
        ) {
            let mut wire = vec![];
            for frame in &sent {
                encode_frame(&mut wire, frame);
            }
            let mut decoder = Decoder::default();
            let mut got = vec![];
            for piece in wire.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(&got, &sent);
            let mut reader = wire.as_slice();
            for frame in &sent {
                prop_assert_eq!(&read_frame(&mut reader).unwrap(), frame);
            }
            prop_assert!(matches!(read_frame(&mut reader), Err(ReadFrameError::Closed)));
        }

        #[test]
        fn hostile_bytes_never_panic_nor_make_room_for_more_than_they_are(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000),
        ) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(frame)) = decoder.next_frame() {
                if let Frame::Control(json) = frame {
                    let _ = Frame::parse::<crate::ClientMessage>(&json);
                    let _ = Frame::parse::<crate::AgentMessage>(&json);
                }
            }
            prop_assert!(decoder.buffer.capacity() <= 2 * bytes.len().max(8));
        }
    }

    #[test]
    fn a_record_without_an_output_or_a_position_is_none() {
        for bad in [&[6, 2, 0, 0, 0, 0, 0, 0, 0, 0][..], &[6, 3, 1], &[6]] {
            let mut decoder = Decoder::default();
            decoder.push(&(bad.len() as u32).to_le_bytes());
            decoder.push(bad);
            assert!(matches!(decoder.next_frame(), Err(FrameError::Record)));
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_anything_is_read() {
        for length in [0, MAX_FRAME as u32 + 1, u32::MAX] {
            let mut decoder = Decoder::default();
            decoder.push(&length.to_le_bytes());
            assert!(matches!(
                decoder.next_frame(),
                Err(FrameError::Length { length: l }) if l == length
            ));
        }
    }
}
