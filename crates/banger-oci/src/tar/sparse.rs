//! Maps of sparse files.

use super::TarError;
use super::header::number;
use super::pax::decimal;

/// More pieces than this have only been seen in attacks.
const SEGMENTS_MAX: usize = 1 << 18;

/// A piece of a file that is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The pieces of GNU's binary form, up to the first that is empty.
pub(crate) fn binary(bytes: &[u8], segments: &mut Vec<Segment>) -> Result<(), TarError> {
    for entry in bytes.chunks_exact(24).take_while(|entry| entry[0] != 0) {
        let of = |field: &[u8]| {
            u64::try_from(number(field)?).map_err(|_| TarError::Sparse("a negative number"))
        };
        segments.push(Segment {
            offset: of(&entry[..12])?,
            length: of(&entry[12..])?,
        });
    }
    Ok(())
}

/// The pieces of a block that follows the header; whether another one follows.
pub(crate) fn extend(block: &[u8; 512], segments: &mut Vec<Segment>) -> Result<bool, TarError> {
    binary(&block[..504], segments)?;
    if segments.len() > SEGMENTS_MAX {
        return Err(TarError::Sparse("it has too many pieces"));
    }
    Ok(block[504] != 0)
}

/// Offsets and lengths by turns.
pub(crate) fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, TarError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(TarError::Sparse("an offset without a length"));
    }
    let segment = |[offset, length]: &[u64; 2]| Segment {
        offset: *offset,
        length: *length,
    };
    Ok(pairs.iter().map(segment).collect())
}

/// Pieces are in order, within the file, and as long together as the content.
pub(crate) fn check(segments: &[Segment], size: u64, content: u64) -> Result<(), TarError> {
    let (mut end, mut sum) = (0, 0_u64);
    for segment in segments {
        if segment.offset < end {
            return Err(TarError::Sparse("pieces overlap"));
        }
        end = segment.offset.saturating_add(segment.length);
        sum = sum.saturating_add(segment.length);
        if end > size {
            return Err(TarError::Sparse("a piece lies beyond the end"));
        }
    }
    if sum != content {
        return Err(TarError::Sparse(
            "its pieces are not as long as the content",
        ));
    }
    Ok(())
}

/// The map of PAX version 1.0 as it is read: a count, and so many pairs, each number on a line.
#[derive(Debug, Default)]
pub(crate) struct TextMap {
    line: Vec<u8>,
    count: Option<usize>,
    numbers: Vec<u64>,
}

impl TextMap {
    pub(crate) fn is_complete(&self) -> bool {
        self.count
            .is_some_and(|count| self.numbers.len() >= count * 2)
    }

    pub(crate) fn feed(&mut self, block: &[u8]) -> Result<(), TarError> {
        for byte in block {
            if self.is_complete() {
                break;
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err(TarError::Sparse("a number that is none"));
                }
                continue;
            }
            if self.line.is_empty() {
                return Err(TarError::Sparse("a number that is none"));
            }
            let number = decimal(&self.line)?;
            self.line.clear();
            if self.count.is_some() {
                self.numbers.push(number);
            } else {
                let count = usize::try_from(number).unwrap_or(usize::MAX);
                if count > SEGMENTS_MAX {
                    return Err(TarError::Sparse("it has too many pieces"));
                }
                self.count = Some(count);
            }
        }
        Ok(())
    }

    pub(crate) fn segments(&self) -> Result<Vec<Segment>, TarError> {
        pairs(&self.numbers)
    }
}
