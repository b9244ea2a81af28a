//! Files that the host gives a guest at its start. They follow the configuration on the config drive, from
//! the next multiple of 4096 bytes on: magic, `u32` number of files, `u8` 1 when
//! the guest has never run before, then for each `u8` kind, `u32` mode,
//! `u16` length of the path, `u32` length of the content, path, content; numbers are little endian.

use std::io::{self, Read};

use crate::{BadPath, RelPath};

const MAGIC: &[u8; 8] = b"BNGRFIL1";
const HEADER: usize = MAGIC.len() + 4 + 1;
const FILE_HEADER: usize = 1 + 4 + 2 + 4;

/// The most that all paths and contents together may be, in bytes.
pub const MAX_FILES_SIZE: usize = 32 << 20;

/// The most files, folders and links.
pub const MAX_FILES: usize = 20_000;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A folder; no content.
    Folder,
    /// A file.
    File,
    /// A symbolic link; the content is where it leads.
    Link,
}

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// Where, below the home.
    pub path: RelPath,
    /// What.
    pub kind: FileKind,
    /// Permissions, at most 0o7777; of no meaning for a link.
    pub mode: u32,
    /// The content, or where the link leads.
    pub content: Vec<u8>,
}

/// Why some bytes are no files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// They could not be read, or end too early.
    #[error("the files could not be read")]
    Read(#[source] io::Error),
    /// There are more than [`MAX_FILES`], or they are larger than [`MAX_FILES_SIZE`].
    #[error("there are too many files, or too large ones")]
    Size,
    /// An entry is of no kind.
    #[error("an entry is of the unknown kind {0}")]
    Kind(u8),
    /// A path is none.
    #[error("a path is none")]
    Path(#[source] BadPath),
}

/// Puts files behind a configuration's bytes (which [`crate::encode`] makes). `fresh`: the guest has never
/// run, so that what is in its home is the image's and nobody's work.
///
/// # Errors
/// [`FilesError::Size`] when there are too many, or they are too large.
pub fn append_files(
    drive: &mut Vec<u8>,
    files: &[GuestFile],
    fresh: bool,
) -> Result<(), FilesError> {
    if files.is_empty() {
        return Ok(());
    }
    let size = |file: &GuestFile| {
        file.path
            .as_bytes()
            .len()
            .saturating_add(file.content.len())
    };
    let total = files.iter().map(size).fold(0_usize, usize::saturating_add);
    if files.len() > MAX_FILES || total > MAX_FILES_SIZE {
        return Err(FilesError::Size);
    }
    let small = |length: usize| u32::try_from(length).map_err(|_| FilesError::Size);
    drive.resize(drive.len().next_multiple_of(4096), 0);
    drive.extend_from_slice(MAGIC);
    drive.extend_from_slice(&small(files.len())?.to_le_bytes());
    drive.push(u8::from(fresh));
    for file in files {
        drive.push(match file.kind {
            FileKind::Folder => 1,
            FileKind::File => 2,
            FileKind::Link => 3,
        });
        drive.extend_from_slice(&(file.mode & 0o7777).to_le_bytes());
        let length = u16::try_from(file.path.as_bytes().len()).map_err(|_| FilesError::Size)?;
        drive.extend_from_slice(&length.to_le_bytes());
        drive.extend_from_slice(&small(file.content.len())?.to_le_bytes());
        drive.extend_from_slice(file.path.as_bytes());
        drive.extend_from_slice(&file.content);
    }
    drive.resize(drive.len().next_multiple_of(4096), 0);
    Ok(())
}

/// Reads files, one after the other: what is read does not have to be held at once.
#[derive(Debug)]
pub struct FileReader<R> {
    from: R,
    left: u32,
    room: usize,
    fresh: bool,
}

impl<R: Read> FileReader<R> {
    /// Begins where the files do. None: there are none.
    ///
    /// # Errors
    /// [`FilesError`] when there are too many.
    pub fn new(mut from: R) -> Result<Option<Self>, FilesError> {
        let mut header = [0; HEADER];
        match from.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(FilesError::Read)?,
        }
        let Some([a, b, c, d, fresh]) = header.strip_prefix(MAGIC) else {
            return Ok(None);
        };
        let left = u32::from_le_bytes([*a, *b, *c, *d]);
        if usize::try_from(left).map_or(true, |left| left > MAX_FILES) {
            return Err(FilesError::Size);
        }
        Ok(Some(Self {
            from,
            left,
            room: MAX_FILES_SIZE,
            fresh: *fresh == 1,
        }))
    }

    /// Whether the guest has never run before.
    #[must_use]
    pub const fn fresh(&self) -> bool {
        self.fresh
    }

    /// The next one; None after the last.
    ///
    /// # Errors
    /// [`FilesError`]: nothing that follows can be read either.
    pub fn next_file(&mut self) -> Result<Option<GuestFile>, FilesError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut header = [0; FILE_HEADER];
        self.from
            .read_exact(&mut header)
            .map_err(FilesError::Read)?;
        let [kind, a, b, c, d, e, f, g, h, i, j] = header;
        let kind = match kind {
            1 => FileKind::Folder,
            2 => FileKind::File,
            3 => FileKind::Link,
            other => return Err(FilesError::Kind(other)),
        };
        let path = usize::from(u16::from_le_bytes([e, f]));
        let content = usize::try_from(u32::from_le_bytes([g, h, i, j]));
        let content = content.map_err(|_| FilesError::Size)?;
        let size = path.checked_add(content).ok_or(FilesError::Size)?;
        self.room = self.room.checked_sub(size).ok_or(FilesError::Size)?;
        let path = RelPath::new(self.bytes(path)?).map_err(FilesError::Path)?;
        let content = self.bytes(content)?;
        self.left -= 1;
        Ok(Some(GuestFile {
            path,
            kind,
            mode: u32::from_le_bytes([a, b, c, d]) & 0o7777,
            content,
        }))
    }

    /// So many bytes; room is only made for what really comes.
    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, FilesError> {
        let mut bytes = vec![];
        let limit = u64::try_from(count).map_err(|_| FilesError::Size)?;
        let read = (&mut self.from).take(limit).read_to_end(&mut bytes);
        read.map_err(FilesError::Read)?;
        if bytes.len() == count {
            return Ok(bytes);
        }
        Err(FilesError::Read(io::ErrorKind::UnexpectedEof.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_stays_below_its_folder() {
        for good in ["a", ".gitconfig", ".config/a b/c", "...", "\u{1b}"] {
            assert!(RelPath::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(256);
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b", &long,
        ] {
            assert!(RelPath::new(bad).is_err(), "{bad}");
        }
    }

    fn files() -> impl Strategy<Value = Vec<GuestFile>> {
        let kind = prop_oneof![
            Just(FileKind::Folder),
            Just(FileKind::File),
            Just(FileKind::Link)
        ];
        let content = proptest::collection::vec(any::<u8>(), 0..300);
        let one = (
            "[a-z]{1,9}(/[a-z.]{3,9}x){0,3}",
            kind,
            0_u32..0o10000,
            content,
        );
        let one = one.prop_map(|(path, kind, mode, content)| GuestFile {
            path: RelPath::new(path).unwrap(),
            kind,
            mode,
            content,
        });
        proptest::collection::vec(one, 0..20)
    }

    fn all(bytes: &[u8]) -> Result<Vec<GuestFile>, FilesError> {
        let Some(mut reader) = FileReader::new(bytes)? else {
            return Ok(vec![]);
        };
        let mut all = vec![];
        while let Some(file) = reader.next_file()? {
            all.push(file);
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn files_come_out_as_they_went_in(files in files()) {
            let mut drive = vec![7; 5000];
            append_files(&mut drive, &files, true).unwrap();
            let from = drive.get(8192..).unwrap_or_default();
            prop_assert_eq!(all(from).unwrap(), files);
        }

        #[test]
        fn damaged_bytes_are_an_error_never_a_panic(
            files in files(), at: proptest::sample::Index, value: u8, cut: proptest::sample::Index,
        ) {
            let mut drive = vec![];
            append_files(&mut drive, &files, false).unwrap();
            if !drive.is_empty() {
                let place = at.index(drive.len());
                drive[place] = value;
                let _ = all(&drive);
                let _ = all(&drive[..cut.index(drive.len())]);
            }
        }

        #[test]
        fn bytes_that_are_no_files_are_none(bytes: Vec<u8>) {
            prop_assert!(all(&bytes).unwrap().is_empty());
        }
    }

    #[test]
    fn too_much_is_refused_when_it_is_written_and_when_it_is_read() {
        let large = GuestFile {
            path: RelPath::new(b"a".to_vec()).unwrap(),
            kind: FileKind::File,
            mode: 0o600,
            content: vec![0; MAX_FILES_SIZE],
        };
        let mut drive = vec![];
        assert!(append_files(&mut drive, std::slice::from_ref(&large), true).is_err());
        assert!(drive.is_empty(), "nothing is begun");
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.push(0);
        assert!(matches!(all(&bytes), Err(FilesError::Size)));
        let mut bytes = MAGIC.to_vec();
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend([0, 2, 0, 0, 0, 0, 1, 0]);
        bytes.extend(u32::MAX.to_le_bytes());
        bytes.push(b'a');
        assert!(matches!(all(&bytes), Err(FilesError::Size)));
    }
}
