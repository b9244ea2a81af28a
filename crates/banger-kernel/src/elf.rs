//! Whether an ELF file is a kernel that a VMM can start on this machine.

use object::Endianness;
use object::elf::{EM_X86_64, FileHeader64, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

/// What is known of a kernel's ELF image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// It has the note that says where to enter it without a boot loader (`XEN_ELFNOTE_PHYS32_ENTRY`,
    /// number 18, of Xen's `elfnote.h`): what QEMU needs to start it directly.
    pub(crate) pvh: bool,
}

const PHYS32_ENTRY: u32 = 18;

pub(crate) fn inspect(file: &[u8]) -> Result<Facts, String> {
    let header = FileHeader64::<Endianness>::parse(file).map_err(|_| "it is no 64-bit ELF file")?;
    let endian = header.endian().map_err(|error| error.to_string())?;
    if header.e_machine(endian) != EM_X86_64 {
        return Err("it is for another processor".into());
    }
    let segments = header
        .program_headers(endian, file)
        .map_err(|error| error.to_string())?;
    if segments.is_empty() {
        return Err("it has nothing to load".into());
    }
    let mut pvh = false;
    for segment in segments {
        let end = segment
            .p_offset(endian)
            .saturating_add(segment.p_filesz(endian));
        if end > file.len() as u64 {
            return Err("it is truncated".into());
        }
        if segment.p_type(endian) == PT_NOTE
            && let Ok(Some(mut notes)) = segment.notes(endian, file)
        {
            while let Ok(Some(note)) = notes.next() {
                pvh |= note.n_type(endian).0 == PHYS32_ENTRY && note.name() == b"Xen";
            }
        }
    }
    Ok(Facts { pvh })
}

/// The release in the kernel's banner, `Linux version X (…`.
pub(crate) fn release(file: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let at = file
        .windows(BANNER.len())
        .position(|window| window == BANNER)?
        + BANNER.len();
    let rest = file.get(at..(at + 128).min(file.len()))?;
    let end = rest.iter().position(|byte| *byte == b' ' || *byte == 0)?;
    let release = std::str::from_utf8(&rest[..end]).ok()?;
    is_release(release).then(|| release.to_owned())
}

/// Whether a text can be a release: it becomes the name of a folder.
pub(crate) fn is_release(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+~".contains(&byte);
    text.bytes().all(plain)
        && text.as_bytes().first().is_some_and(u8::is_ascii_digit)
        && text.len() <= 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_program_is_no_kernel_but_a_64_bit_elf() {
        let me = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(inspect(&me), Ok(Facts { pvh: false }));
        assert!(inspect(&me[..1000]).is_err());
        assert!(inspect(b"text").is_err());
    }

    #[test]
    fn the_release_is_read_from_the_banner() {
        let file = b"....Linux version 6.1.0-41-cloud-amd64 (someone@somewhere)";
        assert_eq!(release(file).as_deref(), Some("6.1.0-41-cloud-amd64"));
        assert_eq!(release(b"Linux version ../../etc (x"), None);
        assert_eq!(release(b"nothing"), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut file = b"\x7fELF\x02\x01\x01".to_vec();
            file.extend(noise);
            let _ = inspect(&file);
            let _ = release(&file);
        }
    }
}
