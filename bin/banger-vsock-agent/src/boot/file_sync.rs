//! Files of the host's for this guest's `/root`, put there before anything of the image runs. What the guest
//! has made its own is left alone: each file that was put is remembered, and one that is not as it was put
//! any more is not replaced.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_guest_proto::{FileKind, FileReader, GuestFile};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Report;
use crate::root::Root;

/// What was put, so that changes are noticed: in the home, since that outlives the root disk.
const RECORD: &str = ".local/state/banger/file-sync.json";

/// So many changed files are named one by one.
const MAX_TOLD: usize = 5;

/// A digest of kind, mode and content.
type Seal = String;

/// What was put where; the path's bytes, escaped, are the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    files: BTreeMap<String, Seal>,
}

/// What to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Write it.
    Put,
    /// It is as it should be.
    Leave,
    /// The guest's is kept though the host's is another now.
    Keep,
}

/// Decides from what the host has now, what was put last, what is there, and whether the guest has never run
/// (then what is there is the image's).
fn decide(host: &str, last: Option<&str>, guest: Option<&str>, first: bool) -> Action {
    match (last, guest) {
        (_, Some(guest)) if guest == host => Action::Leave,
        // Nothing new from the host: what the guest did with it is its own affair.
        (Some(last), _) if last == host => Action::Leave,
        (Some(last), Some(guest)) if guest == last => Action::Put,
        (Some(_), _) => Action::Keep,
        (None, None) => Action::Put,
        (None, Some(_)) if first => Action::Put,
        (None, Some(_)) => Action::Keep,
    }
}

/// Applies what stands on the config drive behind the configuration.
pub(super) fn apply(root: &Root, drive: &Path, from: u64, report: &mut Report) {
    let result = read(drive, from).and_then(|reader| match reader {
        Some(reader) => apply_all(&root.ensure_folder("/root", 0o700)?, reader, report),
        None => Ok(()),
    });
    report.note("put the host's files (file_sync)", result);
}

fn read(drive: &Path, from: u64) -> io::Result<Option<FileReader<io::BufReader<File>>>> {
    let mut file = File::open(drive)?;
    file.seek(SeekFrom::Start(from))?;
    FileReader::new(io::BufReader::new(file)).map_err(io::Error::other)
}

fn apply_all(
    home: &OwnedFd,
    mut files: FileReader<impl io::Read>,
    report: &mut Report,
) -> io::Result<()> {
    let old = load(home.as_fd());
    let mut record = old.clone().unwrap_or_default();
    let first = files.fresh() && old.is_none();
    let mut kept = vec![];
    while let Some(file) = files.next_file().map_err(io::Error::other)? {
        let name = file.path.as_bytes().escape_ascii().to_string();
        let done = one(home.as_fd(), &file, record.files.get(&name), first);
        match done {
            Ok(Some(seal)) => {
                record.files.insert(name, seal);
            }
            Ok(None) => kept.push(name),
            Err(error) => report.problem(format!("file_sync: ~/{name} could not be put: {error}")),
        }
    }
    tell_kept(&kept, report);
    if old.as_ref() != Some(&record) {
        save(home.as_fd(), &record)?;
    }
    Ok(())
}

fn tell_kept(kept: &[String], report: &mut Report) {
    for name in kept.iter().take(MAX_TOLD) {
        report.problem(format!(
            "file_sync: ~/{name} was changed in the guest and is kept; the host's is another now"
        ));
    }
    if kept.len() > MAX_TOLD {
        let more = kept.len() - MAX_TOLD;
        report.problem(format!("file_sync: so are {more} more files"));
    }
}

/// Does what is to be done with a file. The seal to remember; None: the guest's is kept.
fn one(
    home: BorrowedFd<'_>,
    file: &GuestFile,
    last: Option<&Seal>,
    first: bool,
) -> io::Result<Option<Seal>> {
    let path = Path::new(std::ffi::OsStr::from_bytes(file.path.as_bytes()));
    if file.kind == FileKind::Folder {
        ensure_folder(home, path, file.mode)?;
        return Ok(Some(seal(FileKind::Folder, 0, b"")));
    }
    let name = path.file_name().unwrap_or_default();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => ensure_folder(home, parent, 0o700)?,
        _ => rustix::io::dup(home)?,
    };
    let host = seal(file.kind, file.mode, &file.content);
    let guest = present(folder.as_fd(), Path::new(name));
    match decide(&host, last.map(String::as_str), guest.as_deref(), first) {
        Action::Leave => {}
        Action::Keep => return Ok(None),
        Action::Put => put(
            folder.as_fd(),
            Path::new(name),
            file.kind,
            file.mode,
            &file.content,
        )?,
    }
    Ok(Some(host))
}

/// Opens a folder below the home, made with all that lead to it where they are missing. A link is
/// followed as long as it stays below the home.
fn ensure_folder(home: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| loop {
        match rustix::fs::openat2(home, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    };
    let mut walked = std::path::PathBuf::new();
    let mut folder = rustix::io::dup(home)?;
    for part in path.components() {
        walked.push(part);
        folder = match open(&walked) {
            Err(Errno::NOENT) => {
                let mode = Mode::from_raw_mode(mode);
                match rustix::fs::mkdirat(&folder, Path::new(part.as_os_str()), mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open(&walked)?
            }
            Err(Errno::XDEV) => {
                return Err(io::Error::other("a link on the way leads out of the home"));
            }
            other => other?,
        };
    }
    Ok(folder)
}

/// The seal of what has that name now; None: nothing has.
fn present(folder: BorrowedFd<'_>, name: &Path) -> Option<Seal> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    // What is neither was not put by anybody here: it fits nothing.
    let other = Some("other".to_owned());
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => match rustix::fs::readlinkat(folder, name, vec![]) {
            Ok(target) => Some(seal(FileKind::Link, 0, target.as_bytes())),
            Err(_) => other,
        },
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(folder, name, flags, Mode::empty());
            let content = file.map_err(io::Error::from).and_then(content);
            content.map_or(other, |it| {
                Some(seal(FileKind::File, stat.st_mode & 0o7777, &it))
            })
        }
        _ => other,
    }
}

/// A file's content; what is larger than any that was put is not read to its end.
fn content(fd: OwnedFd) -> io::Result<Vec<u8>> {
    use io::Read;
    let most = u64::try_from(banger_guest_proto::MAX_FILES_SIZE).unwrap_or(u64::MAX);
    let mut bytes = vec![];
    File::from(fd).take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn seal(kind: FileKind, mode: u32, content: &[u8]) -> Seal {
    // A link's mode is nobody's choice.
    let (kind, mode) = match kind {
        FileKind::Folder => ("folder", 0),
        FileKind::File => ("file", mode & 0o7777),
        FileKind::Link => ("link", 0),
    };
    let mut hash = Sha256::new();
    hash.update(format!("{kind} {mode:o}\n"));
    hash.update(content);
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Makes the file or link in place of a file or link of that name; a folder is not replaced.
fn put(
    folder: BorrowedFd<'_>,
    name: &Path,
    kind: FileKind,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let temporary = Path::new(".banger-file-sync");
    let _ = rustix::fs::unlinkat(folder, temporary, AtFlags::empty());
    if kind == FileKind::Link {
        rustix::fs::symlinkat(content, folder, temporary)?;
    } else {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(folder, temporary, flags, Mode::from_raw_mode(0o600))?;
        let mut to = File::from(fd);
        to.write_all(content)?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(mode))?;
    }
    let renamed = rustix::fs::renameat(folder, temporary, folder, name);
    if renamed.is_err() {
        let _ = rustix::fs::unlinkat(folder, temporary, AtFlags::empty());
    }
    Ok(renamed?)
}

/// What was put before; None: nothing was, or nobody knows any more.
fn load(home: BorrowedFd<'_>) -> Option<Record> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = rustix::fs::openat2(home, RECORD, flags, Mode::empty(), resolve).ok()?;
    serde_json::from_slice(&content(file).ok()?).ok()
}

fn save(home: BorrowedFd<'_>, record: &Record) -> io::Result<()> {
    let content = serde_json::to_vec(record).map_err(io::Error::other)?;
    let path = Path::new(RECORD);
    let folder = ensure_folder(home, path.parent().unwrap_or(Path::new("")), 0o700)?;
    let name = Path::new(path.file_name().unwrap_or_default());
    put(folder.as_fd(), name, FileKind::File, 0o600, &content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_guest_proto::{RelPath, append_files};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn each_case_has_its_answer() {
        use Action::{Keep, Leave, Put};
        for (host, last, guest, first, expected) in [
            // Never put.
            ("h", None, None, true, Put),
            ("h", None, None, false, Put),
            ("h", None, Some("image's"), true, Put),
            ("h", None, Some("guest's"), false, Keep),
            ("h", None, Some("h"), false, Leave),
            // Put before; the host's is the same.
            ("h", Some("h"), Some("h"), false, Leave),
            ("h", Some("h"), Some("guest's"), false, Leave),
            ("h", Some("h"), None, false, Leave),
            // The host's is another now.
            ("new", Some("h"), Some("h"), false, Put),
            ("new", Some("h"), Some("guest's"), false, Keep),
            ("new", Some("h"), None, false, Keep),
            ("new", Some("h"), Some("new"), false, Leave),
        ] {
            let what = format!("{host} {last:?} {guest:?} {first}");
            assert_eq!(decide(host, last, guest, first), expected, "{what}");
        }
    }

    struct Guest(tempfile::TempDir);

    impl Guest {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("root")).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.path().join("root").join(name)
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| error.to_string())
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path(name), text).unwrap();
        }

        /// One boot with these files; what was complained of.
        fn boot(&self, files: &[GuestFile], fresh: bool) -> Vec<String> {
            let mut bytes = vec![1; 100];
            append_files(&mut bytes, files, fresh).unwrap();
            let drive = self.0.path().join("drive");
            std::fs::write(&drive, bytes).unwrap();
            let root = Root::open(self.0.path().to_str().unwrap()).unwrap();
            let mut report = Report::default();
            apply(&root, &drive, 4096, &mut report);
            report.into_problems()
        }
    }

    fn entry(path: &str, kind: FileKind, mode: u32, content: &str) -> GuestFile {
        GuestFile {
            path: RelPath::new(path).unwrap(),
            kind,
            mode,
            content: content.into(),
        }
    }

    fn file(path: &str, content: &str) -> GuestFile {
        entry(path, FileKind::File, 0o640, content)
    }

    #[test]
    fn a_fresh_guest_gets_all_with_modes_and_links() {
        let guest = Guest::new();
        guest.write(".bashrc", "the image's");
        let files = [
            file(".bashrc", "mine"),
            entry("bin", FileKind::Folder, 0o750, ""),
            entry("bin/tool", FileKind::File, 0o700, "#!"),
            entry("link", FileKind::Link, 0, "bin/tool"),
            file(".config/a/b", "deep"),
        ];
        assert_eq!(guest.boot(&files, true), [""; 0]);
        assert_eq!(guest.text(".bashrc"), "mine");
        assert_eq!(guest.text(".config/a/b"), "deep");
        let mode = |name: &str| guest.path(name).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            (mode("bin"), mode("bin/tool"), mode(".bashrc")),
            (0o750, 0o700, 0o640)
        );
        assert_eq!(mode(".config"), 0o700);
        assert_eq!(
            std::fs::read_link(guest.path("link")).unwrap(),
            Path::new("bin/tool")
        );
    }

    #[test]
    fn what_the_guest_changed_stays_and_what_it_did_not_follows_the_host() {
        let guest = Guest::new();
        guest.boot(&[file("a", "1"), file("b", "1"), file("c", "1")], true);
        guest.write("b", "guest's");
        std::fs::remove_file(guest.path("c")).unwrap();
        assert_eq!(
            guest.boot(&[file("a", "1"), file("b", "1"), file("c", "1")], false),
            [""; 0]
        );
        assert_eq!(guest.text("b"), "guest's", "no news, no word");
        let told = guest.boot(&[file("a", "2"), file("b", "2"), file("c", "2")], false);
        assert_eq!(guest.text("a"), "2");
        assert_eq!(guest.text("b"), "guest's");
        assert!(!guest.path("c").exists(), "what it removed stays away");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("~/b was changed in the guest"), "{told:?}");
        // Back to the host's by hand: from then on it follows again.
        guest.write("b", "2");
        std::fs::set_permissions(guest.path("b"), PermissionsExt::from_mode(0o640)).unwrap();
        guest.boot(&[file("b", "2")], false);
        assert_eq!(guest.boot(&[file("b", "3")], false), [""; 0]);
        assert_eq!(guest.text("b"), "3");
    }

    #[test]
    fn an_entry_that_is_new_to_an_old_guest_replaces_nothing_of_its_own() {
        let guest = Guest::new();
        guest.write("mine", "guest's");
        let told = guest.boot(&[file("mine", "host's"), file("new", "host's")], false);
        assert_eq!(
            (guest.text("mine").as_str(), guest.text("new").as_str()),
            ("guest's", "host's")
        );
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[test]
    fn nothing_is_written_outside_of_the_home_and_the_rest_still_comes() {
        let guest = Guest::new();
        let outside = guest.0.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        symlink("../outside", guest.path("out")).unwrap();
        symlink("/etc", guest.path("abs")).unwrap();
        std::fs::create_dir(guest.path("real")).unwrap();
        symlink("real", guest.path("alias")).unwrap();
        std::fs::create_dir(guest.path("folder")).unwrap();
        let files = [
            file("out/x", "1"),
            file("abs/banger-test", "1"),
            file("alias/x", "inside"),
            file("folder", "in place of a folder"),
            file("last", "1"),
        ];
        let told = guest.boot(&files, true);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("leads out of the home"), "{told:?}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!Path::new("/etc/banger-test").exists());
        assert_eq!(guest.text("real/x"), "inside");
        assert_eq!(guest.text("last"), "1");
        assert!(guest.path("folder").is_dir());
        assert!(!guest.path(".banger-file-sync").exists());
    }

    #[test]
    fn a_drive_without_files_and_a_record_that_is_damaged_are_no_trouble() {
        let guest = Guest::new();
        assert_eq!(guest.boot(&[], true), [""; 0]);
        assert!(!guest.path(".local").exists());
        guest.boot(&[file("a", "1")], true);
        guest.write(RECORD, "{nonsense");
        let told = guest.boot(&[file("a", "2")], false);
        assert_eq!(guest.text("a"), "1", "nobody knows whose it is");
        assert_eq!(told.len(), 1, "{told:?}");
    }
}
