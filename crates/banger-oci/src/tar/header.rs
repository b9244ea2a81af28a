//! One header block.

use banger_ext4::DeviceKind;

use super::sparse::{self, Segment};
use super::{EntryKind, TarError};

/// Headers and content come in blocks of this many bytes.
pub(crate) const BLOCK: usize = 512;

/// Which dialect a header is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header whose checksum is right.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    block: [u8; BLOCK],
    dialect: Dialect,
}

impl Header {
    pub(crate) fn new(block: [u8; BLOCK]) -> Result<Self, TarError> {
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        let stored = number(&block[148..156])?;
        if stored != unsigned && stored != signed {
            return Err(TarError::Header("a checksum is wrong"));
        }
        let dialect = match &block[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") && &block[508..] == b"tar\0" => Dialect::Star,
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        };
        Ok(Self { block, dialect })
    }

    pub(crate) fn kind(&self) -> u8 {
        self.block[156]
    }

    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match self.dialect {
            Dialect::Ustar => text(&self.block[345..500]),
            Dialect::Star => text(&self.block[345..476]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(crate) fn mode(&self) -> Result<i64, TarError> {
        number(&self.block[100..108])
    }

    pub(crate) fn uid(&self) -> Result<i64, TarError> {
        number(&self.block[108..116])
    }

    pub(crate) fn gid(&self) -> Result<i64, TarError> {
        number(&self.block[116..124])
    }

    pub(crate) fn size(&self) -> Result<u64, TarError> {
        let size = number(&self.block[124..136])?;
        u64::try_from(size).map_err(|_| TarError::Header("a negative size"))
    }

    pub(crate) fn mtime(&self) -> Result<i64, TarError> {
        number(&self.block[136..148])
    }

    pub(crate) fn device(&self, kind: DeviceKind) -> Result<EntryKind, TarError> {
        let wide = |at: usize| number(&self.block[at..at + 8]);
        let (major, minor) = match self.dialect {
            Dialect::V7 => (0, 0),
            _ => (wide(329)?, wide(337)?),
        };
        if !(0..1 << 12).contains(&major) || !(0..1 << 20).contains(&minor) {
            return Err(TarError::Header("a device number that Linux does not have"));
        }
        Ok(EntryKind::Device {
            kind,
            major: major as u32,
            minor: minor as u32,
        })
    }

    /// GNU's own sparse map: the segments here, the file's size, and whether more blocks of them follow.
    pub(crate) fn sparse(&self) -> Result<(Vec<Segment>, u64, bool), TarError> {
        let mut segments = Vec::new();
        sparse::binary(&self.block[386..482], &mut segments)?;
        let size = u64::try_from(number(&self.block[483..495])?);
        let size = size.map_err(|_| TarError::Sparse("a negative size"))?;
        Ok((segments, size, self.block[482] != 0))
    }
}

/// Text up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// A number: octal, or two's complement in base 256 where the first bit is set.
pub(crate) fn number(field: &[u8]) -> Result<i64, TarError> {
    if field[0] & 0x80 != 0 {
        let fill = if field[0] & 0x40 != 0 { -1_i64 } else { 0 };
        let mut value = i128::from(fill);
        for (at, byte) in field.iter().enumerate() {
            let byte = match at {
                0 if fill == 0 => byte & 0x7f,
                _ => *byte,
            };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| TarError::Header("a number beyond 63 bits"));
    }
    let digits = field
        .iter()
        .copied()
        .filter(|byte| *byte != 0)
        .collect::<Vec<u8>>();
    let digits = digits.trim_ascii();
    let mut value = 0_i64;
    for digit in digits {
        let digit = match digit {
            b'0'..=b'7' => i64::from(digit - b'0'),
            _ => return Err(TarError::Header("a number that is not octal")),
        };
        // Twelve digits at most: it always fits.
        value = value << 3 | digit;
    }
    Ok(value)
}
