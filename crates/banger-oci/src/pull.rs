//! Pulling: what a reference means, and its layers as file systems.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use banger_core::{Digest, ImageRef, RegistryRef};

use crate::auth::AuthFiles;
use crate::blobs::BlobStore;
use crate::download::{Patience, check_digest};
use crate::error::{Context, MalformedError, PullError};
use crate::fetch::{Fetching, From};
use crate::flatten::{FlattenError, FlattenOptions, Flattened, Outputs, flatten};
use crate::hash;
use crate::layer::{LayerBlob, LayerError};
use crate::local::{DockerArchive, Layout, SavedImage};
use crate::manifest::{
    CONFIG_MAX, Choice, Config, Descriptor, Document, ImageConfig, MANIFEST_MAX, Manifest, Platform,
};
use crate::member::Members;
use crate::mirrors::{Endpoint, Registries};
use crate::registry::{Registry, Trust};
use crate::remote::runtime;
use crate::reuse::Donor;
use crate::watch::Watch;

/// Part of what file systems are identified by: another number means other bytes for the same image.
pub(crate) const FORMAT: u32 = 1;
/// Index in index.
const DEPTH_MAX: usize = 3;
const NAMES_SHOWN: usize = 10;
/// How often it is asked whether the pull is still wanted.
const TICK: Duration = Duration::from_millis(100);
/// So much stays free when layers are fetched.
const RESERVE: u64 = 256 << 20;

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Where layers are kept.
    pub blobs: BlobStore,
    /// Where credentials are looked for.
    pub auth: AuthFiles,
    /// Folders with a folder per registry, `HOST:PORT`, of its authorities' certificates (`*.crt`).
    pub certificates: Vec<PathBuf>,
    /// Mirrors and other addresses of registries.
    pub registries: Registries,
    /// Speak plain HTTP.
    pub plain_http: bool,
    /// How long a registry is waited for.
    pub patience: Patience,
}

/// An image whose manifest and configuration are known.
pub struct Resolved {
    config: Config,
    /// Digest of the manifest, when there is one.
    manifest: Option<Digest>,
    identity: Digest,
    layers: Layers,
}

enum Layers {
    Registry {
        runtime: tokio::runtime::Runtime,
        registry: Box<Registry>,
        store: BlobStore,
        layers: Vec<Descriptor>,
    },
    Layout {
        layout: Layout,
        layers: Vec<Descriptor>,
    },
    Docker {
        archive: DockerArchive,
        image: SavedImage,
    },
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolved")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Resolved {
    /// Finds out what a reference means.
    ///
    /// # Errors
    /// See [`PullError`].
    pub fn of(
        image: &ImageRef,
        options: &PullOptions,
        watch: &dyn Watch,
    ) -> Result<Self, PullError> {
        match image {
            ImageRef::Registry(reference) => in_registry(reference, options, watch),
            ImageRef::Layout { path, tag } => {
                in_layout(Layout::Directory(path.clone()), image, tag.as_deref())
            }
            ImageRef::OciArchive { path, tag } => {
                let members = Members::open(path, options.blobs.root(), watch)?;
                in_layout(Layout::Archive(members), image, tag.as_deref())
            }
            ImageRef::DockerArchive { path, tag } => {
                let archive = DockerArchive::open(path, options.blobs.root(), watch)?;
                in_docker_archive(archive, image, tag.as_deref())
            }
        }
    }

    /// What the file systems will be: the same for the same image, however it comes.
    #[must_use]
    pub fn identity(&self) -> &Digest {
        &self.identity
    }

    /// Digest of its manifest, unless it came in an archive without one.
    #[must_use]
    pub fn manifest(&self) -> Option<&Digest> {
        self.manifest.as_ref()
    }

    /// How it wants to be run.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config.run
    }

    /// The digests of its layers' contents, the lowest first.
    #[must_use]
    pub fn diff_ids(&self) -> &[Digest] {
        &self.config.diff_ids
    }

    /// The blobs in the content store that it is made of.
    #[must_use]
    pub fn blobs(&self) -> Vec<Digest> {
        match &self.layers {
            Layers::Registry { layers, .. } => {
                layers.iter().map(|layer| layer.digest.clone()).collect()
            }
            Layers::Layout { .. } | Layers::Docker { .. } => vec![],
        }
    }

    /// Fetches the layers and writes the file systems as they come; of layers that a donor has, what it has.
    ///
    /// # Errors
    /// See [`PullError`].
    pub fn flatten(
        self,
        outputs: Outputs,
        donors: &[Donor],
        watch: &dyn Watch,
    ) -> Result<Flattened, PullError> {
        let options = FlattenOptions {
            identity: self.identity.clone(),
            time: self.config.created,
        };
        let ids = self.config.diff_ids;
        match self.layers {
            Layers::Registry {
                runtime,
                registry,
                store,
                layers,
            } => {
                room_for(&layers, &store)?;
                let mut fetching = Fetching::start(
                    runtime,
                    From::Registry(registry),
                    store.clone(),
                    layers.clone(),
                );
                let blob = |number: usize| {
                    Ok(LayerBlob {
                        file: fetching.blob(number, watch)?,
                        offset: 0,
                        length: layers[number].size,
                        digest: None,
                        diff_id: ids[number].clone(),
                    })
                };
                let made = flatten(&ids, blob, donors, outputs, &options, watch);
                forget_damaged(&made, &layers, &store);
                made
            }
            Layers::Layout { layout, layers } => {
                let blob = |number: usize| layout.layer(&layers[number], &ids[number]);
                flatten(&ids, blob, donors, outputs, &options, watch)
            }
            Layers::Docker { archive, image } => {
                let blob = |number: usize| archive.layer(&image.layers[number], &ids[number]);
                flatten(&ids, blob, donors, outputs, &options, watch)
            }
        }
    }
}

/// A layer that was right when it was fetched and is not any more is fetched anew the next time.
fn forget_damaged(made: &Result<Flattened, PullError>, layers: &[Descriptor], store: &BlobStore) {
    if let Err(PullError::Flatten(FlattenError::Layer { number, source })) = made
        && matches!(
            source,
            LayerError::Tar(_) | LayerError::DiffId { .. } | LayerError::Size { .. }
        )
    {
        store.forget(&layers[number - 1].digest);
    }
}

pub(crate) fn room_for(layers: &[Descriptor], store: &BlobStore) -> Result<(), PullError> {
    let room = rustix::fs::statvfs(store.root()).map_err(std::io::Error::from);
    let room = room.context("look at", store.root())?;
    let free = (room.f_bavail * room.f_frsize).saturating_sub(RESERVE);
    let missing = layers
        .iter()
        .filter(|layer| store.get(&layer.digest, layer.size).is_none());
    let needed: u64 = missing.map(|layer| layer.size).fold(0, u64::saturating_add);
    if needed > free {
        return Err(PullError::Room { needed, free });
    }
    Ok(())
}

fn malformed(image: &ImageRef, source: MalformedError) -> PullError {
    PullError::Malformed {
        image: image.to_string(),
        source,
    }
}

fn in_registry(
    reference: &RegistryRef,
    options: &PullOptions,
    watch: &dyn Watch,
) -> Result<Resolved, PullError> {
    let image = ImageRef::Registry(reference.clone());
    let runtime = runtime()?;
    let mut endpoints = options.registries.endpoints(reference)?.into_iter();
    let found = loop {
        let Some(endpoint) = endpoints.next() else {
            return Err(malformed(&image, MalformedError::new("no place has it")));
        };
        let asked = runtime.block_on(async {
            tokio::select! {
                asked = ask(&endpoint, options, &image) => asked,
                () = cancelled(watch) => Err(PullError::Cancelled),
            }
        });
        match asked {
            Err(error) if endpoints.len() > 0 && !matches!(error, PullError::Cancelled) => {
                let host = endpoint.reference.host();
                let causes = std::iter::successors(error.source(), |&cause| cause.source());
                let causes: String = causes.map(|cause| format!(": {cause}")).collect();
                watch.line(&format!("the mirror {host} does not help: {error}{causes}"));
            }
            other => break other?,
        }
    };
    let (registry, digest, manifest, config) = found;
    let config = checked_config(&config, manifest.layers.len(), &image)?;
    Ok(Resolved {
        identity: identity(&manifest.config.digest),
        config,
        manifest: Some(digest),
        layers: Layers::Registry {
            runtime,
            registry: Box::new(registry),
            store: options.blobs.clone(),
            layers: manifest.layers,
        },
    })
}

/// Asks one place for manifest and configuration.
async fn ask(
    endpoint: &Endpoint,
    options: &PullOptions,
    image: &ImageRef,
) -> Result<(Registry, Digest, Manifest, Vec<u8>), PullError> {
    let reference = &endpoint.reference;
    let credentials = options
        .auth
        .find(reference.host(), reference.repository())?;
    let trust = Trust {
        authorities: authorities(reference.host(), &options.certificates)?,
        plain: options.plain_http,
        may_be_plain: endpoint.insecure || reference.is_loopback(),
    };
    let patience = options.patience.clone();
    let registry = Registry::connect(reference, credentials, &trust, patience).await?;
    let (digest, manifest) = find_manifest(&registry, reference, image).await?;
    let config = registry.small_blob(&manifest.config).await?;
    Ok((registry, digest, manifest, config))
}

/// Returns when nobody wants the image any more.
pub(crate) async fn cancelled(watch: &dyn Watch) {
    while !watch.cancelled() {
        tokio::time::sleep(TICK).await;
    }
}

async fn find_manifest(
    registry: &Registry,
    reference: &RegistryRef,
    image: &ImageRef,
) -> Result<(Digest, Manifest), PullError> {
    let mut expected = reference.digest().cloned();
    for _ in 0..DEPTH_MAX {
        let name = match (&expected, reference.tag()) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        let bytes = registry.manifest(&name, MANIFEST_MAX).await?;
        let actual = hash::of(&bytes);
        if let Some(expected) = &expected {
            check_digest(image.to_string(), expected, &actual)?;
        }
        match Document::parse(&bytes).map_err(|error| malformed(image, error))? {
            Document::Manifest(manifest) => return Ok((actual, manifest)),
            Document::Index(choices) => expected = Some(for_here(&choices)?.digest.clone()),
        }
    }
    Err(malformed(
        image,
        MalformedError::new("its indexes lead to indexes and no image"),
    ))
}

/// The image for this machine.
fn for_here(choices: &[Choice]) -> Result<&Descriptor, PullError> {
    let here = Platform::here();
    let fits = |choice: &&Choice| {
        choice
            .platform
            .as_ref()
            .is_none_or(|platform| *platform == here)
    };
    if let Some(choice) = choices.iter().find(fits) {
        return Ok(&choice.manifest);
    }
    let others = choices.iter().filter_map(|choice| choice.platform.as_ref());
    let others: Vec<String> = others
        .map(ToString::to_string)
        .filter(|name| name != "unknown/unknown")
        .collect();
    Err(PullError::Platform {
        wanted: here.to_string(),
        available: listed(&others),
    })
}

fn listed(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMES_SHOWN)
        .map(|name| name.escape_debug().to_string());
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > NAMES_SHOWN => format!("{shown} and others"),
        _ => shown,
    }
}

fn in_layout(layout: Layout, image: &ImageRef, tag: Option<&str>) -> Result<Resolved, PullError> {
    let mut document = layout.index()?;
    let mut digest = None;
    let mut wanted = tag;
    for _ in 0..=DEPTH_MAX {
        let choices = match document {
            Document::Manifest(manifest) => {
                let config = layout.small_blob(&manifest.config, CONFIG_MAX)?;
                let config = checked_config(&config, manifest.layers.len(), image)?;
                return Ok(Resolved {
                    identity: identity(&manifest.config.digest),
                    config,
                    manifest: digest,
                    layers: Layers::Layout {
                        layout,
                        layers: manifest.layers,
                    },
                });
            }
            Document::Index(choices) => choices,
        };
        let chosen = match wanted.take() {
            Some(tag) => {
                let named: Vec<Choice> = choices
                    .iter()
                    .filter(|choice| choice.is_named(tag))
                    .cloned()
                    .collect();
                if named.is_empty() {
                    return Err(which(image, &choices));
                }
                for_here(&named)?.clone()
            }
            None => {
                let mut names: Vec<_> = choices.iter().map(|choice| &choice.name).collect();
                names.dedup();
                if names.len() > 1 {
                    return Err(which(image, &choices));
                }
                for_here(&choices)?.clone()
            }
        };
        let bytes = layout.small_blob(&chosen, MANIFEST_MAX)?;
        document = Document::parse(&bytes).map_err(|error| malformed(image, error))?;
        digest = Some(chosen.digest);
    }
    Err(malformed(
        image,
        MalformedError::new("its indexes lead to indexes and no image"),
    ))
}

impl Choice {
    fn is_named(&self, tag: &str) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
    }
}

fn which(image: &ImageRef, choices: &[Choice]) -> PullError {
    let names: Vec<String> = choices
        .iter()
        .filter_map(|choice| choice.name.clone())
        .collect();
    PullError::WhichImage {
        place: image.to_string(),
        available: listed(&names),
    }
}

fn in_docker_archive(
    archive: DockerArchive,
    image: &ImageRef,
    tag: Option<&str>,
) -> Result<Resolved, PullError> {
    let images = archive.images()?;
    let names = |image: &SavedImage| image.repo_tags.clone().unwrap_or_default();
    let chosen = match tag {
        Some(tag) => images.iter().find(|image| {
            names(image)
                .iter()
                .any(|name| name == tag || name.ends_with(&format!(":{tag}")))
        }),
        None if images.len() == 1 => images.first(),
        None => None,
    };
    let Some(chosen) = chosen.cloned() else {
        return Err(PullError::WhichImage {
            place: image.to_string(),
            available: listed(&images.iter().flat_map(names).collect::<Vec<_>>()),
        });
    };
    let bytes = archive.config(&chosen)?;
    let config = checked_config(&bytes, chosen.layers.len(), image)?;
    Ok(Resolved {
        identity: identity(&hash::of(&bytes)),
        config,
        manifest: None,
        layers: Layers::Docker {
            archive,
            image: chosen,
        },
    })
}

fn checked_config(bytes: &[u8], layers: usize, image: &ImageRef) -> Result<Config, PullError> {
    let config = Config::parse(bytes).map_err(|error| malformed(image, error))?;
    let here = Platform::here();
    if config.platform != here {
        return Err(PullError::Platform {
            wanted: here.to_string(),
            available: listed(&[config.platform.to_string()]),
        });
    }
    if config.diff_ids.len() != layers {
        let what = format!(
            "it has {layers} layers, and the digests of {}",
            config.diff_ids.len()
        );
        return Err(malformed(image, MalformedError::new(what)));
    }
    Ok(config)
}

fn identity(config: &Digest) -> Digest {
    hash::of(format!("banger file system {FORMAT}\nsha256:{config}\n").as_bytes())
}

/// The certificates that the usual folders have for a registry.
pub(crate) fn authorities(host: &str, folders: &[PathBuf]) -> Result<Vec<Vec<u8>>, PullError> {
    let mut found = Vec::new();
    for folder in folders {
        let folder = folder.join(host);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context("read", folder),
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        for path in paths
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "crt"))
        {
            found.push(std::fs::read(path).context("read", path)?);
        }
    }
    Ok(found)
}
