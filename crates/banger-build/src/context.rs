//! The files of a build's context that one instruction copies, and their digest. Links are never followed: a context
//! may come from somebody else, and what lies outside of it is the owner's.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::ignore::{Ignore, pattern};

/// The most entries that one instruction may copy.
const MOST: usize = 1_000_000;

/// Why files cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Nothing matches.
    #[error("there is no `{0}` in the context")]
    Missing(String),
    /// It is there, but `.dockerignore` leaves it out.
    #[error("`{0}` is left out by .dockerignore")]
    Ignored(String),
    /// It is a link.
    #[error("`{0}` is, or leads through, a symbolic link; copy what it points to")]
    Link(String),
    /// It is neither file, folder nor link.
    #[error("`{0}` is neither a file, a folder nor a link")]
    Special(String),
    /// Too many.
    #[error("more than {MOST} files are copied at once")]
    TooMany,
    /// Several become one.
    #[error("several files are copied to one that is no folder")]
    Several,
    /// An archive that `ADD` would unpack.
    #[error("`ADD` of the archive `{0}` is not supported: it is not unpacked")]
    Archive(String),
    /// It cannot be read.
    #[error("failed to read {}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What kind of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder, without what is in it.
    Folder,
    /// A symbolic link.
    Link,
}

/// An entry that is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Below the context.
    pub source: PathBuf,
    /// Below the destination's folder.
    pub to: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u16,
    /// When it was changed: seconds and nanoseconds.
    pub mtime: (i64, u32),
}

/// What one instruction copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Folders before what is in them.
    pub items: Vec<Item>,
    /// All is one file, and its `to` is its new name.
    pub one_file: bool,
}

/// A folder to build from.
#[derive(Debug)]
pub struct Context {
    root: PathBuf,
    ignore: Ignore,
}

impl Context {
    /// The folder, with what its `.dockerignore` leaves out.
    #[must_use]
    pub fn new(root: PathBuf, ignore: Ignore) -> Self {
        Self { root, ignore }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `sources` (paths or patterns, with a leading slash) mean, copied to `dest`.
    ///
    /// # Errors
    /// [`ContextError`].
    pub fn select(&self, sources: &[String], dest: &str) -> Result<Selection, ContextError> {
        let mut matches = vec![];
        for source in sources {
            let relative = source.trim_matches('/');
            let found = if relative.contains(['*', '?', '[']) {
                self.matching(relative)?
            } else {
                vec![PathBuf::from(relative)]
            };
            if found.is_empty() {
                return Err(ContextError::Missing(relative.to_owned()));
            }
            matches.extend(found);
        }
        let mut items = vec![];
        let into_folder = dest.ends_with('/');
        let mut files = 0;
        for path in &matches {
            let kind = self.kind(path)?;
            match kind {
                Kind::Folder => self.below(path, Path::new(""), &mut items)?,
                Kind::File => {
                    let name = match into_folder {
                        true => path.file_name(),
                        false => Path::new(dest).file_name(),
                    };
                    let to = PathBuf::from(name.unwrap_or_default());
                    files += 1;
                    items.push(self.item(path, to)?);
                }
                Kind::Link => return Err(ContextError::Link(path.display().to_string())),
            }
        }
        let one_file = files > 0 && !into_folder;
        if one_file && matches.len() > 1 {
            return Err(ContextError::Several);
        }
        Ok(Selection { items, one_file })
    }

    /// The digest of what was selected: paths, kinds, permissions and contents, not times.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn digest(&self, selection: &Selection) -> Result<String, ContextError> {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for item in &selection.items {
            let path = self.root.join(&item.source);
            field(item.to.as_os_str().as_bytes());
            field(&item.mode.to_le_bytes());
            match item.kind {
                Kind::Folder => field(b"folder"),
                Kind::Link => {
                    let target = fs::read_link(&path).map_err(|source| io_error(&path, source))?;
                    field(b"link");
                    field(target.as_os_str().as_bytes());
                }
                Kind::File => {
                    field(b"file");
                    field(&of_file(&path).map_err(|source| io_error(&path, source))?);
                }
            }
        }
        Ok(Digest::of_sha256(hash.finalize().into()).to_string())
    }

    /// Refuses what `ADD` would unpack.
    ///
    /// # Errors
    /// There is an archive, or a file cannot be read.
    pub fn refuse_archives(&self, selection: &Selection) -> Result<(), ContextError> {
        let files = selection
            .items
            .iter()
            .filter(|item| item.kind == Kind::File);
        for item in files.filter(|item| item.to.components().count() == 1) {
            let path = self.root.join(&item.source);
            if is_archive(&path).map_err(|source| io_error(&path, source))? {
                let shown = item.source.display().to_string();
                return Err(ContextError::Archive(shown));
            }
        }
        Ok(())
    }

    /// The kind of what stands there, reached without links.
    fn kind(&self, path: &Path) -> Result<Kind, ContextError> {
        let shown = || path.display().to_string();
        let mut walked = self.root.clone();
        let mut kind = Kind::Folder;
        for name in path {
            if kind != Kind::Folder {
                return Err(match kind {
                    Kind::Link => ContextError::Link(shown()),
                    _ => ContextError::Missing(shown()),
                });
            }
            walked.push(name);
            let metadata = match fs::symlink_metadata(&walked) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(ContextError::Missing(shown()));
                }
                Err(source) => return Err(io_error(&walked, source)),
            };
            kind = kind_of(&metadata).ok_or_else(|| ContextError::Special(shown()))?;
        }
        let left_out = self.ignore.leaves_out(&path.to_string_lossy());
        let may_hold = kind == Kind::Folder && self.ignore.has_exceptions();
        if left_out && !may_hold && !path.as_os_str().is_empty() {
            return Err(ContextError::Ignored(shown()));
        }
        Ok(kind)
    }

    fn item(&self, path: &Path, to: PathBuf) -> Result<Item, ContextError> {
        let whole = self.root.join(path);
        let metadata = fs::symlink_metadata(&whole).map_err(|source| io_error(&whole, source))?;
        let kind =
            kind_of(&metadata).ok_or_else(|| ContextError::Special(path.display().to_string()))?;
        Ok(Item {
            source: path.to_owned(),
            to,
            kind,
            mode: u16::try_from(metadata.permissions().mode() & 0o7777).unwrap_or_default(),
            mtime: (
                metadata.mtime(),
                u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
            ),
        })
    }

    /// Adds what a folder holds, in order.
    fn below(&self, path: &Path, to: &Path, items: &mut Vec<Item>) -> Result<(), ContextError> {
        for name in self.names(path)? {
            let (source, to) = (path.join(&name), to.join(&name));
            let left_out = self.ignore.leaves_out(&source.to_string_lossy());
            if left_out && !self.ignore.has_exceptions() {
                continue;
            }
            let item = self.item(&source, to.clone())?;
            let kind = item.kind;
            let at = items.len();
            if !left_out || kind == Kind::Folder {
                items.push(item);
            }
            if items.len() > MOST {
                return Err(ContextError::TooMany);
            }
            if kind == Kind::Folder {
                self.below(&source, &to, items)?;
                // Only for what it holds, and it holds nothing.
                if left_out && items.len() == at + 1 {
                    items.pop();
                }
            }
        }
        Ok(())
    }

    fn names(&self, path: &Path) -> Result<Vec<std::ffi::OsString>, ContextError> {
        let whole = self.root.join(path);
        let wrong = |source| io_error(&whole, source);
        let mut names = vec![];
        for entry in fs::read_dir(&whole).map_err(wrong)? {
            names.push(entry.map_err(wrong)?.file_name());
        }
        names.sort();
        Ok(names)
    }

    /// Paths of the context that match a pattern, name by name.
    fn matching(&self, text: &str) -> Result<Vec<PathBuf>, ContextError> {
        let mut found = vec![PathBuf::new()];
        for name in text.split('/').filter(|name| !name.is_empty()) {
            let glob = pattern(name).ok_or_else(|| ContextError::Missing(text.to_owned()))?;
            let mut next = vec![];
            for folder in &found {
                if self.kind(folder)? != Kind::Folder {
                    continue;
                }
                for candidate in self.names(folder)? {
                    let path = folder.join(&candidate);
                    if glob.is_match(Path::new(&candidate))
                        && !self.ignore.leaves_out(&path.to_string_lossy())
                    {
                        next.push(path);
                    }
                }
            }
            found = next;
        }
        Ok(found)
    }
}

fn io_error(path: &Path, source: io::Error) -> ContextError {
    ContextError::Io {
        path: path.to_owned(),
        source,
    }
}

fn kind_of(metadata: &fs::Metadata) -> Option<Kind> {
    let kind = metadata.file_type();
    if kind.is_file() {
        Some(Kind::File)
    } else if kind.is_dir() {
        Some(Kind::Folder)
    } else {
        kind.is_symlink().then_some(Kind::Link)
    }
}

/// A file that is not followed when it is a link.
fn open(path: &Path) -> io::Result<fs::File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

fn of_file(path: &Path) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    io::copy(&mut open(path)?, &mut hash)?;
    Ok(hash.finalize().into())
}

fn is_archive(path: &Path) -> io::Result<bool> {
    use io::Read;
    let mut head = vec![];
    open(path)?.take(512).read_to_end(&mut head)?;
    let packed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    let is_tar = head.get(257..262) == Some(b"ustar");
    Ok(is_tar || packed.iter().any(|magic| head.starts_with(magic)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn context(ignore: &str) -> (tempfile::TempDir, Context) {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["src/deep", "docs", "target"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for (path, text) in [
            ("a.txt", "a"),
            ("b.txt", "b"),
            ("src/main.rs", "main"),
            ("src/deep/x", "x"),
            ("docs/README.md", "r"),
            ("docs/other.md", "o"),
            ("target/big", "big"),
        ] {
            fs::write(at(path), text).unwrap();
        }
        symlink("/etc/passwd", at("out")).unwrap();
        symlink("main.rs", at("src/link")).unwrap();
        symlink("src", at("elsewhere")).unwrap();
        let context = Context::new(dir.path().to_owned(), Ignore::parse(ignore).unwrap());
        (dir, context)
    }

    fn selected(context: &Context, sources: &[&str], dest: &str) -> Vec<String> {
        let sources: Vec<String> = sources.iter().map(|s| format!("/{s}")).collect();
        let selection = context.select(&sources, dest).unwrap();
        let shown = |item: &Item| item.to.display().to_string();
        selection.items.iter().map(shown).collect()
    }

    fn refused(context: &Context, source: &str) -> ContextError {
        context.select(&[format!("/{source}")], "/d/").unwrap_err()
    }

    #[test]
    fn files_get_names_and_folders_give_what_they_hold() {
        let (_dir, context) = context("");
        assert_eq!(selected(&context, &["a.txt"], "/x/y"), ["y"]);
        assert_eq!(selected(&context, &["a.txt"], "/x/"), ["a.txt"]);
        let src = ["deep", "deep/x", "link", "main.rs"];
        assert_eq!(selected(&context, &["src"], "/x"), src);
        assert_eq!(selected(&context, &["*.txt"], "/x/"), ["a.txt", "b.txt"]);
        assert_eq!(
            selected(&context, &["d*/*.md"], "/x/"),
            ["README.md", "other.md"]
        );
        assert!(selected(&context, &[""], "/x").len() > 10);
        let two = context.select(&["/a.txt".into(), "/b.txt".into()], "/x");
        assert!(matches!(two, Err(ContextError::Several)));
    }

    #[test]
    fn what_is_ignored_stays_out_but_for_exceptions() {
        let (_dir, context) = context("target\ndocs\n!docs/README.md\n*.txt\n");
        let all = selected(&context, &[""], "/x");
        assert!(!all.iter().any(|path| path.starts_with("target")));
        assert!(all.contains(&"docs/README.md".to_owned()));
        assert!(!all.contains(&"docs/other.md".to_owned()));
        assert!(!all.contains(&"a.txt".to_owned()));
        assert!(matches!(
            refused(&context, "a.txt"),
            ContextError::Ignored(_)
        ));
    }

    #[test]
    fn nothing_outside_of_the_context_is_reached() {
        let (_dir, context) = context("");
        assert!(matches!(refused(&context, "out"), ContextError::Link(_)));
        assert!(matches!(
            refused(&context, "elsewhere/main.rs"),
            ContextError::Link(_)
        ));
        assert!(matches!(
            refused(&context, "none"),
            ContextError::Missing(_)
        ));
        assert!(matches!(
            refused(&context, "a.txt/x"),
            ContextError::Missing(_)
        ));
        assert!(matches!(refused(&context, "n*"), ContextError::Missing(_)));
    }

    #[test]
    fn the_digest_is_of_content_and_permissions_and_not_of_times() {
        let (dir, context) = context("");
        let digest = || {
            let selection = context.select(&["/src".into()], "/x").unwrap();
            context.digest(&selection).unwrap()
        };
        let first = digest();
        let file = dir.path().join("src/main.rs");
        fs::write(&file, "main").unwrap();
        assert_eq!(digest(), first);
        fs::write(&file, "other").unwrap();
        let second = digest();
        assert_ne!(second, first);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(digest(), second);
    }

    #[test]
    fn archives_are_not_added() {
        let (dir, context) = context("");
        fs::write(dir.path().join("x.tgz"), b"\x1f\x8b\x08").unwrap();
        let selection = context.select(&["/x.tgz".into()], "/d/").unwrap();
        context.refuse_archives(&selection).unwrap_err();
        let plain = context.select(&["/a.txt".into()], "/d/").unwrap();
        context.refuse_archives(&plain).unwrap();
    }
}
