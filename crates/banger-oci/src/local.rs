//! Images in directories and archives on this machine. Their blobs are read where they are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use banger_core::Digest;
use serde::Deserialize;

use crate::error::{Context, MalformedError, PullError};
use crate::hash;
use crate::layer::LayerBlob;
use crate::manifest::{CONFIG_MAX, Descriptor, Document, MANIFEST_MAX, digest};
use crate::member::Members;
use crate::watch::Watch;

const INDEX: &str = "index.json";

/// An OCI layout: a directory, or a tar of one.
#[derive(Debug)]
pub(crate) enum Layout {
    Directory(PathBuf),
    Archive(Members),
}

impl Layout {
    /// Its index.
    pub(crate) fn index(&self) -> Result<Document, PullError> {
        let bytes = self.read(INDEX, MANIFEST_MAX)?;
        Document::parse(&bytes).map_err(|source| self.malformed(source))
    }

    pub(crate) fn malformed(&self, source: MalformedError) -> PullError {
        let image = match self {
            Self::Directory(path) => path.display().to_string(),
            Self::Archive(_) => "in the archive".to_owned(),
        };
        PullError::Malformed { image, source }
    }

    /// A small blob, checked.
    pub(crate) fn small_blob(&self, blob: &Descriptor, max: u64) -> Result<Vec<u8>, PullError> {
        let bytes = self.read(&blob_path(&blob.digest), max.min(blob.size))?;
        let actual = hash::of(&bytes);
        if actual != blob.digest || bytes.len() as u64 != blob.size {
            let what = format!("what should be sha256:{} is sha256:{actual}", blob.digest);
            return Err(self.malformed(MalformedError::new(what)));
        }
        Ok(bytes)
    }

    /// A layer; it is checked as it is read.
    pub(crate) fn layer(
        &self,
        blob: &Descriptor,
        diff_id: &Digest,
    ) -> Result<LayerBlob, PullError> {
        let path = blob_path(&blob.digest);
        let (file, offset, length) = match self {
            Self::Directory(root) => {
                let path = root.join(&path);
                let file = File::open(&path).context("read", &path)?;
                let length = file.metadata().context("read", &path)?.len();
                (file, 0, length)
            }
            Self::Archive(members) => {
                let (offset, length) = members.find(&path).ok_or_else(|| self.missing(&path))?;
                (members.file().context("read", &path)?, offset, length)
            }
        };
        if length != blob.size {
            let what = format!("{path} has {length} bytes; the manifest says {}", blob.size);
            return Err(self.malformed(MalformedError::new(what)));
        }
        Ok(LayerBlob {
            file,
            offset,
            length,
            digest: Some(blob.digest.clone()),
            diff_id: diff_id.clone(),
        })
    }

    fn missing(&self, name: &str) -> PullError {
        self.malformed(MalformedError::new(format!("{name} is not there")))
    }

    fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, PullError> {
        match self {
            Self::Directory(root) => {
                let path = root.join(name);
                let file = File::open(&path).context("read", &path)?;
                let mut bytes = Vec::new();
                file.take(max + 1)
                    .read_to_end(&mut bytes)
                    .context("read", &path)?;
                if bytes.len() as u64 > max {
                    let what = format!("{name} has more than {max} bytes");
                    return Err(self.malformed(MalformedError::new(what)));
                }
                Ok(bytes)
            }
            Self::Archive(members) => {
                let read = members.read(name, max).ok_or_else(|| self.missing(name))?;
                read.context("read", name)
            }
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// What `docker save` writes: layers by path, and no digests but those of their contents.
#[derive(Debug)]
pub(crate) struct DockerArchive {
    members: Members,
    path: PathBuf,
}

/// An image in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SavedImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

impl DockerArchive {
    pub(crate) fn open(path: &Path, scratch: &Path, watch: &dyn Watch) -> Result<Self, PullError> {
        Ok(Self {
            members: Members::open(path, scratch, watch)?,
            path: path.to_owned(),
        })
    }

    fn malformed(&self, what: String) -> PullError {
        PullError::Malformed {
            image: self.path.display().to_string(),
            source: MalformedError::new(what),
        }
    }

    fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, PullError> {
        let missing = || self.malformed(format!("{} is not there", name.escape_debug()));
        self.members
            .read(name, max)
            .ok_or_else(missing)?
            .context("read", &self.path)
    }

    pub(crate) fn images(&self) -> Result<Vec<SavedImage>, PullError> {
        let bytes = self.read("manifest.json", MANIFEST_MAX)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.malformed(format!("manifest.json cannot be read: {error}")))
    }

    pub(crate) fn config(&self, image: &SavedImage) -> Result<Vec<u8>, PullError> {
        let bytes = self.read(&image.config, CONFIG_MAX)?;
        // It is named after its digest.
        let name = image.config.rsplit('/').next().unwrap_or_default();
        let name = name.trim_end_matches(".json");
        if let Ok(expected) = digest(&format!("sha256:{name}"))
            && expected != hash::of(&bytes)
        {
            return Err(self
                .malformed("its configuration has another digest than its name says".to_owned()));
        }
        Ok(bytes)
    }

    pub(crate) fn layer(&self, name: &str, diff_id: &Digest) -> Result<LayerBlob, PullError> {
        let missing = || self.malformed(format!("{} is not there", name.escape_debug()));
        let (offset, length) = self.members.find(name).ok_or_else(missing)?;
        Ok(LayerBlob {
            file: self.members.file().context("read", &self.path)?,
            offset,
            length,
            digest: None,
            diff_id: diff_id.clone(),
        })
    }
}
