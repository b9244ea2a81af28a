//! An empty qcow2 overlay (QEMU's `docs/interop/qcow2.txt`, version 3): header, the name of the file
//! below it, a refcount table with one block, and a level-1 table without entries. All numbers are big
//! endian; a cluster is 64 KiB.

const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;
/// Log2 of the bits of a refcount.
const REFCOUNT_ORDER: u32 = 4;
const HEADER_LENGTH: u32 = 104;
const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;

/// The bytes of an overlay of `size` bytes over the raw file called `backing`.
pub(crate) fn overlay(size: u64, backing: &str) -> Vec<u8> {
    // One level-2 table is a cluster of 8-byte entries, each for one cluster.
    let per_l1_entry = CLUSTER * (CLUSTER / 8);
    let l1_entries = size.div_ceil(per_l1_entry);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER).max(1);
    let clusters = 3 + l1_clusters;
    let mut image = vec![0_u8; usize::try_from(clusters * CLUSTER).unwrap_or(0)];
    let (refcount_table, refcount_block, l1) = (CLUSTER, 2 * CLUSTER, 3 * CLUSTER);
    let mut header: Vec<u8> = b"QFI\xfb".to_vec();
    let put32 = |out: &mut Vec<u8>, value: u32| out.extend(value.to_be_bytes());
    let put64 = |out: &mut Vec<u8>, value: u64| out.extend(value.to_be_bytes());
    put32(&mut header, 3);
    let format_extension = 8 + 8 + 8;
    put64(&mut header, u64::from(HEADER_LENGTH) + format_extension);
    put32(&mut header, u32::try_from(backing.len()).unwrap_or(0));
    put32(&mut header, CLUSTER_BITS);
    put64(&mut header, size);
    put32(&mut header, 0);
    put32(&mut header, u32::try_from(l1_entries).unwrap_or(0));
    put64(&mut header, l1);
    put64(&mut header, refcount_table);
    put32(&mut header, 1);
    put32(&mut header, 0);
    put64(&mut header, 0);
    put64(&mut header, 0);
    put64(&mut header, 0);
    put64(&mut header, 0);
    put32(&mut header, REFCOUNT_ORDER);
    put32(&mut header, HEADER_LENGTH);
    put32(&mut header, EXTENSION_BACKING_FORMAT);
    put32(&mut header, 3);
    header.extend(b"raw\0\0\0\0\0");
    put64(&mut header, 0);
    header.extend(backing.as_bytes());
    image[..header.len()].copy_from_slice(&header);
    let at = |offset: u64| usize::try_from(offset).unwrap_or(0);
    image[at(refcount_table)..at(refcount_table) + 8]
        .copy_from_slice(&refcount_block.to_be_bytes());
    for cluster in 0..clusters {
        let entry = at(refcount_block + cluster * 2);
        image[entry..entry + 2].copy_from_slice(&1_u16.to_be_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn qemu_img(args: &[&str], path: &std::path::Path) -> Option<String> {
        match Command::new("qemu-img").args(args).arg(path).output() {
            Err(_) => {
                println!("SKIPPED (qemu-img): it is not installed");
                None
            }
            Ok(output) => {
                assert!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stderr)
                );
                Some(String::from_utf8_lossy(&output.stdout).into_owned())
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn qemu_img_finds_nothing_wrong(mib in 1_u64..40_000_000) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::File::create(dir.path().join("base")).unwrap().set_len(1 << 20).unwrap();
            let path = dir.path().join("overlay");
            // Sizes up to 38 TiB: beyond one cluster of level-1 table.
            std::fs::write(&path, overlay(mib << 20, "base")).unwrap();
            qemu_img(&["check"], &path);
            if let Some(info) = qemu_img(&["info", "--output=json"], &path) {
                prop_assert!(info.contains(&format!("\"virtual-size\": {}", mib << 20)), "{}", info);
                prop_assert!(info.contains("\"backing-filename\": \"base\""), "{}", info);
                prop_assert!(info.contains("\"backing-filename-format\": \"raw\""), "{}", info);
            }
        }
    }
}
