//! The sftp protocol, version 3, as OpenSSH speaks it (draft-ietf-secsh-filexfer-02 and OpenSSH's PROTOCOL, section 4). Names are bytes:
//! Linux gives them no encoding.

use std::io::{self, Read, Write};

/// The most that a packet may hold, in bytes, as OpenSSH has it.
pub(super) const MAX_PACKET: u32 = 256 << 10;
/// The most that is read or written at once, which leaves room for what goes around it.
pub(super) const MAX_DATA: u32 = MAX_PACKET - 1024;

/// What a client asks for.
pub(super) mod ask {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const SETSTAT: u8 = 9;
    pub(crate) const FSETSTAT: u8 = 10;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const REALPATH: u8 = 16;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const READLINK: u8 = 19;
    pub(crate) const SYMLINK: u8 = 20;
    pub(crate) const EXTENDED: u8 = 200;
}

/// What it is answered.
pub(super) mod tell {
    pub(crate) const VERSION: u8 = 2;
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED_REPLY: u8 = 201;
}

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// What is not of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads the next packet's content; `None` at the end.
///
/// # Errors
/// The stream failed, ended within a packet, or carries something else.
pub(super) fn read_packet(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read(&mut length[..1])? {
        0 => return Ok(None),
        _ => from.read_exact(&mut length[1..])?,
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > MAX_PACKET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut packet = vec![0; usize::try_from(length).unwrap_or_default()];
    from.read_exact(&mut packet)?;
    Ok(Some(packet))
}

/// What is left of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, left) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = left;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    /// A path; the empty one is the folder where one is.
    pub(super) fn path(&mut self) -> Result<&'a [u8], Malformed> {
        match self.string()? {
            b"" => Ok(b"."),
            path if path.contains(&0) => Err(Malformed),
            path => Ok(path),
        }
    }
}

/// An answer as it grows.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// Of that kind, to the request of that number.
    pub(super) fn new(kind: u8, id: u32) -> Self {
        Self::bare(kind).u32(id)
    }

    /// Without a number.
    pub(super) fn bare(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    /// A part of one.
    pub(super) fn empty() -> Self {
        Self(vec![])
    }

    /// With a part behind it.
    pub(super) fn append(self, part: &Self) -> Self {
        self.bytes(&part.0)
    }

    /// How it went, in the client's words.
    pub(super) fn status(id: u32, code: Code) -> Self {
        let text: &[u8] = match code {
            Code::Ok => b"Success",
            Code::Eof => b"End of file",
            Code::NoSuchFile => b"No such file",
            Code::PermissionDenied => b"Permission denied",
            Code::Failure => b"Failure",
            Code::BadMessage => b"Bad message",
            Code::Unsupported => b"Operation unsupported",
        };
        Self::explained(id, code, text)
    }

    /// The same with other words.
    pub(super) fn explained(id: u32, code: Code, text: &[u8]) -> Self {
        Self::new(tell::STATUS, id)
            .u32(code as u32)
            .string(text)
            .string(b"")
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(super) fn string(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(length).bytes(bytes)
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// How long it is by now.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sends it.
    ///
    /// # Errors
    /// Nobody reads it.
    pub(super) fn send(mut self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.0.len() - 4).unwrap_or_default();
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        to.write_all(&self.0)?;
        to.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_sent_is_read() {
        let mut sent = vec![];
        let answer = Answer::new(ask::WRITE, 7).string(b"name\xff").u64(9);
        answer.send(&mut sent).unwrap();
        let packet = read_packet(&mut &sent[..]).unwrap().unwrap();
        let mut fields = Fields(&packet);
        assert_eq!((fields.byte(), fields.u32()), (Ok(ask::WRITE), Ok(7)));
        assert_eq!(
            (fields.string(), fields.u64()),
            (Ok(&b"name\xff"[..]), Ok(9))
        );
        assert_eq!(fields.byte(), Err(Malformed));
    }

    #[test]
    fn a_packets_length_is_bounded_before_anything_is_allotted() {
        for length in [0, MAX_PACKET + 1, u32::MAX] {
            let bytes = length.to_be_bytes();
            assert!(read_packet(&mut &bytes[..]).is_err(), "{length}");
        }
        assert!(read_packet(&mut &b"\0\0\0\x05abc"[..]).is_err());
        assert_eq!(read_packet(&mut &b""[..]).unwrap(), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut fields = Fields(&bytes);
            let _ = fields.path();
            let _ = fields.string();
            let _ = fields.u64();
            let _ = read_packet(&mut &bytes[..]);
        }
    }
}
