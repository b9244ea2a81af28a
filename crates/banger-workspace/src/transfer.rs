//! A checkout on its way into a guest: its files, then git's own, then the manifest that makes it whole.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_files::Sender;
use banger_guest::files::{TransferError, Wire, put};
use banger_guest_proto::{Entry, EntryKind, FileProblem, FileTime, FilesDone, PutFiles, RelPath};
use rustix::fs::{Mode as FileMode, OFlags};

use crate::checkout::Collected;
use crate::manifest::{Entries, encode, same};
use crate::plan::Step;
use crate::prepare::{GuestRepo, INCOMPLETE, MANIFEST, PrepareError, Prepared, local, rel};

fn open(path: &Path) -> Result<OwnedFd, PrepareError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, FileMode::empty()).map_err(|error| local(error.into()))
}

/// What becomes of the guest's work tree.
pub(crate) struct Files<'a> {
    /// All that it has of here then.
    pub(crate) entries: Entries,
    pub(crate) steps: Vec<Step>,
    /// All that it had.
    pub(crate) before: &'a Entries,
}

impl Files<'_> {
    fn sent(&self) -> impl Iterator<Item = &RelPath> {
        self.steps.iter().filter_map(|step| match step {
            Step::Send(path) => Some(path),
            Step::Remove(_) => None,
        })
    }

    /// Takes in what there is of what was to be sent. For the rest it is as before: the next time it is sent.
    fn arrived(&mut self, mut there: Entries) {
        let paths: Vec<RelPath> = self.sent().cloned().collect();
        for path in paths {
            let known = there.remove(&path);
            match known.or_else(|| self.before.get(&path).cloned()) {
                Some(entry) => drop(self.entries.insert(path, entry)),
                None => drop(self.entries.remove(&path)),
            }
        }
    }

    fn manifest(&self, checkout: &Collected) -> Vec<u8> {
        encode(&checkout.git, &self.entries)
    }
}

/// Git's own in the order in which it is sent: names come after what they stand for. What the guest has is then a
/// repository also when the transfer is cut off, and one that can be made whole without losing anything.
fn in_order(at: &Path) -> io::Result<Vec<PathBuf>> {
    let last = ["banger", "index", "refs", "HEAD"];
    let mut names = vec![];
    for entry in fs::read_dir(at)? {
        names.push(entry?.file_name());
    }
    names.sort_by_key(|name| {
        (
            last.iter().position(|one| name == one).map(|at| at + 1),
            name.clone(),
        )
    });
    let mut paths: Vec<PathBuf> = names.into_iter().map(PathBuf::from).collect();
    // What was sent is known before any branch moves.
    let ours = Path::new("refs/banger");
    if let Some(refs) = paths
        .iter()
        .position(|path| path == Path::new("refs"))
        .filter(|_| at.join(ours).exists())
    {
        paths.insert(refs, ours.to_owned());
    }
    Ok(paths)
}

/// What goes, as it lies here.
pub(crate) struct Outgoing<'a> {
    checkout: &'a Collected,
    root: OwnedFd,
    /// Git's own, of the checkout and of its submodules: folders, what is in each in its order, and where it goes.
    metadata: Vec<(OwnedFd, Vec<PathBuf>, &'a RelPath)>,
    manifest_at: RelPath,
}

impl<'a> Outgoing<'a> {
    /// Opens it.
    ///
    /// # Errors
    /// [`PrepareError`] when a folder here cannot be read.
    pub(crate) fn open(
        checkout: &'a Collected,
        metadata: &'a [(PathBuf, RelPath)],
    ) -> Result<Self, PrepareError> {
        let opened = metadata
            .iter()
            .map(|(at, path)| Ok((open(at)?, in_order(at).map_err(local)?, path)));
        Ok(Self {
            checkout,
            root: open(&checkout.root)?,
            metadata: opened.collect::<Result<_, PrepareError>>()?,
            manifest_at: rel(MANIFEST)?,
        })
    }

    /// Sends the files, git's own, and the manifest last. `files` knows then what has gone.
    pub(crate) fn send<W: Write>(
        &self,
        sender: &mut Sender<W>,
        files: &mut Files<'_>,
    ) -> Result<(), TransferError> {
        for step in &files.steps {
            if let Step::Remove(path) = step {
                sender
                    .out()
                    .remove(path)
                    .map_err(TransferError::Connection)?;
            }
        }
        sender.record();
        for path in files.sent() {
            sender.send_file(self.root.as_fd(), path)?;
        }
        let recorded = sender.recorded().into_iter();
        files.arrived(recorded.map(|entry| (entry.path.clone(), entry)).collect());
        for (folder, names, path) in &self.metadata {
            for name in names {
                let inner = path.join(name.as_os_str().as_bytes());
                let inner = inner.map_err(|error| {
                    TransferError::Local(io::Error::new(io::ErrorKind::InvalidInput, error))
                })?;
                sender.send(folder.as_fd(), name, &inner)?;
            }
        }
        self.send_manifest(sender, files)
    }

    fn send_manifest<W: Write>(
        &self,
        sender: &mut Sender<W>,
        files: &Files<'_>,
    ) -> Result<(), TransferError> {
        let manifest = files.manifest(self.checkout);
        let out = sender.out();
        out.entry(&written(&self.manifest_at, manifest.len()))
            .and_then(|()| out.data(&manifest))
            .map_err(TransferError::Connection)
    }
}

fn written(path: &RelPath, size: usize) -> Entry {
    Entry {
        path: path.clone(),
        kind: EntryKind::File {
            size: size as u64,
            linked: false,
        },
        mode: 0o644,
        mtime: FileTime::default(),
    }
}

/// Sends what is to be sent, and the manifest of it last.
///
/// # Errors
/// [`PrepareError`] when it does not come to its end, or a folder here cannot be read.
pub(crate) fn transfer(
    checkout: &Collected,
    guest: &GuestRepo<'_>,
    mut files: Files<'_>,
    metadata: &[(PathBuf, RelPath)],
    first: bool,
    prepared: &mut Prepared,
) -> Result<(), PrepareError> {
    let outgoing = Outgoing::open(checkout, metadata)?;
    let incomplete = rel(INCOMPLETE)?;
    let request = PutFiles {
        target: guest.wire(),
        into: false,
        file: false,
        exact: true,
    };
    let send = |sender: &mut Sender<Wire<'_>>| -> Result<(), TransferError> {
        if first {
            sender
                .out()
                .entry(&written(&incomplete, 0))
                .map_err(TransferError::Connection)?;
        }
        outgoing.send(sender, &mut files)?;
        if first {
            let removed = sender.out().remove(&incomplete);
            removed.map_err(TransferError::Connection)?;
        }
        Ok(())
    };
    let (left_out, mut done) = put(&(guest.connect)()?, request.clone(), guest.progress, send)?;
    if !done.is_whole() {
        // The guest could not write some of it, and the manifest knows nothing of that.
        let asked = files.sent().cloned().collect();
        let mut found = guest.list(guest.wire(), &asked)?;
        found.retain(|path, found| {
            let sent = files.entries.get(path);
            sent.is_some_and(|sent| same(sent, found))
        });
        files.arrived(found);
        let again = |sender: &mut Sender<Wire<'_>>| outgoing.send_manifest(sender, &files);
        put(&(guest.connect)()?, request, &|_| {}, again)?;
    }
    done.with_senders(left_out);
    note(prepared, &done);
    Ok(())
}

/// What was left out on the way.
pub(crate) fn note(prepared: &mut Prepared, done: &FilesDone) {
    prepared
        .notes
        .extend(done.problems.iter().map(FileProblem::sentence));
    if done.more_problems > 0 {
        prepared
            .notes
            .push(format!("and {} more", done.more_problems));
    }
}
