//! What a checkout on this side consists of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_guest_proto::{Entry, EntryKind, FileTime, RelPath};

use crate::git::{Git, GitError};
use crate::manifest::{Entries, GitState, Head, same};
use crate::metadata;
use crate::staging::{StagedFolder, Staging};

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Git metadata of one commit, and the tracked files as they are.
    #[default]
    ShallowOverlay,
    /// Git metadata of one commit.
    MetadataOnly,
    /// All history and references, the tracked files as they are, and submodules.
    FullCopy,
}

impl Mode {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ShallowOverlay => "shallow_overlay",
            Self::MetadataOnly => "metadata_only",
            Self::FullCopy => "full_copy",
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What is sent.
    pub mode: Mode,
    /// The guest's work goes to a branch of this name.
    pub branch: Option<String>,
    /// The commit that it starts from; then that commit's files are sent. Without: `HEAD`, and the files
    /// as they are.
    pub from: Option<String>,
    /// Also files that git does not know and does not ignore.
    pub untracked: bool,
}

/// Why a checkout cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// It is no repository, or git does not trust it.
    #[error("`{}` is in no git checkout that can be used", path.display())]
    NotACheckout {
        /// The path.
        path: PathBuf,
        /// What git said.
        #[source]
        source: GitError,
    },
    /// A repository without a work tree.
    #[error("`{}` is a bare repository: it has no files to send", path.display())]
    Bare {
        /// The path.
        path: PathBuf,
    },
    /// Submodules need the whole.
    #[error("the repository has submodules (`{path}`), which only the mode full_copy takes")]
    Submodules {
        /// The first of them.
        path: RelPath,
    },
    /// No such commit.
    #[error("there is no commit `{name}`")]
    NoCommit {
        /// As it was given.
        name: String,
    },
    /// No name for a branch.
    #[error("`{name}` cannot be the name of a branch")]
    BadBranch {
        /// As it was given.
        name: String,
    },
    /// git failed.
    #[error("git failed")]
    Git(#[source] GitError),
    /// A file could not be read or written here.
    #[error("failed to prepare the checkout")]
    Io(#[source] std::io::Error),
}

impl CheckoutError {
    /// Whether there was no room here for what is made of it.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Git(error) => error.is_disk_full(),
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

impl From<GitError> for CheckoutError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

impl From<std::io::Error> for CheckoutError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// One line of an index.
#[derive(Debug, Clone)]
pub(crate) struct Staged {
    pub(crate) mode: u32,
    pub(crate) object: String,
    /// 0, or which side of a merge that is not done it is.
    pub(crate) stage: u8,
    pub(crate) path: RelPath,
}

/// What `git ls-files --stage -z` prints.
pub(crate) fn parse_staged(output: &[u8]) -> Vec<Staged> {
    let records = output
        .split(|byte| *byte == 0)
        .filter(|record| !record.is_empty());
    records
        .filter_map(|record| {
            let tab = record.iter().position(|byte| *byte == b'\t')?;
            let head = std::str::from_utf8(&record[..tab]).ok()?;
            let mut words = head.split(' ');
            Some(Staged {
                mode: u32::from_str_radix(words.next()?, 8).ok()?,
                object: words.next()?.to_owned(),
                stage: words.next()?.parse().ok()?,
                path: RelPath::new(&record[tab + 1..]).ok()?,
            })
        })
        .collect()
}

/// The kind of a submodule's entry.
pub(crate) const GITLINK: u32 = 0o160_000;

/// A checkout, ready to be sent.
#[derive(Debug)]
pub struct Collected {
    /// Files and links of the work tree.
    pub entries: Entries,
    /// Where they are read: below this folder.
    pub root: PathBuf,
    /// What the metadata are made from.
    pub git: GitState,
    /// What is left out, for people.
    pub notes: Vec<String>,
    pub(crate) repos: Vec<Repo>,
    /// Metadata that were made ahead.
    packed: Option<Arc<Packed>>,
    staging: Staging,
    /// The user's own work tree.
    here: PathBuf,
    /// What git knows there, when what is sent is another commit's.
    known_here: BTreeSet<RelPath>,
    /// The work tree of another commit is made here.
    _temporary: Option<StagedFolder>,
}

/// Git metadata in a folder of their own, and where each belongs.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) _folder: StagedFolder,
    pub(crate) places: Vec<(PathBuf, RelPath)>,
}

/// A repository whose metadata are sent: the checkout itself, and its submodules.
#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) git: Git,
    /// Where it stands in the checkout; nothing for the checkout itself.
    pub(crate) prefix: Option<RelPath>,
    pub(crate) head: Head,
    pub(crate) mode: Mode,
    pub(crate) staged: Vec<Staged>,
    /// An index that was made for another commit.
    pub(crate) index: Option<PathBuf>,
}

/// The checkout that a path is in.
fn open(path: &Path) -> Result<Git, CheckoutError> {
    let folder = if path.is_file() {
        path.parent().unwrap_or(path)
    } else {
        path
    };
    let git = Git::new(folder);
    let top = match git.path(&["rev-parse", "--show-toplevel"]) {
        Ok(top) => top,
        Err(source) => {
            let bare = git.maybe(&["rev-parse", "--is-bare-repository"]);
            let path = path.to_owned();
            return Err(match bare.as_deref() {
                Some("true") => CheckoutError::Bare { path },
                _ => CheckoutError::NotACheckout { path, source },
            });
        }
    };
    Ok(Git::new(top))
}

fn head(git: &Git) -> Head {
    Head {
        branch: git.maybe(&["symbolic-ref", "-q", "HEAD"]),
        commit: git.maybe(&["rev-parse", "-q", "--verify", "HEAD^{commit}"]),
    }
}

/// Whether no link leads to a path's place.
fn real_parents(root: &Path, path: &RelPath) -> bool {
    let mut parents = path
        .parents()
        .map(|parent| root.join(OsStr::from_bytes(parent)));
    parents.all(|parent| std::fs::symlink_metadata(parent).is_ok_and(|found| found.is_dir()))
}

/// What stands at a path here; nothing for what is neither file nor link.
fn look(root: &Path, path: &RelPath) -> Option<Entry> {
    let found = std::fs::symlink_metadata(root.join(path.as_path())).ok()?;
    let kind = if found.is_file() {
        EntryKind::File {
            size: found.len(),
            linked: false,
        }
    } else if found.is_symlink() {
        let target = std::fs::read_link(root.join(path.as_path())).ok()?;
        EntryKind::Symlink(target.as_os_str().as_bytes().to_vec())
    } else {
        return None;
    };
    Some(Entry {
        path: path.clone(),
        kind,
        mode: u16::try_from(found.mode() & 0o777).unwrap_or_default(),
        mtime: FileTime {
            seconds: found.mtime(),
            nanos: u32::try_from(found.mtime_nsec()).unwrap_or_default(),
        },
    })
}

impl Collected {
    /// Finds the checkout that a path is in, and lists what is to be sent of it. What is made for it on the way is
    /// in that place for as long as this lives.
    ///
    /// # Errors
    /// [`CheckoutError`] when it cannot be sent.
    pub fn new(path: &Path, options: &Options, staging: &Staging) -> Result<Self, CheckoutError> {
        let git = open(path)?;
        let mut collected = Self {
            entries: Entries::new(),
            root: git.folder().to_owned(),
            git: GitState::default(),
            notes: vec![],
            repos: vec![],
            packed: None,
            staging: staging.clone(),
            here: git.folder().to_owned(),
            known_here: BTreeSet::new(),
            _temporary: None,
        };
        collected.add(&git, None, options)?;
        let top = collected.repos.first();
        collected.git = GitState {
            mode: options.mode.as_str().to_owned(),
            head: top.map(|repo| repo.head.clone()).unwrap_or_default(),
            index: collected.digest(&git)?,
            refs: match options.mode {
                Mode::FullCopy => git
                    .line(&["for-each-ref", "--format=%(objectname) %(refname)"])
                    .and_then(|refs| hash(&git, refs.as_bytes()))?,
                _ => String::new(),
            },
        };
        Ok(collected)
    }

    /// Makes the git metadata for a guest that has nothing yet, ahead of the transfer.
    ///
    /// # Errors
    /// [`CheckoutError`] when git fails.
    pub fn pack(&mut self) -> Result<(), CheckoutError> {
        self.packed = Some(self.metadata(None)?);
        Ok(())
    }

    /// The git metadata: those that were made ahead, where they fit; objects of `known`, an earlier commit that the guest
    /// has, are left out.
    pub(crate) fn metadata(&self, known: Option<&str>) -> Result<Arc<Packed>, CheckoutError> {
        match (&self.packed, known) {
            (Some(packed), None) => Ok(Arc::clone(packed)),
            _ => self.make_metadata(known).map(Arc::new),
        }
    }

    fn make_metadata(&self, known: Option<&str>) -> Result<Packed, CheckoutError> {
        let folder = self.staging.folder()?;
        let mut places = vec![];
        for (number, repo) in self.repos.iter().enumerate() {
            let at = folder.path().join(number.to_string());
            let known = known.filter(|_| repo.prefix.is_none() && repo.mode != Mode::FullCopy);
            metadata::make(repo, &at, known)?;
            let path = match &repo.prefix {
                Some(prefix) => prefix.join(b".git"),
                None => RelPath::new(*b".git"),
            };
            let path = path.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            places.push((at, path));
        }
        Ok(Packed {
            _folder: folder,
            places,
        })
    }

    /// Of what was sent before and is not sent now, that which stands here still, and is no matter of git's: left out this
    /// time, not deleted. Also whether each is as it was sent.
    pub(crate) fn left_out(&self, sent: &Entries) -> Vec<(RelPath, bool)> {
        let mut folders = None;
        let candidates = sent
            .iter()
            .filter(|(path, _)| !self.entries.contains_key(*path));
        let left = candidates.filter_map(|(path, known)| {
            let is_there = real_parents(&self.here, path) && !self.known_here.contains(path);
            let found = look(&self.here, path).filter(|_| is_there)?;
            // What is sent may need its place.
            let folders = folders.get_or_insert_with(|| self.folders());
            let mut parents = path.parents();
            let taken = folders.contains(path.as_bytes())
                || parents.any(|parent| {
                    RelPath::new(parent).is_ok_and(|parent| self.entries.contains_key(&parent))
                });
            (!taken).then(|| (path.clone(), same(known, &found)))
        });
        left.collect()
    }

    /// Every folder that something is sent into.
    fn folders(&self) -> BTreeSet<&[u8]> {
        self.entries.keys().flat_map(RelPath::parents).collect()
    }

    /// A digest of all indexes.
    fn digest(&self, git: &Git) -> Result<String, GitError> {
        let mut text = vec![];
        for one in self.repos.iter().flat_map(|repo| &repo.staged) {
            text.extend_from_slice(format!("{:o} {} ", one.mode, one.object).as_bytes());
            text.extend_from_slice(one.path.as_bytes());
            text.push(0);
        }
        hash(git, &text)
    }

    fn add(
        &mut self,
        git: &Git,
        prefix: Option<&RelPath>,
        options: &Options,
    ) -> Result<(), CheckoutError> {
        let mut head = head(git);
        let mut index = None;
        let mut root = git.folder().to_owned();
        if prefix.is_none() {
            if let Some(name) = &options.from {
                let commit = git.maybe(&[
                    "rev-parse",
                    "-q",
                    "--verify",
                    "--end-of-options",
                    &format!("{name}^{{commit}}"),
                ]);
                let commit =
                    commit.ok_or_else(|| CheckoutError::NoCommit { name: name.clone() })?;
                if head.commit.as_ref() != Some(&commit) {
                    let folder = self.staging.folder()?;
                    index = Some(metadata::check_out(git, &commit, folder.path())?);
                    root = folder.path().join("tree");
                    self.root.clone_from(&root);
                    self._temporary = Some(folder);
                    let known = parse_staged(&git.run(&["ls-files", "--stage", "-z"])?);
                    self.known_here = known.into_iter().map(|one| one.path).collect();
                }
                head = Head {
                    branch: None,
                    commit: Some(commit),
                };
            }
            if let Some(name) = &options.branch {
                git.run(&["check-ref-format", "--branch", name])
                    .map_err(|_| CheckoutError::BadBranch { name: name.clone() })?;
                head.branch = Some(format!("refs/heads/{name}"));
            }
        }
        let of_index = match &index {
            Some(index) => git.with("GIT_INDEX_FILE", index),
            None => git.clone(),
        };
        let staged = parse_staged(&of_index.run(&["ls-files", "--stage", "-z"])?);
        let place = |path: &RelPath| match prefix {
            Some(prefix) => prefix.join(path.as_bytes()),
            None => Ok(path.clone()),
        };
        let mut inner = vec![];
        for one in &staged {
            let Ok(path) = place(&one.path) else { continue };
            if one.mode == GITLINK {
                if options.mode != Mode::FullCopy {
                    return Err(CheckoutError::Submodules { path });
                }
                inner.push((one.path.clone(), path));
            } else if options.mode != Mode::MetadataOnly {
                self.take(&root, &one.path, path);
            }
        }
        if options.untracked && index.is_none() && options.mode != Mode::MetadataOnly {
            let output = git.run(&["ls-files", "--others", "--exclude-standard", "-z"])?;
            for name in output
                .split(|byte| *byte == 0)
                .filter(|name| !name.is_empty())
            {
                match RelPath::new(name).and_then(|path| Ok((place(&path)?, path))) {
                    Ok((at, path)) => self.take(&root, &path, at),
                    // Another repository inside: listed as a folder.
                    Err(_) => self.notes.push(format!(
                        "left out: {} (a repository of its own)",
                        banger_guest_proto::shown(name)
                    )),
                }
            }
        }
        self.repos.push(Repo {
            git: git.clone(),
            prefix: prefix.cloned(),
            head,
            mode: options.mode,
            staged,
            index,
        });
        for (path, at) in inner {
            let folder = root.join(path.as_path());
            if folder.join(".git").exists() {
                let options = Options {
                    branch: None,
                    from: None,
                    ..options.clone()
                };
                self.add(&Git::new(folder), Some(&at), &options)?;
            } else {
                self.notes.push(format!(
                    "left out: the submodule {at} (it is not initialised here)"
                ));
            }
        }
        Ok(())
    }

    fn take(&mut self, root: &Path, path: &RelPath, at: RelPath) {
        // What is not there was deleted here, or is outside of a sparse checkout.
        if let Some(entry) = look(root, path) {
            self.entries.insert(at.clone(), Entry { path: at, ..entry });
        }
    }
}

fn hash(git: &Git, bytes: &[u8]) -> Result<String, GitError> {
    let output = git.run_with(&["hash-object", "--stdin", "--no-filters"], bytes)?;
    Ok(String::from_utf8_lossy(&output).trim_end().to_owned())
}
