//! Bytes from one file into another, by the kernel where it can (copy_file_range(2)).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::copy_file_range;
use rustix::io::Errno;

/// So much is copied at once where the kernel does not do it.
const BUFFER: u64 = 1 << 20;

/// Copies a stretch of a file to a place in another one. Where the file system can, blocks are shared.
///
/// # Errors
/// One cannot be read, ends before the stretch does, or the other cannot be written.
pub fn copy_range(from: &File, range: Range<u64>, to: &File, at: u64) -> io::Result<()> {
    let (mut from_at, mut to_at) = (range.start, at);
    while from_at < range.end {
        let want = usize::try_from(range.end - from_at).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), want) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return by_hand(from, from_at..range.end, to, to_at);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn by_hand(from: &File, range: Range<u64>, to: &File, mut to_at: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER.min(range.end - range.start) as usize];
    let mut at = range.start;
    while at < range.end {
        let part = (range.end - at).min(BUFFER);
        let bytes = &mut buffer[..part as usize];
        from.read_exact_at(bytes, at)?;
        to.write_all_at(bytes, to_at)?;
        at += part;
        to_at += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (File, File, Vec<u8>) {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        from.write_all_at(&bytes, 0).unwrap();
        (from, to, bytes)
    }

    type Copy = fn(&File, Range<u64>, &File, u64) -> io::Result<()>;

    #[test]
    fn a_stretch_gets_to_another_place() {
        for copy in [copy_range as Copy, by_hand] {
            let (from, to, bytes) = files();
            copy(&from, 1000..2_900_000, &to, 7).unwrap();
            let mut seen = vec![0; 2_899_000];
            to.read_exact_at(&mut seen, 7).unwrap();
            assert_eq!(seen, bytes[1000..2_900_000]);
            copy(&from, 5..5, &to, 0).unwrap();
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        for copy in [copy_range as Copy, by_hand] {
            let (from, to, _) = files();
            let error = copy(&from, 0..3_000_001, &to, 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
