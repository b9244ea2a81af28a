//! What waits to be sent.

use std::io;

use crate::MAX_DATA;

/// Sources are not read while this much waits to be sent.
const MOST: usize = 4 * MAX_DATA;

/// Encoded frames that a connection has not taken yet.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// How many of them the connection has taken.
    sent: usize,
}

impl Outbox {
    /// Where the `encode_…` functions append.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How many bytes wait.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether more should be read from whatever is sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.backlog() < MOST
    }

    /// Offers what waits to `take`, which says how much of it the connection took, until all is gone or it
    /// would block.
    ///
    /// # Errors
    /// Any other failure of `take`; what it did not take still waits.
    pub fn send(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match take(&self.bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        self.clear();
        Ok(())
    }

    /// Nobody takes it any more.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_waits_in_its_order() {
        let mut outbox = Outbox::default();
        outbox.frames().extend(b"abcdef");
        let mut taken = vec![];
        let mut answers = [Ok(2), Err(io::ErrorKind::Interrupted), Ok(1)].into_iter();
        let mut take = |bytes: &[u8]| {
            let answer = answers.next().unwrap_or(Err(io::ErrorKind::WouldBlock));
            let count = answer.map_err(io::Error::from)?;
            taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        };
        outbox.send(&mut take).unwrap();
        assert_eq!(outbox.backlog(), 3);
        outbox.frames().push(b'g');
        let broken = outbox.send(|_| Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(broken.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(outbox.backlog(), 4);
        outbox
            .send(|bytes| {
                taken.extend_from_slice(bytes);
                Ok(bytes.len())
            })
            .unwrap();
        outbox.frames().resize(MOST - 1, 0);
        assert!(outbox.has_room());
        outbox.frames().push(0);
        assert!(!outbox.has_room());
        outbox.clear();
        assert_eq!((taken.as_slice(), outbox.backlog()), (&b"abcdefg"[..], 0));
    }
}
