//! The ELF image inside a `vmlinuz` (`Documentation/arch/x86/boot.rst`): the boot sector's header says
//! where the compressed payload starts and how long it is.

use crate::decompress::decompress;

/// Why no image was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExtractError {
    #[error("it is neither an ELF file nor a bzImage")]
    NeitherElfNorBzImage,
    #[error(
        "its boot protocol {0}.{1:02} is older than 2.08 and does not say where the payload is"
    )]
    OldProtocol(u8, u8),
    #[error("it is truncated")]
    Truncated,
    #[error("its payload could not be unpacked: {0}")]
    Payload(String),
}

const ELF_MAGIC: &[u8] = b"\x7fELF";
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The `vmlinux` in `file`, which may be one already.
pub(crate) fn extract_vmlinux(file: &[u8]) -> Result<Vec<u8>, ExtractError> {
    if file.starts_with(ELF_MAGIC) {
        return Ok(file.to_vec());
    }
    let byte = |at: usize| {
        file.get(at)
            .copied()
            .ok_or(ExtractError::NeitherElfNorBzImage)
    };
    if file.get(HEADER_MAGIC..HEADER_MAGIC + 4) != Some(b"HdrS") {
        return Err(ExtractError::NeitherElfNorBzImage);
    }
    let (minor, major) = (byte(VERSION)?, byte(VERSION + 1)?);
    if (major, minor) < (2, 8) {
        return Err(ExtractError::OldProtocol(major, minor));
    }
    let number = |at: usize| {
        let bytes = file.get(at..at + 4).ok_or(ExtractError::Truncated)?;
        Ok::<usize, ExtractError>(
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize
        )
    };
    let sectors = match byte(SETUP_SECTS)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1) * 512 + number(PAYLOAD_OFFSET)?;
    let payload = file.get(start..start.saturating_add(number(PAYLOAD_LENGTH)?));
    let unpacked =
        decompress(payload.ok_or(ExtractError::Truncated)?).map_err(ExtractError::Payload)?;
    if unpacked.starts_with(ELF_MAGIC) {
        Ok(unpacked)
    } else {
        Err(ExtractError::Payload("there is no ELF file in it".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 2 * 512];
        file[SETUP_SECTS] = 1;
        file[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        file[VERSION..VERSION + 2].copy_from_slice(&[0x0f, 2]);
        let length = u32::try_from(payload.len()).unwrap();
        file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_payload_is_found_and_unpacked() {
        let elf = b"\x7fELF and more";
        assert_eq!(extract_vmlinux(&bzimage(&gzip(elf))).unwrap(), elf);
        assert_eq!(extract_vmlinux(elf).unwrap(), elf);
    }

    #[test]
    fn other_files_and_cut_ones_are_told_apart() {
        assert_eq!(
            extract_vmlinux(b"root:x:0:0"),
            Err(ExtractError::NeitherElfNorBzImage)
        );
        let whole = bzimage(&gzip(b"\x7fELF"));
        assert_eq!(
            extract_vmlinux(&whole[..whole.len() - 3]),
            Err(ExtractError::Truncated)
        );
        let none = bzimage(&gzip(b"text"));
        assert!(matches!(
            extract_vmlinux(&none),
            Err(ExtractError::Payload(_))
        ));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(noise in prop::collection::vec(any::<u8>(), 0..2000), at in 0_usize..1024) {
            let _ = extract_vmlinux(&noise);
            let mut file = bzimage(&gzip(b"\x7fELF"));
            for (offset, byte) in noise.iter().take(40).enumerate() {
                if let Some(slot) = file.get_mut(at + offset) {
                    *slot = *byte;
                }
            }
            let _ = extract_vmlinux(&file);
        }
    }
}
