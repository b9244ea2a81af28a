//! What sftp tells of a file, and what it wants to change of one.

use rustix::fs::{FileType, Stat};

use super::wire::{Answer, Fields, Malformed};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const MODE: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;
/// So many attributes of their own that clients may name; nobody does.
const MAX_EXTENDED: u32 = 64;

/// What is to be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) size: Option<u64>,
    /// User and group.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
    /// Access and modification, in seconds.
    pub(super) times: Option<(u32, u32)>,
}

impl Changes {
    /// Reads them.
    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let flags = fields.u32()?;
        let mut changes = Self::default();
        if flags & SIZE != 0 {
            changes.size = Some(fields.u64()?);
        }
        if flags & OWNER != 0 {
            changes.owner = Some((fields.u32()?, fields.u32()?));
        }
        if flags & MODE != 0 {
            changes.mode = Some(fields.u32()? & 0o7777);
        }
        if flags & TIMES != 0 {
            changes.times = Some((fields.u32()?, fields.u32()?));
        }
        if flags & EXTENDED != 0 {
            let count = fields.u32()?;
            if count > MAX_EXTENDED {
                return Err(Malformed);
            }
            for _ in 0..count {
                fields.string()?;
                fields.string()?;
            }
        }
        Ok(changes)
    }
}

/// Adds a file's attributes.
pub(super) fn write(answer: Answer, stat: &Stat) -> Answer {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    answer
        .u32(SIZE | OWNER | MODE | TIMES)
        .u64(u64::try_from(stat.st_size).unwrap_or_default())
        .u32(stat.st_uid)
        .u32(stat.st_gid)
        .u32(stat.st_mode)
        .u32(seconds(stat.st_atime))
        .u32(seconds(stat.st_mtime))
}

/// A line as `ls -l` has it, which clients show as it is. Times are UTC.
pub(super) fn long_name(name: &[u8], stat: &Stat) -> Vec<u8> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => '-',
    };
    let bit = |mask: u32, letter| match stat.st_mode & mask != 0 {
        true => letter,
        false => '-',
    };
    // The set-id or sticky bit stands in the place of the right to execute.
    let execute = |mask: u32, special: u32, letter: char| match (
        stat.st_mode & mask != 0,
        stat.st_mode & special != 0,
    ) {
        (true, false) => 'x',
        (true, true) => letter,
        (false, true) => letter.to_ascii_uppercase(),
        (false, false) => '-',
    };
    let mode: String = [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        execute(0o100, 0o4000, 's'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        execute(0o010, 0o2000, 's'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        execute(0o001, 0o1000, 't'),
    ]
    .iter()
    .collect();
    let time = jiff::Timestamp::from_second(stat.st_mtime).unwrap_or_default();
    let mut line = format!(
        "{mode} {:>4} {:<8} {:<8} {:>8} {} ",
        stat.st_nlink,
        stat.st_uid,
        stat.st_gid,
        stat.st_size,
        time.strftime("%b %e  %Y")
    )
    .into_bytes();
    line.extend(name);
    line
}

#[cfg(test)]
mod tests {
    use super::super::wire::tell;
    use super::*;

    #[test]
    fn what_is_to_be_changed_is_read_and_what_is_unknown_is_passed_over() {
        let sent = Answer::bare(tell::ATTRS)
            .u32(SIZE | MODE | TIMES | EXTENDED)
            .u64(5)
            .u32(0o100_755)
            .u32(1)
            .u32(2)
            .u32(1)
            .string(b"x@y")
            .string(b"z")
            .string(b"rest");
        let mut bytes = vec![];
        sent.send(&mut bytes).unwrap();
        let mut fields = Fields(&bytes[5..]);
        let expected = Changes {
            size: Some(5),
            owner: None,
            mode: Some(0o755),
            times: Some((1, 2)),
        };
        assert_eq!(Changes::read(&mut fields), Ok(expected));
        assert_eq!(fields.string(), Ok(&b"rest"[..]));
        let mut endless = Fields(b"\x80\0\0\0\xff\xff\xff\xff");
        assert_eq!(Changes::read(&mut endless), Err(Malformed));
    }

    #[test]
    fn a_line_is_that_of_ls() {
        let mut stat = rustix::fs::stat("/").unwrap();
        stat.st_mode = 0o041_755;
        (stat.st_nlink, stat.st_uid, stat.st_gid) = (2, 0, 5);
        (stat.st_size, stat.st_mtime) = (4096, 1_700_000_000);
        let line = String::from_utf8(long_name(b"tmp", &stat)).unwrap();
        assert_eq!(
            line,
            "drwxr-xr-t    2 0        5            4096 Nov 14  2023 tmp"
        );
    }
}
