//! Putting a checkout into a guest.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};

use banger_guest::files::{TransferError, get_paths};
use banger_guest_proto::{EntryKind, GetPaths, Record, RelPath, WirePath};
use serde::Serialize;

use crate::checkout::{CheckoutError, Collected, Mode, Repo};
use crate::manifest::{Entries, Head, Manifest};
use crate::plan::{Lost, Step, plan, questions};
use crate::transfer::{Files, transfer};

/// Where the guest keeps what was sent.
pub(crate) const MANIFEST: &[u8] = b".git/banger/workspace";
/// It is there while a first transfer is not whole.
pub(crate) const INCOMPLETE: &[u8] = b".git/banger/incomplete";

/// What is on the host already: lines `^<commit>`.
const KNOWN: &[u8] = b".git/banger/known";
/// The commit that was sent last.
const BASE: &[u8] = b".git/refs/banger/base";

/// The most that is taken of what a guest keeps about its repository, in bytes.
const MAX_STATE: usize = 256 << 20;
/// The most files of a guest that are listed.
const MAX_LISTED: usize = 2_000_000;

/// Why a checkout was not put into the guest.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The checkout itself.
    #[error("the checkout cannot be sent")]
    Checkout(#[source] CheckoutError),
    /// The transfer.
    #[error("the transfer to the guest failed")]
    Transfer(#[source] TransferError),
    /// It goes below `/root` only.
    #[error("`{}` is not below /root, where the work disk is", path.display())]
    Outside {
        /// The path.
        path: PathBuf,
    },
    /// A file or a link is in the way.
    #[error("`{path}` in the guest is {what}; a workspace needs a folder")]
    NotAFolder {
        /// Where.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The guest's own work would be gone.
    #[error("the guest has work of its own that this would overwrite")]
    WouldLose {
        /// Files.
        files: Vec<Lost>,
        /// Its `HEAD`, when that has moved.
        head: Option<Head>,
        /// Submodules that have commits of their own.
        submodules: Vec<RelPath>,
    },
}

impl From<CheckoutError> for PrepareError {
    fn from(error: CheckoutError) -> Self {
        Self::Checkout(error)
    }
}

impl From<TransferError> for PrepareError {
    fn from(error: TransferError) -> Self {
        Self::Transfer(error)
    }
}

pub(crate) fn local(error: io::Error) -> PrepareError {
    PrepareError::Checkout(CheckoutError::Io(error))
}

/// A folder of a guest, and how its agent is reached.
pub struct GuestRepo<'a> {
    /// A connection on which nothing was spoken.
    pub connect: &'a dyn Fn() -> Result<UnixStream, TransferError>,
    /// The folder, absolute.
    pub path: PathBuf,
    /// Below what it must be: the work disk, `/root`.
    pub home: PathBuf,
    /// Told of the bytes of the transfer.
    pub progress: &'a dyn Fn(u64),
}

impl std::fmt::Debug for GuestRepo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestRepo")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// What was sent, or would be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Prepared {
    /// The folder in the guest.
    pub guest_path: String,
    /// Files that are sent, and their sizes.
    pub sent: Vec<SentFile>,
    /// Files that are removed in the guest.
    pub removed: Vec<String>,
    /// Bytes of git metadata that are sent.
    pub git_bytes: u64,
    /// Bytes of all that is sent.
    pub bytes: u64,
    /// Tracked files that are the same already.
    pub unchanged: usize,
    /// What was left out.
    pub notes: Vec<String>,
}

/// A file that is sent.
#[derive(Debug, Clone, Serialize)]
pub struct SentFile {
    /// Its path.
    pub path: String,
    /// Its size.
    pub size: u64,
}

pub(crate) fn rel(bytes: &[u8]) -> Result<RelPath, PrepareError> {
    RelPath::new(bytes).map_err(|error| local(io::Error::new(io::ErrorKind::InvalidInput, error)))
}

/// The path below the work disk, without anything that leads elsewhere.
pub(crate) fn below(home: &Path, path: &Path) -> Result<RelPath, PrepareError> {
    let outside = || PrepareError::Outside {
        path: path.to_owned(),
    };
    let inner = path.strip_prefix(home).map_err(|_| outside())?;
    if inner
        .components()
        .any(|part| !matches!(part, Component::Normal(_)))
    {
        return Err(outside());
    }
    RelPath::new(inner.as_os_str().as_bytes()).map_err(|_| outside())
}

/// What the guest has at the folder.
#[derive(Debug, Default)]
pub(crate) struct GuestState {
    pub(crate) manifest: Option<Manifest>,
    incomplete: bool,
    head: Option<Head>,
    base: Option<String>,
    /// Branches in files of their own: names, and what each stands for.
    loose: Vec<(String, String)>,
    /// The same of those that git has packed, tags among them.
    packed: Vec<(String, String)>,
    shallow: Vec<String>,
    known: Vec<String>,
}

impl GuestState {
    /// Whether a transfer that was cut off has brought its `HEAD` there: what was sent last is noted before it moves, and
    /// the manifest is written when all is whole.
    fn is_of_a_cut_transfer(&self, head: &Head, sent: &Head) -> bool {
        self.base.is_some() && self.base != sent.commit && self.base == head.commit
    }

    /// Whether its `HEAD`, its branches and whatever git has packed stand for nothing but what was sent or pulled.
    pub(crate) fn names_only_what_is_known(&self) -> bool {
        let head = self.head.as_ref().and_then(|head| head.commit.as_ref());
        let named = self.loose.iter().chain(&self.packed);
        let mut all = named.map(|(_, object)| object).chain(head);
        all.all(|object| self.base.as_ref() == Some(object) || self.known.contains(object))
    }

    /// How many branches are in files of their own.
    pub(crate) fn loose_count(&self) -> usize {
        self.loose.len()
    }

    /// Whether its `HEAD` is at a commit that is neither what was sent nor what is to be.
    fn has_moved(&self, next: Option<&str>) -> bool {
        let head = self.head.as_ref().and_then(|head| head.commit.as_deref());
        let (Some(head), Some(base)) = (head, self.base.as_deref()) else {
            return false;
        };
        head != base && Some(head) != next && !self.known.iter().any(|known| known == head)
    }
}

impl GuestRepo<'_> {
    pub(crate) fn wire(&self) -> WirePath {
        WirePath(self.path.as_os_str().as_bytes().to_vec())
    }

    /// Lists what stands at paths.
    pub(crate) fn list(
        &self,
        base: WirePath,
        paths: &BTreeSet<RelPath>,
    ) -> Result<Entries, PrepareError> {
        let request = GetPaths {
            base,
            content: false,
            recursive: false,
        };
        let mut found = Entries::new();
        let each = |record: Record<'_>| match record {
            Record::Entry(entry) if paths.contains(&entry.path) => {
                found.insert(entry.path.clone(), entry);
                Ok(())
            }
            _ => Err(TransferError::Unexpected),
        };
        get_paths(&(self.connect)()?, request, paths, &|_| {}, each)?;
        Ok(found)
    }

    /// Lists what stands at paths and in folders there; without paths all that the folder holds but git's own.
    pub(crate) fn list_all(&self, paths: &BTreeSet<RelPath>) -> Result<Entries, PrepareError> {
        let request = GetPaths {
            base: self.wire(),
            content: false,
            recursive: true,
        };
        let mut found = Entries::new();
        let each = |record: Record<'_>| match record {
            Record::Entry(entry) if found.len() < MAX_LISTED => {
                found.insert(entry.path.clone(), entry);
                Ok(())
            }
            _ => Err(TransferError::Unexpected),
        };
        get_paths(&(self.connect)()?, request, paths, &|_| {}, each)?;
        Ok(found)
    }

    /// Sees that folders lead to the path; whether it is there.
    fn exists(&self) -> Result<bool, PrepareError> {
        let path = below(&self.home, &self.path)?;
        let mut asked: BTreeSet<RelPath> = path
            .parents()
            .filter_map(|one| RelPath::new(one).ok())
            .collect();
        asked.insert(path.clone());
        let found = self.list(WirePath(self.home.as_os_str().as_bytes().to_vec()), &asked)?;
        for (path, entry) in &found {
            let what = match entry.kind {
                EntryKind::Folder | EntryKind::Missing => continue,
                EntryKind::Symlink(_) => "a link",
                EntryKind::File { .. } => "a file",
                _ => "no folder",
            };
            return Err(PrepareError::NotAFolder {
                path: format!("/root/{path}"),
                what,
            });
        }
        Ok(found
            .get(&path)
            .is_some_and(|entry| entry.kind == EntryKind::Folder))
    }

    /// A repository inside of it.
    fn inner(&self, path: &RelPath) -> Self {
        Self {
            path: self.path.join(path.as_path()),
            home: self.home.clone(),
            ..*self
        }
    }

    /// Reads what the guest keeps about its repository.
    pub(crate) fn state(&self) -> Result<GuestState, PrepareError> {
        let mut paths = BTreeSet::new();
        for name in [
            MANIFEST,
            INCOMPLETE,
            KNOWN,
            BASE,
            b".git/HEAD",
            b".git/packed-refs",
            b".git/shallow",
            b".git/refs/heads",
        ] {
            paths.insert(rel(name)?);
        }
        let request = GetPaths {
            base: self.wire(),
            content: true,
            recursive: true,
        };
        let mut files: std::collections::BTreeMap<RelPath, Vec<u8>> =
            std::collections::BTreeMap::new();
        let (mut last, mut total) = (None, 0);
        let each = |record: Record<'_>| {
            match record {
                Record::Entry(entry) => {
                    last = matches!(entry.kind, EntryKind::File { .. }).then(|| entry.path.clone());
                    if let Some(path) = &last {
                        files.insert(path.clone(), vec![]);
                    }
                }
                Record::Data(bytes) => {
                    total += bytes.len();
                    let file = last.as_ref().and_then(|path| files.get_mut(path));
                    match file.filter(|_| total <= MAX_STATE) {
                        Some(file) => file.extend_from_slice(bytes),
                        None => return Err(TransferError::Unexpected),
                    }
                }
                _ => return Err(TransferError::Unexpected),
            }
            Ok(())
        };
        get_paths(&(self.connect)()?, request, &paths, &|_| {}, each)?;
        let file = |name: &[u8]| RelPath::new(name).ok().and_then(|path| files.get(&path));
        let text =
            |name: &[u8]| file(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let head = text(b".git/HEAD").map(|head| {
            let resolve = |name: &str| text(format!(".git/{name}").as_bytes());
            guest_head(
                &head,
                resolve,
                &text(b".git/packed-refs").unwrap_or_default(),
            )
        });
        let shallow = text(b".git/shallow").unwrap_or_default();
        let known = text(KNOWN).unwrap_or_default();
        let lines = known.lines().filter_map(|line| line.strip_prefix('^'));
        let packed = text(b".git/packed-refs").unwrap_or_default();
        let loose = files.iter().filter_map(|(path, bytes)| {
            let name = std::str::from_utf8(path.as_bytes().strip_prefix(b".git/")?).ok()?;
            let object = std::str::from_utf8(bytes).ok()?.trim_end();
            let is_branch = name.starts_with("refs/heads/") && is_object(object);
            is_branch.then(|| (name.to_owned(), object.to_owned()))
        });
        let loose = loose.collect();
        Ok(GuestState {
            base: text(BASE)
                .map(|text| text.trim_end().to_owned())
                .filter(|base| is_object(base)),
            loose,
            packed: named_objects(&packed).collect(),
            known: lines
                .filter(|id| is_object(id))
                .map(str::to_owned)
                .collect(),
            manifest: file(MANIFEST).and_then(|bytes| Manifest::decode(bytes)),
            incomplete: file(INCOMPLETE).is_some(),
            head,
            shallow: shallow
                .lines()
                .filter(|line| is_object(line))
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// The names in a `packed-refs`, each with what it stands for.
fn named_objects(packed: &str) -> impl Iterator<Item = (String, String)> {
    let lines = packed.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(object, _)| is_object(object))
        .map(|(object, name)| (name.to_owned(), object.to_owned()))
}

/// Whether it is the id of an object.
pub(crate) fn is_object(text: &str) -> bool {
    [40, 64].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Where a guest's `HEAD` is, from its files.
fn guest_head(head: &str, loose: impl Fn(&str) -> Option<String>, packed: &str) -> Head {
    let head = head.trim_end();
    let Some(branch) = head.strip_prefix("ref: ") else {
        let commit = is_object(head).then(|| head.to_owned());
        return Head {
            branch: None,
            commit,
        };
    };
    let in_packed = || {
        let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
        lines
            .find(|(_, name)| *name == branch)
            .map(|(object, _)| object.to_owned())
    };
    let commit = loose(branch)
        .map(|text| text.trim_end().to_owned())
        .or_else(in_packed);
    Head {
        branch: Some(branch.to_owned()),
        commit: commit.filter(|commit| is_object(commit)),
    }
}

/// How much of it the caller wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Overwrite the guest's own work.
    pub force: bool,
    /// Send nothing.
    pub dry_run: bool,
}

/// Puts the checkout into the guest, or says what that would do.
///
/// # Errors
/// [`PrepareError`] when it cannot, or would overwrite the guest's own work.
pub fn prepare(
    checkout: &Collected,
    guest: &GuestRepo<'_>,
    how: How,
) -> Result<Prepared, PrepareError> {
    let there = guest.exists()?;
    let state = if there {
        guest.state()?
    } else {
        GuestState::default()
    };
    let force = how.force || state.incomplete;
    let nothing = Manifest::default();
    let sent = state.manifest.as_ref().unwrap_or(&nothing);
    // What was sent another time and is here still was not deleted: it stays there as it is, and is remembered.
    let left_out = checkout.left_out(&sent.entries);
    let mut before = sent.entries.clone();
    let mut stays = Entries::new();
    for (path, _) in &left_out {
        stays.extend(before.remove_entry(path));
    }
    // Without files, those that are there stay as they are.
    let without_files = checkout.git.mode == Mode::MetadataOnly.as_str();
    let (entries, (steps, lost)) = if without_files {
        (sent.entries.clone(), (vec![], vec![]))
    } else {
        let asked = questions(&checkout.entries, &before, force);
        let found = if there && !asked.is_empty() {
            guest.list(guest.wire(), &asked)?
        } else {
            Entries::new()
        };
        drop(asked);
        let planned = plan(&checkout.entries, &before, &found, force);
        // Of very many files each such list takes a lot.
        drop((before, found));
        stays.extend(checkout.entries.clone());
        (stays, planned)
    };
    let with_git = state.manifest.is_none() || sent.git != checkout.git || force;
    let moved = state
        .head
        .clone()
        .filter(|head| with_git && *head != sent.git.head && *head != checkout.git.head)
        .filter(|head| !state.is_of_a_cut_transfer(head, &sent.git.head));
    // Those of submodules: of what was never sent, nothing is asked.
    let mut inner = vec![];
    for repo in checkout.repos.iter().filter(|_| with_git && there) {
        if let Some(prefix) = &repo.prefix {
            inner.push((prefix.clone(), guest.inner(prefix).state()?, repo));
        }
    }
    let submodules: Vec<RelPath> = inner
        .iter()
        .filter(|(_, state, repo)| state.has_moved(repo.head.commit.as_deref()))
        .map(|(prefix, ..)| prefix.clone())
        .collect();
    if !force && (!lost.is_empty() || moved.is_some() || !submodules.is_empty()) {
        return Err(PrepareError::WouldLose {
            files: lost,
            head: moved,
            submodules,
        });
    }
    let packed;
    let metadata_at: &[(PathBuf, RelPath)] = if with_git {
        // Objects of the last time are there already.
        let known = state
            .manifest
            .as_ref()
            .and_then(|manifest| manifest.git.head.commit.as_deref());
        packed = checkout.metadata(known)?;
        let none = GuestState::default();
        for ((at, _), repo) in packed.places.iter().zip(&checkout.repos) {
            let of_repo = match &repo.prefix {
                None => &state,
                Some(prefix) => {
                    let mut inner = inner.iter();
                    inner
                        .find(|(path, ..)| path == prefix)
                        .map_or(&none, |(_, state, _)| state)
                }
            };
            keep_guests(at, of_repo, repo).map_err(local)?;
        }
        &packed.places
    } else {
        &[]
    };
    let mut prepared = report(checkout, &guest.path, &steps, metadata_at);
    if !without_files {
        prepared.notes.extend(stale(&left_out));
    }
    if !how.dry_run {
        let first = state.manifest.is_none();
        let files = Files {
            entries,
            steps,
            before: &sent.entries,
        };
        transfer(checkout, guest, files, metadata_at, first, &mut prepared)?;
    }
    Ok(prepared)
}

/// Of what was left out, that which is no longer as it was sent.
fn stale(left_out: &[(RelPath, bool)]) -> Option<String> {
    let mut changed = left_out.iter().filter(|(_, same)| !same);
    let (first, _) = changed.next()?;
    let more = match changed.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "left out: {first}{more} (untracked, changed since it was sent; --include-untracked sends what is not ignored)"
    ))
}

/// The guest's own commits keep a name, its history ends where it did, and what is sent now is noted.
pub(crate) fn keep_guests(at: &Path, state: &GuestState, repo: &Repo) -> io::Result<()> {
    if let Some(commit) = &repo.head.commit {
        fs::create_dir_all(at.join("refs/banger"))?;
        fs::write(at.join("refs/banger/base"), format!("{commit}\n"))?;
    }
    // All that is sent is here, too; and what was, of earlier times.
    let packed = fs::read_to_string(at.join("packed-refs")).unwrap_or_default();
    let sent: Vec<(String, String)> = named_objects(&packed).collect();
    let known: BTreeSet<&str> = sent
        .iter()
        .map(|(_, object)| object.as_str())
        .chain(repo.head.commit.as_deref())
        .chain(state.base.as_deref())
        .chain(state.known.iter().map(String::as_str))
        .collect();
    fs::create_dir_all(at.join("banger"))?;
    let lines: String = known.iter().map(|id| format!("^{id}\n")).collect();
    fs::write(at.join("banger/known"), lines)?;
    if repo.mode == Mode::FullCopy {
        let tags = sent
            .iter()
            .filter(|(name, _)| name.starts_with("refs/tags/"));
        let lines: String = tags
            .map(|(name, object)| format!("{object} {name}\n"))
            .collect();
        fs::write(at.join("banger/tags-sent"), lines)?;
    }
    // Of its names those that what is sent replaces.
    let detached = state.head.iter().filter(|head| head.branch.is_none());
    let packed = state
        .packed
        .iter()
        .filter(|(name, _)| repo.mode == Mode::FullCopy || at.join(name).exists());
    let loose = state
        .loose
        .iter()
        .filter(|(name, _)| at.join(name).exists());
    let named = packed.chain(loose).map(|(_, object)| object);
    for object in named.chain(detached.filter_map(|head| head.commit.as_ref())) {
        if !known.contains(object.as_str()) {
            let kept = at.join("refs/banger/kept");
            fs::create_dir_all(&kept)?;
            fs::write(kept.join(object), format!("{object}\n"))?;
        }
    }
    if repo.mode != Mode::FullCopy && !state.shallow.is_empty() {
        let ours = fs::read_to_string(at.join("shallow")).unwrap_or_default();
        let all: BTreeSet<&str> = ours
            .lines()
            .chain(state.shallow.iter().map(String::as_str))
            .collect();
        let text: String = all.iter().map(|line| format!("{line}\n")).collect();
        fs::write(at.join("shallow"), text)?;
    }
    Ok(())
}

pub(crate) fn report(
    checkout: &Collected,
    guest_path: &Path,
    steps: &[Step],
    metadata: &[(PathBuf, RelPath)],
) -> Prepared {
    let mut prepared = Prepared {
        guest_path: guest_path.display().to_string(),
        notes: checkout.notes.clone(),
        ..Prepared::default()
    };
    for step in steps {
        match step {
            Step::Remove(path) => prepared.removed.push(path.to_string()),
            Step::Send(path) => {
                let size = match checkout.entries.get(path).map(|entry| &entry.kind) {
                    Some(EntryKind::File { size, .. }) => *size,
                    _ => 0,
                };
                prepared.bytes += size;
                prepared.sent.push(SentFile {
                    path: path.to_string(),
                    size,
                });
            }
        }
    }
    prepared.unchanged = checkout.entries.len() - prepared.sent.len();
    prepared.git_bytes = metadata.iter().map(|(at, _)| size_of_tree(at)).sum();
    prepared.bytes += prepared.git_bytes;
    prepared
}

fn size_of_tree(at: &Path) -> u64 {
    let entries = fs::read_dir(at).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let found = entry.metadata().ok()?;
            Some(if found.is_dir() {
                size_of_tree(&entry.path())
            } else {
                found.len()
            })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_below_root() {
        for good in ["/root/repo", "/root/a/b"] {
            assert!(below(Path::new("/root"), Path::new(good)).is_ok(), "{good}");
        }
        for bad in [
            "/root",
            "/root/",
            "/etc",
            "/root/../etc",
            "root/x",
            "/rootx/a",
        ] {
            assert!(below(Path::new("/root"), Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_head_is_read_as_git_reads_it() {
        let id = "0123456789012345678901234567890123456789";
        let loose = |name: &str| (name == "refs/heads/a").then(|| format!("{id}\n"));
        let packed = format!("# pack-refs\n{id} refs/heads/b\n");
        for (text, branch, commit) in [
            ("ref: refs/heads/a\n", Some("refs/heads/a"), Some(id)),
            ("ref: refs/heads/b\n", Some("refs/heads/b"), Some(id)),
            ("ref: refs/heads/none\n", Some("refs/heads/none"), None),
            (id, None, Some(id)),
            ("garbage", None, None),
        ] {
            let head = guest_head(text, loose, &packed);
            assert_eq!(
                (head.branch.as_deref(), head.commit.as_deref()),
                (branch, commit),
                "{text}"
            );
        }
    }
}
