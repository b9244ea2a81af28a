//! Images whose files stay where their owner keeps them, until they are promoted.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_core::{ImageName, KernelName};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::BuildError;
use crate::file_error::{Context, FileError};
use crate::store::{
    Image, ImageRecord, ImageStore, RECORD, ROOTFS, WORK_SEED, lock_soon, new_file, sync_files,
};
use crate::{digest, sparse};

const PROMOTING: &str = ".promoting-";
/// Whose lock everybody shares who has such a folder.
const LOCK: &str = ".promoting";

/// A file of somebody's, as it was when it was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Where.
    pub path: PathBuf,
    size: u64,
    inode: u64,
    mtime: i64,
    mtime_nsec: i64,
}

/// The files of a registered image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Root file system.
    pub rootfs: Noted,
    /// Prepared `/root`.
    pub work_seed: Option<Noted>,
}

/// What is registered.
#[derive(Debug, Clone)]
pub struct RegisterRequest {
    /// Name; one of that name is updated.
    pub name: ImageName,
    /// Root file system, an absolute path.
    pub rootfs: PathBuf,
    /// Prepared `/root`, an absolute path.
    pub work_seed: Option<PathBuf>,
    /// The kernel that it asks for.
    pub kernel: Option<KernelName>,
    /// What is in it, `name version`.
    pub contents: Vec<String>,
}

/// Why an image was not registered or promoted.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A file cannot be an image's.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// There is none of that name.
    #[error("there is no image `{0}`")]
    NotFound(ImageName),
    /// Another operation on it goes on.
    #[error("a pull, registration or promotion of `{0}` goes on")]
    Busy(ImageName),
    /// A file or folder could not be used.
    #[error(transparent)]
    Io(#[from] FileError),
}

impl RegisterError {
    /// Whether the file system was full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io(error) if error.is_disk_full())
    }
}

impl Noted {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            size: metadata.size(),
            inode: metadata.ino(),
            mtime: metadata.mtime(),
            mtime_nsec: metadata.mtime_nsec(),
        })
    }

    /// Whether it is still what was registered.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

impl Image {
    /// A file of a registered image that is gone or has changed since: VMs over it would see other bytes.
    #[must_use]
    pub fn changed(&self) -> Option<&Path> {
        let files = self.record.elsewhere.as_ref()?;
        let noted = std::iter::once(&files.rootfs).chain(&files.work_seed);
        let mut changed = noted.filter(|file| !file.is_unchanged());
        changed.next().map(|file| file.path.as_path())
    }
}

/// Where an interrupted promotion is: tests end it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromoteStep {
    /// A file was copied.
    Copied,
    /// The copies are whole, and on the disk.
    Checked,
    /// A copy has its name.
    Moved,
    /// The record says that they are the image.
    Recorded,
}

impl ImageStore {
    /// Registers files, which stay where they are; an image of that name is replaced for VMs to come.
    ///
    /// # Errors
    /// See [`RegisterError`]. The store is as before.
    pub fn register(&self, request: &RegisterRequest) -> Result<Image, RegisterError> {
        let _alone = self.alone_or_busy(&request.name)?;
        let note = |path: &Path| -> Result<Noted, RegisterError> {
            check_file_system(path)?;
            Ok(Noted::of(path).context("look at", path)?)
        };
        let files = Elsewhere {
            rootfs: note(&request.rootfs)?,
            work_seed: request.work_seed.as_deref().map(note).transpose()?,
        };
        let file = File::open(&request.rootfs).context("read", &request.rootfs)?;
        let digest = digest::of_file(&file).context("read", &request.rootfs)?;
        if !files.rootfs.is_unchanged() {
            let path = request.rootfs.clone();
            let why = "it changes while it is read; nothing may use an image's file";
            return Err(RegisterError::Unusable { path, why });
        }
        let record = ImageRecord {
            name: request.name.clone(),
            digest,
            recipe_fingerprint: None,
            kernel: request.kernel.clone(),
            ready: vec![],
            contents: request.contents.clone(),
            created_at: jiff::Timestamp::now().to_string(),
            origin: None,
            elsewhere: Some(files),
            catalog: None,
            built: None,
            seed: None,
        };
        // What VMs were made from is in the store, and stays there under its digest.
        if let Some(held) = self.artefact(&record.name, &record.digest)
            && held.record.elsewhere.is_none()
        {
            let record = ImageRecord {
                elsewhere: None,
                ..record
            };
            return self.take_record(record);
        }
        self.take_record(record)
    }

    fn take_record(&self, record: ImageRecord) -> Result<Image, RegisterError> {
        let next = self.promotion_folder()?;
        let folder = next.path().join("image");
        fs::create_dir(&folder).context("make", &folder)?;
        let adopted = self.adopt(&folder, record).map_err(BuildError::into_io);
        Ok(adopted.context("keep the image in", self.root())?)
    }

    /// Copies a registered image's files into the store. The image keeps its digest, and its VMs go on with it.
    /// One whose files are in the store is left as it is.
    ///
    /// # Errors
    /// See [`RegisterError`]. It is registered as before.
    pub fn promote(&self, name: &ImageName) -> Result<Image, RegisterError> {
        self.promote_until(name, &mut |_| Ok(()))
    }

    /// The same; an error of `at` ends it at that step, as a crash would.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn promote_until(
        &self,
        name: &ImageName,
        at: &mut dyn FnMut(PromoteStep) -> io::Result<()>,
    ) -> Result<Image, RegisterError> {
        let _alone = self.alone_or_busy(name)?;
        let image = self
            .get(name)
            .ok_or_else(|| RegisterError::NotFound(name.clone()))?;
        let Some(files) = &image.record.elsewhere else {
            return Ok(image);
        };
        let folder = self.promotion_folder()?;
        let mut at = |step| at(step).context("go on in", self.root());
        let rootfs = (ROOTFS, &files.rootfs);
        let seed = files.work_seed.as_ref().map(|file| (WORK_SEED, file));
        for (name, file) in std::iter::once(rootfs).chain(seed) {
            copy(&file.path, &folder.path().join(name))?;
            at(PromoteStep::Copied)?;
        }
        let copied = folder.path().join(ROOTFS);
        let read = File::open(&copied).and_then(|file| digest::of_file(&file));
        let is_same = read.context("read", &copied)? == image.record.digest;
        if let Some(path) = image.changed().or((!is_same).then_some(&files.rootfs.path)) {
            let path = path.to_owned();
            let why = "it has changed since it was registered; register it again";
            return Err(RegisterError::Unusable { path, why });
        }
        sync_files(folder.path()).context("write", folder.path())?;
        at(PromoteStep::Checked)?;
        let home = image.folder();
        // The record decides which files count: until it is replaced, these are in nobody's way.
        for name in [ROOTFS, WORK_SEED] {
            let from = folder.path().join(name);
            if from.exists() {
                fs::rename(&from, home.join(name)).context("move a copy to", home)?;
                at(PromoteStep::Moved)?;
            }
        }
        let record = ImageRecord {
            elsewhere: None,
            ..image.record.clone()
        };
        let json = serde_json::to_vec_pretty(&record).map_err(io::Error::from);
        let json = json.context("write", home)?;
        let next = folder.path().join(RECORD);
        let written = fs::write(&next, json)
            .and_then(|()| File::open(&next)?.sync_all())
            .and_then(|()| File::open(home)?.sync_all())
            .and_then(|()| fs::rename(&next, home.join(RECORD)))
            .and_then(|()| File::open(home)?.sync_all());
        written.context("write", home)?;
        at(PromoteStep::Recorded)?;
        self.artefact(name, &record.digest)
            .ok_or_else(|| RegisterError::NotFound(name.clone()))
    }

    fn alone_or_busy(&self, name: &ImageName) -> Result<[File; 2], RegisterError> {
        let shared = self.lock_promotions()?;
        let locked = self
            .try_alone(name)
            .context("lock a name in", self.root())?;
        let alone = locked.ok_or_else(|| RegisterError::Busy(name.clone()))?;
        Ok([alone, shared])
    }

    /// As long as it is held, no folder of [`Self::promotion_folder`] is taken for a leftover.
    pub(crate) fn lock_promotions(&self) -> Result<File, FileError> {
        let shared = self.promoting().and_then(|file| {
            flock(&file, FlockOperation::LockShared)?;
            Ok(file)
        });
        shared.context("lock", self.root())
    }

    /// A folder in the store, for what is not an artefact yet.
    pub(crate) fn promotion_folder(&self) -> Result<tempfile::TempDir, FileError> {
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix(PROMOTING).tempdir_in(self.root());
        folder.context("make a folder in", self.root())
    }

    pub(crate) fn promoting(&self) -> io::Result<File> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false);
        options.open(self.root().join(LOCK))
    }

    /// Removes what interrupted registrations and promotions have left, unless one goes on.
    pub(crate) fn clear_promotions(&self) -> io::Result<()> {
        let lock = self.promoting()?;
        if !lock_soon(&lock)? {
            return Ok(());
        }
        for entry in fs::read_dir(self.root())? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PROMOTING) {
                fs::remove_dir_all(entry.path())?;
            }
            let Some(artefacts) = name.parse::<ImageName>().ok().map(|_| entry.path()) else {
                continue;
            };
            for artefact in fs::read_dir(artefacts).into_iter().flatten().flatten() {
                self.clear_copies(&artefact.path())?;
            }
        }
        Ok(())
    }

    /// Copies beside a record that does not count them.
    fn clear_copies(&self, artefact: &Path) -> io::Result<()> {
        let record = fs::read(artefact.join(RECORD)).ok();
        let record: Option<ImageRecord> =
            record.and_then(|json| serde_json::from_slice(&json).ok());
        if record.is_some_and(|record| record.elsewhere.is_some()) {
            for name in [ROOTFS, WORK_SEED] {
                let copy = artefact.join(name);
                if copy.exists() {
                    fs::remove_file(copy)?;
                }
            }
        }
        Ok(())
    }
}

/// Looks for what says that it is a file system which guests can mount: ext4's number at 1080.
fn check_file_system(path: &Path) -> Result<(), RegisterError> {
    use std::os::unix::fs::FileExt;
    let unusable = |why| {
        let path = path.to_owned();
        Err(RegisterError::Unusable { path, why })
    };
    let metadata = fs::metadata(path).context("read", path)?;
    if !metadata.is_file() {
        return unusable("it is no regular file");
    }
    let file = File::open(path).context("read", path)?;
    let mut magic = [0; 2];
    match file.read_exact_at(&mut magic, 1080) {
        Ok(()) if magic == [0x53, 0xef] => Ok(()),
        Ok(()) => unusable("it is no ext4 file system"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            unusable("it is no ext4 file system")
        }
        Err(error) => Ok(Err(error).context("read", path)?),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), RegisterError> {
    let source = File::open(from).context("read", from)?;
    let target = new_file(to).context("write", to)?;
    Ok(sparse::copy(&source, &target).context("copy to", to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_system(path: &Path, filled_with: u8) {
        let mut bytes = vec![0; 300_000];
        bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
        bytes[200_000..200_100].fill(filled_with);
        fs::write(path, bytes).unwrap();
    }

    fn setup() -> (tempfile::TempDir, ImageStore, RegisterRequest) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("store")).unwrap();
        let (rootfs, seed) = (dir.path().join("root"), dir.path().join("seed"));
        file_system(&rootfs, 1);
        file_system(&seed, 2);
        let request = RegisterRequest {
            name: "mine".parse().unwrap(),
            rootfs,
            work_seed: Some(seed),
            kernel: None,
            contents: vec!["a 1".to_owned()],
        };
        (dir, store, request)
    }

    #[test]
    fn files_stay_where_they_are_and_are_updated_under_their_name() {
        let (_dir, store, request) = setup();
        let first = store.register(&request).unwrap();
        assert_eq!(first.rootfs(), request.rootfs);
        assert_eq!(first.work_seed(), request.work_seed);
        assert_eq!(first.changed(), None);
        file_system(&request.rootfs, 3);
        assert_eq!(first.changed(), Some(request.rootfs.as_path()));
        let second = store.register(&request).unwrap();
        assert_ne!(second.record.digest, first.record.digest);
        let meant = store.get(&request.name).unwrap();
        assert_eq!(meant.record.digest, second.record.digest);
        // The older one is known as long as a VM was made from it.
        let older = first.record.digest.clone();
        store
            .discard_old(&request.name, || Some(vec![older.clone()]))
            .unwrap();
        assert!(store.artefact(&request.name, &older).is_some());
        store.discard_old(&request.name, || None).unwrap();
        assert!(store.artefact(&request.name, &older).is_some());
        store.discard_old(&request.name, || Some(vec![])).unwrap();
        assert!(store.artefact(&request.name, &older).is_none());
        assert!(store.get(&request.name).is_some());
        store.delete(&request.name, Vec::new).unwrap();
        assert!(store.get(&request.name).is_none() && request.rootfs.exists());
    }

    #[test]
    fn what_is_no_file_system_is_refused_and_changes_nothing() {
        let (dir, store, request) = setup();
        for (name, content) in [("empty", &b""[..]), ("text", &[b'x'; 4096])] {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            let request = RegisterRequest {
                rootfs: path,
                ..request.clone()
            };
            let error = store.register(&request).unwrap_err();
            assert!(error.to_string().contains("no ext4"), "{error}");
        }
        for path in [dir.path().join("none"), dir.path().to_owned()] {
            let request = RegisterRequest {
                work_seed: Some(path),
                ..request.clone()
            };
            store.register(&request).unwrap_err();
        }
        assert!(store.get(&request.name).is_none());
    }

    #[test]
    fn a_promotion_that_is_cut_anywhere_leaves_the_old_or_the_new() {
        let mut cut_at = 0;
        loop {
            let (dir, store, request) = setup();
            let before = store.register(&request).unwrap();
            let mut left = cut_at;
            let mut reached = None;
            let promoted = store.promote_until(&request.name, &mut |step| {
                reached = Some(step);
                if left == 0 {
                    return Err(io::Error::other("cut"));
                }
                left -= 1;
                Ok(())
            });
            let store = ImageStore::open(dir.path().join("store")).unwrap();
            let after = store.get(&request.name).unwrap();
            assert_eq!(after.record.digest, before.record.digest);
            let is_new = after.record.elsewhere.is_none();
            assert_eq!(
                is_new,
                reached == Some(PromoteStep::Recorded),
                "{reached:?}"
            );
            let same = |a: &Path, b: &Path| fs::read(a).unwrap() == fs::read(b).unwrap();
            assert!(same(&after.rootfs(), &request.rootfs));
            assert!(same(
                &after.work_seed().unwrap(),
                request.work_seed.as_deref().unwrap()
            ));
            let in_store = |path: PathBuf| path.starts_with(dir.path().join("store"));
            assert_eq!(in_store(after.rootfs()), is_new);
            assert_eq!(in_store(after.work_seed().unwrap()), is_new);
            if promoted.is_ok() {
                assert_eq!(cut_at, 6, "two copies, a check, two names, a record");
                // Once more changes nothing.
                assert_eq!(store.promote(&request.name).unwrap(), after);
                break;
            }
            // Nothing is left that does not count, and another try succeeds.
            let files = fs::read_dir(after.folder()).unwrap().count();
            assert_eq!(files, if is_new { 3 } else { 1 });
            let promoted = store.promote(&request.name).unwrap();
            assert!(promoted.record.elsewhere.is_none());
            cut_at += 1;
        }
    }

    #[test]
    fn a_file_that_has_changed_is_not_promoted() {
        let (dir, store, request) = setup();
        store.register(&request).unwrap();
        file_system(&request.rootfs, 9);
        let error = store.promote(&request.name).unwrap_err();
        assert!(error.to_string().contains("register it again"), "{error}");
        fs::remove_file(&request.rootfs).unwrap();
        store.promote(&request.name).unwrap_err();
        let mut left: Vec<_> = fs::read_dir(dir.path().join("store"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.') || name.contains(PROMOTING))
            .collect();
        left.sort();
        assert_eq!(left, ["mine"]);
    }
}
