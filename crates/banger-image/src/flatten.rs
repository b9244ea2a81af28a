//! A stopped VM's root disk as one file: what it reads as, whatever kind of disk it is. The VMM, or the kernel on its
//! behalf, wrote it, so nothing in it is believed: every place is looked up within its file, and every loop is bounded.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use banger_core::{COW_HEADER, CowStoreState, RootStorage, SECTOR, cow_store_state};
use rustix::fs::{FallocateFlags, fallocate};

use crate::sparse;

/// The largest unit that is read at once, in bytes: qcow2 allows clusters of 2 MiB.
const LARGEST_UNIT: u64 = 2 << 20;

/// Writes to `to`, which is empty, what a root disk over (or made from) `base` reads as.
///
/// # Errors
/// A file cannot be read or written, or the disk is not what it should be.
pub(crate) fn flatten(storage: RootStorage, base: &File, disk: &File, to: &File) -> io::Result<()> {
    match storage {
        RootStorage::Copy | RootStorage::Reflink => sparse::copy(disk, to),
        RootStorage::Qcow2 => {
            sparse::copy(base, to)?;
            qcow2(disk, to)
        }
        RootStorage::DmSnapshot => {
            sparse::copy(base, to)?;
            cow_store(disk, to)
        }
    }
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Units of one size that go over what `to` holds.
struct Units<'a> {
    disk: &'a File,
    to: &'a File,
    size: u64,
    buffer: Vec<u8>,
}

impl<'a> Units<'a> {
    fn new(disk: &'a File, to: &'a File, unit: u64) -> io::Result<Self> {
        let length = usize::try_from(unit).unwrap_or(usize::MAX);
        Ok(Self {
            disk,
            to,
            size: to.metadata()?.len(),
            buffer: vec![0; length],
        })
    }

    /// Takes one over, from a place in the disk's file to one in the whole.
    fn take(&mut self, from: u64, to: u64) -> io::Result<()> {
        let Some(length) = self.length(to) else {
            return Ok(());
        };
        let part = &mut self.buffer[..length];
        self.disk.read_exact_at(part, from)?;
        if part.iter().all(|byte| *byte == 0) {
            return self.zero(to);
        }
        self.to.write_all_at(part, to)
    }

    fn zero(&mut self, to: u64) -> io::Result<()> {
        let Some(length) = self.length(to) else {
            return Ok(());
        };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(self.to, flags, to, length as u64).is_ok() {
            return Ok(());
        }
        self.buffer.fill(0);
        self.to.write_all_at(&self.buffer[..length], to)
    }

    /// How much of a unit is within the whole; `None` when nothing is.
    fn length(&self, at: u64) -> Option<usize> {
        let left = self.size.checked_sub(at).filter(|left| *left > 0)?;
        Some(
            self.buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX)),
        )
    }
}

/// Offset bits of an entry in either table of a qcow2.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Only the refcounts may be wrong, which nothing here reads.
const DIRTY: u64 = 1;

/// Lays a qcow2 overlay (QEMU's `docs/interop/qcow2.txt`) over `to`.
fn qcow2(disk: &File, to: &File) -> io::Result<()> {
    let mut header = [0; 80];
    disk.read_exact_at(&mut header, 0)?;
    let word = |at: usize| -> u64 {
        let bytes = header[at..at + 4].iter();
        bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let double = |at: usize| word(at) << 32 | word(at + 4);
    if &header[..4] != b"QFI\xfb" || word(4) != 3 {
        return Err(wrong("it is no qcow2 of version 3"));
    }
    let (bits, size, crypt) = (word(20), double(24), word(32));
    let (l1_entries, l1_at, features) = (word(36), double(40), double(72));
    if !(9..=21).contains(&bits) || crypt != 0 || features & !DIRTY != 0 {
        return Err(wrong("it is a qcow2 of a kind that is not read"));
    }
    let mut units = Units::new(disk, to, 1 << bits)?;
    if size != units.size {
        return Err(wrong("it has another size than what it lies over"));
    }
    let (cluster, per_l2) = (1_u64 << bits, 1_u64 << (bits - 3));
    let needed = size.div_ceil(cluster).div_ceil(per_l2);
    let mut l2 = vec![0; units.buffer.len()];
    for l1_index in 0..needed.min(l1_entries) {
        let mut entry = [0; 8];
        disk.read_exact_at(&mut entry, place(l1_at, l1_index * 8)?)?;
        let l2_at = u64::from_be_bytes(entry) & OFFSET;
        if l2_at == 0 {
            continue;
        }
        disk.read_exact_at(&mut l2, l2_at)?;
        for (at, entry) in l2.chunks_exact(8).enumerate() {
            let entry = u64::from_be_bytes(entry.try_into().unwrap_or_default());
            let cluster_at = (l1_index * per_l2 + at as u64) * cluster;
            if entry & COMPRESSED != 0 {
                return Err(wrong("it has compressed clusters"));
            }
            match entry & OFFSET {
                _ if entry & ZERO != 0 => units.zero(cluster_at)?,
                0 => {}
                from => units.take(from, cluster_at)?,
            }
        }
    }
    Ok(())
}

fn place(base: u64, offset: u64) -> io::Result<u64> {
    base.checked_add(offset)
        .ok_or_else(|| wrong("it names a place beyond every file"))
}

/// Lays the store of a dm-snapshot (`drivers/md/dm-snap-persistent.c`) over `to`.
fn cow_store(store: &File, to: &File) -> io::Result<()> {
    let mut header = [0; COW_HEADER];
    store.read_exact_at(&mut header, 0)?;
    let chunk = match cow_store_state(&header) {
        CowStoreState::Fresh => return Ok(()),
        CowStoreState::Valid { chunk_sectors } => u64::from(chunk_sectors) * SECTOR,
        CowStoreState::GivenUp => {
            return Err(wrong("the kernel has given it up: the disk was full"));
        }
        CowStoreState::Foreign => return Err(wrong("it is no store of changes")),
    };
    if !chunk.is_power_of_two() || chunk > LARGEST_UNIT {
        return Err(wrong("its chunks have a size that is not read"));
    }
    let chunks = store.metadata()?.len() / chunk;
    let per_area = chunk / 16;
    let mut units = Units::new(store, to, chunk)?;
    let mut area = vec![0; units.buffer.len()];
    let mut area_at = 1;
    while area_at < chunks {
        store.read_exact_at(&mut area, area_at * chunk)?;
        for exception in area.chunks_exact(16) {
            let number = |at: usize| {
                u64::from_le_bytes(exception[at..at + 8].try_into().unwrap_or_default())
            };
            let (old, new) = (number(0), number(8));
            if new == 0 {
                return Ok(());
            }
            if new >= chunks {
                return Err(wrong("it names a chunk beyond its end"));
            }
            let whole = old.checked_mul(chunk);
            units.take(
                new * chunk,
                whole.ok_or_else(|| wrong("it names a place beyond every disk"))?,
            )?;
        }
        area_at += per_area + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn base(size: u64) -> File {
        let base = tempfile::tempfile().unwrap();
        base.set_len(size).unwrap();
        base.write_all_at(&[1; 4096], 64 << 10).unwrap();
        base.write_all_at(&[2; 4096], 3 * MIB).unwrap();
        base
    }

    fn read(file: &File, at: u64) -> u8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        byte[0]
    }

    /// An overlay of 8 MiB with these clusters: number and entry; data goes to the clusters from 16 on.
    fn overlay(size: u64, entries: &[(usize, u64)]) -> Vec<u8> {
        let mut image = crate::qcow2::overlay(size, "base");
        image.resize(16 << 16, 0);
        let (l1, l2) = (3_usize << 16, 8_usize << 16);
        image[l1..l1 + 8].copy_from_slice(&((l2 as u64) | 1 << 63).to_be_bytes());
        for (number, entry) in entries {
            image[l2 + number * 8..][..8].copy_from_slice(&entry.to_be_bytes());
        }
        for number in 16..20_u8 {
            image.extend(vec![number; 1 << 16]);
        }
        image
    }

    #[test]
    fn clusters_of_an_overlay_lie_over_the_base() {
        let data = |at: u64| (at << 16) | 1 << 63;
        let entries = [(0, data(16)), (1, ZERO), (127, data(17))];
        let (disk, to) = (
            file(&overlay(8 * MIB - 4096, &entries)),
            tempfile::tempfile().unwrap(),
        );
        flatten(RootStorage::Qcow2, &base(8 * MIB - 4096), &disk, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 8 * MIB - 4096);
        let seen = [0, 64 << 10, 3 * MIB, 8 * MIB - 4097].map(|at| read(&to, at));
        assert_eq!(seen, [16, 0, 2, 17]);
    }

    #[test]
    fn an_overlay_that_lies_is_refused() {
        let good = overlay(8 * MIB, &[]);
        let mut bad: Vec<Vec<u8>> = vec![good[..40].to_vec(), vec![0; 1 << 16]];
        let mut with = |at: usize, byte: u8| {
            let mut image = good.clone();
            image[at] = byte;
            bad.push(image);
        };
        with(7, 2);
        with(23, 63);
        with(31, 1);
        with(35, 1);
        with(79, 2);
        // A level-1 table at the end of all places.
        with(40, 0xff);
        bad.push(overlay(8 * MIB, &[(0, COMPRESSED | 16 << 16)]));
        bad.push(overlay(8 * MIB, &[(0, 1 << 50)]));
        for (at, image) in bad.iter().enumerate() {
            let to = tempfile::tempfile().unwrap();
            let flat = flatten(RootStorage::Qcow2, &base(8 * MIB), &file(image), &to);
            assert!(flat.is_err(), "{at}");
        }
    }

    /// A store with chunks of 16 KiB; each exception's data is a chunk of that byte.
    fn store(exceptions: &[(u64, u64, u8)]) -> File {
        let chunk = 16_usize << 10;
        let mut bytes = vec![0; 64 * chunk];
        for (at, word) in [0x7041_6e53_u32, 1, 1, 32].iter().enumerate() {
            bytes[at * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        for (at, (old, new, byte)) in exceptions.iter().enumerate() {
            let entry = chunk + at * 16;
            bytes[entry..][..8].copy_from_slice(&old.to_le_bytes());
            bytes[entry + 8..][..8].copy_from_slice(&new.to_le_bytes());
            if let Some(data) =
                bytes.get_mut(usize::try_from(*new).unwrap().saturating_mul(chunk)..)
            {
                data.iter_mut().take(chunk).for_each(|b| *b = *byte);
            }
        }
        file(&bytes)
    }

    #[test]
    fn chunks_of_a_store_lie_over_the_origin() {
        let to = tempfile::tempfile().unwrap();
        let disk = store(&[(0, 2, 9), (4, 3, 0), (511, 4, 7)]);
        flatten(RootStorage::DmSnapshot, &base(8 * MIB), &disk, &to).unwrap();
        let seen = [0, 64 << 10, 3 * MIB, 8 * MIB - 1].map(|at| read(&to, at));
        assert_eq!(seen, [9, 0, 2, 7]);
        let fresh = tempfile::tempfile().unwrap();
        fresh.set_len(MIB).unwrap();
        let to = tempfile::tempfile().unwrap();
        flatten(RootStorage::DmSnapshot, &base(8 * MIB), &fresh, &to).unwrap();
        assert_eq!(read(&to, 3 * MIB), 2);
    }

    #[test]
    fn a_store_that_lies_is_refused() {
        for disk in [
            store(&[(0, 64, 1)]),
            store(&[(u64::MAX, 2, 1)]),
            file(b"SnAp\0\0\0\0\x01\0\0\0\x20\0\0\0"),
            file(b"SnAp\x01\0\0\0\x01\0\0\0\x21\0\0\0"),
            file(b"something else than that"),
            file(b""),
        ] {
            let to = tempfile::tempfile().unwrap();
            let flat = flatten(RootStorage::DmSnapshot, &base(8 * MIB), &disk, &to);
            assert!(flat.is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_disk_panics_or_grows_the_image(
            at in 0_usize..120, bytes in proptest::collection::vec(any::<u8>(), 1..16),
            which in any::<bool>()
        ) {
            let mut image = if which {
                overlay(8 * MIB, &[(0, 16 << 16)])
            } else {
                let mut bytes = vec![0; 64 << 14];
                store(&[(0, 2, 1)]).read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            let at = if at < 80 { at } else { (16 << 10) + at - 80 };
            image[at..at + bytes.len()].copy_from_slice(&bytes);
            let storage = if which { RootStorage::Qcow2 } else { RootStorage::DmSnapshot };
            let to = tempfile::tempfile().unwrap();
            let _ = flatten(storage, &base(8 * MIB), &file(&image), &to);
            prop_assert!(to.metadata().unwrap().len() <= 8 * MIB);
        }
    }
}
