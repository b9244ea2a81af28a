//! Taking an OCI image into the store.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_core::{Digest, ImageName, ImageRef, KernelName};
use banger_oci::{
    AuthFiles, BlobStore, Donor, ImageConfig, Outputs, Patience, PullError, PullOptions,
    Registries, Resolved, Watch, facts,
};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::seed::SeedOrigin;
use crate::store::{Image, ImageRecord, ImageStore, LAYERS, ROOTFS, WORK_SEED, new_file};

const BLOBS: &str = ".blobs";
/// Folders of pulls that go on; `.pull-NAME` is the lock of a name.
const PULLING: &str = ".pulling-";
/// How often the lock of a name is tried.
const TICK: Duration = Duration::from_millis(100);

/// Where a pulled image came from, and how it wants to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Where from.
    pub reference: ImageRef,
    /// Digest of its manifest, when there is one.
    pub manifest: Option<Digest>,
    /// Layers that are kept for it.
    pub blobs: Vec<Digest>,
    /// How it wants to be run.
    pub config: ImageConfig,
}

/// A pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// What.
    pub reference: ImageRef,
    /// Under which name.
    pub name: ImageName,
    /// The kernel that it shall ask for.
    pub kernel: Option<KernelName>,
    /// Speak plain HTTP.
    pub plain_http: bool,
    /// Where credentials are looked for.
    pub auth: AuthFiles,
    /// Folders of registries' certificates.
    pub certificates: Vec<PathBuf>,
    /// Mirrors and other addresses of registries.
    pub registries: Registries,
}

impl ImageStore {
    /// Pulls an image and takes it into the store, in place of an older one of that name. One that is there
    /// already is not made again.
    ///
    /// # Errors
    /// See [`PullError`]. The store is as before, but for layers that came whole.
    pub fn pull(&self, request: &PullRequest, watch: &dyn Watch) -> Result<Image, PullError> {
        let blobs =
            BlobStore::open(self.root().join(BLOBS)).map_err(|source| self.io("make", source))?;
        let pulled = {
            let _in_use = blobs.in_use()?;
            let _alone = self.alone(&request.name, watch)?;
            self.pull_alone(request, blobs.clone(), watch)
        };
        if pulled.is_ok() {
            // What interrupted or replaced pulls have left; a failure to do so is no failure of this pull.
            let _ = self.prune(&blobs);
        }
        pulled
    }

    fn pull_alone(
        &self,
        request: &PullRequest,
        blobs: BlobStore,
        watch: &dyn Watch,
    ) -> Result<Image, PullError> {
        let options = PullOptions {
            blobs,
            auth: request.auth.clone(),
            certificates: request.certificates.clone(),
            registries: request.registries.clone(),
            plain_http: request.plain_http,
            patience: Patience::default(),
        };
        watch.step(&format!("resolving {}", request.reference));
        let resolved = Resolved::of(&request.reference, &options, watch)?;
        let mut record = ImageRecord {
            name: request.name.clone(),
            digest: resolved.identity().clone(),
            recipe_fingerprint: None,
            kernel: request.kernel.clone(),
            ready: vec![],
            contents: vec![],
            created_at: jiff::Timestamp::now().to_string(),
            origin: Some(Origin {
                reference: request.reference.clone(),
                manifest: resolved.manifest().cloned(),
                blobs: resolved.blobs(),
                config: resolved.config().clone(),
            }),
            elsewhere: None,
            catalog: None,
            built: None,
            seed: Some(SeedOrigin::now(resolved.identity())),
        };
        let folder = tempfile::Builder::new()
            .prefix(PULLING)
            .tempdir_in(self.root());
        let folder = folder.map_err(|source| self.io("make a folder in", source))?;
        let next = folder.path().join("image");
        fs::create_dir(&next).map_err(|source| self.io("make a folder in", source))?;
        let known = self.artefact(&request.name, &record.digest);
        if let Some(known) = known.filter(|known| known.record.elsewhere.is_none()) {
            record.contents = known.record.contents;
        } else {
            watch.step(&format!("pulling {}", request.reference));
            let create = |name: &str| {
                new_file(&next.join(name)).map_err(|source| self.io("write to", source))
            };
            let outputs = Outputs {
                rootfs: create(ROOTFS)?,
                work_seed: create(WORK_SEED)?,
                index: Some(create(LAYERS)?),
            };
            let donors = self.donors(resolved.diff_ids());
            let made = resolved.flatten(outputs, &donors, watch)?;
            record.contents = facts(&made.tree);
            for fact in &record.contents {
                watch.line(fact);
            }
        }
        if watch.cancelled() {
            return Err(PullError::Cancelled);
        }
        self.adopt(&next, record)
            .map_err(|error| self.io("keep the image in", error.into_io()))
    }

    /// The pulled images that have some of these layers, but for those that go away meanwhile or whose index cannot
    /// be read.
    fn donors(&self, layers: &[Digest]) -> Vec<Donor> {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        // Other folders are of pulls and deletions that go on.
        let names = entries(self.root()).filter_map(|entry| {
            let name = entry.file_name().to_str()?.parse::<ImageName>().ok()?;
            Some((name, entry.path()))
        });
        let artefacts = names.flat_map(|(name, home)| {
            let artefacts = entries(&home).map(|entry| entry.path());
            artefacts.map(move |folder| (name.clone(), folder))
        });
        let opened = artefacts.filter_map(|(name, folder)| {
            let (index, rootfs) = (folder.join(LAYERS), folder.join(ROOTFS));
            Donor::open(name.as_str(), &index, &rootfs).ok()
        });
        opened.filter(|donor| donor.has_any(layers)).collect()
    }

    /// One pull per name: the second one finds what the first has made.
    fn alone(&self, name: &ImageName, watch: &dyn Watch) -> Result<File, PullError> {
        loop {
            let lock = self.try_alone(name);
            if let Some(lock) = lock.map_err(|source| self.io("lock a name in", source))? {
                return Ok(lock);
            }
            if watch.cancelled() {
                return Err(PullError::Cancelled);
            }
            watch.line("another pull of this name goes on");
            std::thread::park_timeout(TICK);
        }
    }

    /// Removes layers that no image is made of, when nobody pulls.
    pub(crate) fn prune_layers(&self) -> io::Result<u64> {
        let layers = self.root().join(BLOBS);
        if !layers.exists() {
            return Ok(0);
        }
        self.prune(&BlobStore::open(layers)?)
    }

    fn prune(&self, blobs: &BlobStore) -> io::Result<u64> {
        let mut keep = HashSet::new();
        for name in fs::read_dir(self.root())? {
            let folder = name?.path();
            for artefact in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let record = fs::read(artefact.path().join("image.json")).ok();
                let record: Option<ImageRecord> =
                    record.and_then(|json| serde_json::from_slice(&json).ok());
                keep.extend(
                    record
                        .and_then(|record| record.origin)
                        .into_iter()
                        .flat_map(|origin| origin.blobs),
                );
            }
        }
        blobs.prune(&keep)
    }

    /// Removes what pulls have left that were killed.
    pub(crate) fn clear_pulls(&self) -> io::Result<()> {
        // Without layers nobody has ever pulled.
        let Ok(lock) = File::open(self.root().join(BLOBS)) else {
            return Ok(());
        };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        for entry in fs::read_dir(self.root())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(PULLING) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn io(&self, what: &'static str, source: io::Error) -> PullError {
        PullError::Io {
            what,
            path: self.root().to_owned(),
            source,
        }
    }
}
