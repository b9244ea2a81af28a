//! A layer's bytes: the tar reader, the merger and the ext4 writer behind them. Checksums are made right first, or
//! hardly anything would get past them.
#![no_main]

use banger_ext4::{DataWriter, FileData, FsOptions, format};
use banger_oci::merge::Merger;
use banger_oci::tar::{EntryKind, Piece, TarError, TarReader};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

fn make_right(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    block[154] = 0;
}

fn apply(bytes: &[u8], merger: &mut Merger, writer: &mut DataWriter) -> Option<()> {
    let mut reader = TarReader::new(bytes);
    while let Some(entry) = reader.next_entry().ok()? {
        let mut data = FileData::default();
        if entry.kind == EntryKind::File {
            let read = reader.content(|piece| {
                let written = match piece {
                    Piece::Bytes(bytes) => writer.write(bytes),
                    Piece::Zeros(count) => writer.skip(count),
                };
                written.map_err(TarError::Read)
            });
            data = writer.finish().ok()?;
            read.ok()?;
        }
        merger.apply(entry, data).ok()?;
    }
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut bytes = rest.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block.iter().any(|byte| *byte != 0) {
            make_right(block);
        }
    }
    let memory = rustix::fs::memfd_create("layers", rustix::fs::MemfdFlags::empty());
    let file = std::fs::File::from(memory.expect("there is memory"));
    let mut writer = DataWriter::new(file);
    let mut merger = Merger::new(1000);
    let cut = usize::from(*first) % (bytes.len() / BLOCK + 1) * BLOCK;
    for layer in [&bytes[..cut], &bytes[cut..]] {
        merger.next_layer();
        let _ = apply(layer, &mut merger, &mut writer);
    }
    let options = FsOptions {
        label: "fuzz".to_owned(),
        uuid: [1; 16],
        hash_seed: [2; 16],
        time: 0,
        free: 0,
        round: 64 << 20,
        journal_blocks: 1024,
    };
    if writer.position() < 64 << 20 {
        let _ = format(writer, &merger.finish(), &options);
    }
});
