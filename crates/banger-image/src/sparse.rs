//! Files with holes: where their data is, and copies that keep the holes (lseek(2), `SEEK_DATA`).

use std::fs::File;
use std::io;

use banger_ext4::copy_range;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// The stretches of data in a file: offset and length.
pub(crate) fn extents(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(extents),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        extents.push((start, end - start));
        at = end;
    }
}

/// Makes `to` a copy of `from`, holes included. On file systems that can, blocks are shared.
pub(crate) fn copy(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    for (offset, length) in extents(from)? {
        copy_range(from, offset..offset + length, to, offset)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_has_the_same_bytes_and_keeps_the_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"in the middle", 32 << 20).unwrap();
        copy(&from, &to).unwrap();
        let mut seen = [0; 13];
        to.read_exact_at(&mut seen, 32 << 20).unwrap();
        assert_eq!(&seen, b"in the middle");
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
