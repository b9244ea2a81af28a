//! The store on disk: `<name>/image.json` says which artefact the name means now; each artefact has a
//! folder named after its digest, and stays while VMs were made from it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use banger_core::{Digest, ImageName, KernelName};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::file_error::Context;
use crate::{BuildError, Built, Elsewhere, Origin, Recipe, SeedOrigin};

pub(crate) const RECORD: &str = "image.json";
pub(crate) const ROOTFS: &str = "rootfs.ext4";
pub(crate) const WORK_SEED: &str = "work-seed.ext4";
/// What the layers of a pulled image became, for the next one with some of them.
pub(crate) const LAYERS: &str = "layers.index";
/// Whose lock is held while names and artefacts change, by whichever process.
const TURN: &str = ".turn";

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Name.
    pub name: ImageName,
    /// Digest of the root file system.
    pub digest: Digest,
    /// Fingerprint of the recipe that it was built from.
    pub recipe_fingerprint: Option<Digest>,
    /// The kernel that it asks for.
    pub kernel: Option<KernelName>,
    /// Units that it promises.
    pub ready: Vec<String>,
    /// Packages of note, `name version`.
    pub contents: Vec<String>,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// Where it was pulled from, when it was.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// Its files, when they are not in the store.
    #[serde(default)]
    pub elsewhere: Option<Elsewhere>,
    /// The catalog that it was taken from.
    #[serde(default)]
    pub catalog: Option<String>,
    /// How it was built on another image, when it was.
    #[serde(default)]
    pub built: Option<Built>,
    /// What its work seed was made from.
    #[serde(default)]
    pub seed: Option<SeedOrigin>,
}

/// An image and where its files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What is known of it.
    pub record: ImageRecord,
    folder: PathBuf,
}

impl Image {
    /// The root file system.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        match &self.record.elsewhere {
            Some(files) => files.rootfs.path.clone(),
            None => self.folder.join(ROOTFS),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The prepared `/root`: its owner's, or the one that was made last.
    #[must_use]
    pub fn work_seed(&self) -> Option<PathBuf> {
        let files = self.record.elsewhere.as_ref();
        if let Some(seed) = files.and_then(|files| files.work_seed.as_ref()) {
            return Some(seed.path.clone());
        }
        let first = files.is_none().then(|| self.folder.join(WORK_SEED));
        let made = std::iter::once(self.healed_seed()).chain(first);
        made.into_iter().find(|seed| seed.exists())
    }

    /// Apparent size of the root file system, and what it really takes, in bytes.
    ///
    /// # Errors
    /// The file is not there.
    pub fn sizes(&self) -> io::Result<(u64, u64)> {
        let metadata = fs::metadata(self.rootfs())?;
        Ok((metadata.len(), metadata.blocks() * 512))
    }

    /// How it wants to be run.
    #[must_use]
    pub fn config(&self) -> Option<&banger_oci::ImageConfig> {
        let pulled = self.record.origin.as_ref().map(|origin| &origin.config);
        pulled.or_else(|| self.record.built.as_ref().map(|built| &built.config))
    }

    /// Whether the recipe of this banger is another one by now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        let record = &self.record;
        if record.origin.is_some() || record.elsewhere.is_some() || record.built.is_some() {
            return false;
        }
        let recipe = Recipe::load(&self.record.name)
            .ok()
            .map(|recipe| recipe.fingerprint);
        recipe.is_some() && recipe != self.record.recipe_fingerprint
    }
}

/// A new file of an artefact, which everybody may read: VMMs do, as users of their own.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}

/// The store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
}

impl ImageStore {
    /// Opens the store, and removes what interrupted builds have left, unless another process builds now, and what
    /// other operations have left.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        let store = Self { root };
        let lock = store.lock_file()?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            store.clear()?;
        }
        store.finish_deletions()?;
        store.clear_promotions()?;
        store.clear_pulls()?;
        Ok(store)
    }

    /// Nobody looks for an image or changes one meanwhile. Held for a moment only.
    pub(crate) fn turn_to_change(&self) -> io::Result<File> {
        self.turn(FlockOperation::LockExclusive)
    }

    fn turn(&self, operation: FlockOperation) -> io::Result<File> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(self.root.join(TURN))?;
        flock(&file, operation)?;
        Ok(file)
    }

    /// The lock of a name, unless somebody has it.
    pub(crate) fn try_alone(&self, name: &ImageName) -> io::Result<Option<File>> {
        let path = self.root.join(format!(".pull-{name}"));
        let mut options = File::options();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(lock_soon(&lock)?.then_some(lock))
    }

    /// The folder itself, whose lock is held by whoever builds.
    pub(crate) fn lock_file(&self) -> io::Result<fs::File> {
        fs::File::open(&self.root)
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                // A daemon in a sandbox may not enter a user namespace; the next build can, and will.
                let _ = remove_tree(&entry.path());
            }
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Every image, by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<Image>> {
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.parse().ok());
            images.extend(name.and_then(|name: ImageName| self.get(&name)));
        }
        images.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(images)
    }

    /// The image that the name means now.
    #[must_use]
    pub fn get(&self, name: &ImageName) -> Option<Image> {
        // Never between a deletion's question for users and its end.
        let _turn = self.turn(FlockOperation::LockShared).ok()?;
        self.artefact(name, &self.current(name)?)
    }

    /// Digest of the artefact that the name means now.
    pub(crate) fn current(&self, name: &ImageName) -> Option<Digest> {
        let record = fs::read(self.root.join(name.as_str()).join(RECORD)).ok()?;
        let record: ImageRecord = serde_json::from_slice(&record).ok()?;
        Some(record.digest)
    }

    /// An artefact of that name, also an older one.
    #[must_use]
    pub fn artefact(&self, name: &ImageName, digest: &Digest) -> Option<Image> {
        let folder = self.root.join(name.as_str()).join(digest.short());
        let record = fs::read(folder.join(RECORD)).ok()?;
        Some(Image {
            record: serde_json::from_slice(&record).ok()?,
            folder,
        })
    }

    /// Takes a finished build into the store.
    pub(crate) fn adopt(&self, from: &Path, record: ImageRecord) -> Result<Image, BuildError> {
        let home = self.root.join(record.name.as_str());
        let json = serde_json::to_vec_pretty(&record)
            .map_err(io::Error::from)
            .context("write", &home)?;
        fs::write(from.join(RECORD), &json).context("write", from)?;
        // A record that outlives a power cut must not name files that did not.
        sync_files(from).context("write", from)?;
        let folder = home.join(record.digest.short());
        let _turn = self.turn_to_change().context("lock", &self.root)?;
        fs::create_dir_all(&home).context("make", &home)?;
        if folder.exists() {
            // The same files, but asked for in another way: with another kernel, from another place.
            fs::rename(from.join(RECORD), folder.join(RECORD)).context("write", &folder)?;
        } else {
            fs::rename(from, &folder).context("move the image to", &folder)?;
        }
        let next = home.join("image.json.next");
        fs::write(&next, &json)
            .and_then(|()| File::open(&next)?.sync_all())
            .context("write", &next)?;
        fs::rename(&next, home.join(RECORD)).context("write", home.join(RECORD))?;
        Ok(Image { record, folder })
    }
}

/// Locks a file that nobody else has locked. A program that is being started has this process's locks for the moment
/// until it runs, so that one try says little.
pub(crate) fn lock_soon(file: &File) -> io::Result<bool> {
    for _ in 0..20 {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Brings a folder and the files in it to the disk.
pub(crate) fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Removes what a build has left, also what belongs to subordinate users.
fn remove_tree(path: &Path) -> io::Result<()> {
    if fs::remove_dir_all(path).is_ok() {
        return Ok(());
    }
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--map-root-user", "--map-auto", "--", "rm", "-rf"])
        .arg(path);
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other("unshare rm -rf failed"))
    }
}
