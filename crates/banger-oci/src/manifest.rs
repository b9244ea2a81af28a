//! Indexes, manifests and configurations: what of them matters, checked.

use std::collections::BTreeMap;

use banger_core::Digest;
use serde::{Deserialize, Serialize};

use crate::error::MalformedError;

/// Larger ones are not read.
pub(crate) const MANIFEST_MAX: u64 = 4 << 20;
/// Larger configurations are not read.
pub(crate) const CONFIG_MAX: u64 = 8 << 20;
const LAYERS_MAX: usize = 512;
const LAYER_MAX: u64 = 1 << 40;

/// Kinds of documents that a registry is asked for.
pub(crate) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A blob: its digest and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// SHA-256.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// Something that a tag or digest may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image per platform.
    Index(Vec<Choice>),
    /// An image.
    Manifest(Manifest),
}

/// An image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) manifest: Descriptor,
    pub(crate) platform: Option<Platform>,
    pub(crate) name: Option<String>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What an image is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
}

impl Platform {
    /// This machine's.
    pub(crate) fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// How the image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    pub cmd: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// User, or user and group: names or numbers.
    pub user: String,
    /// Working directory.
    pub working_dir: String,
    /// Ports, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Signal that ends it.
    pub stop_signal: String,
}

/// What of an image's configuration is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) platform: Platform,
    pub(crate) created: u32,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) run: ImageConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    created: Option<String>,
    config: Option<RawRun>,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    stop_signal: Option<String>,
}

/// A digest as manifests write it.
pub(crate) fn digest(text: &str) -> Result<Digest, MalformedError> {
    let hex = text
        .strip_prefix("sha256:")
        .and_then(|hex| hex.parse().ok());
    hex.ok_or_else(|| MalformedError::new(format!("`{}` is no sha256 digest", text.escape_debug())))
}

impl RawDescriptor {
    fn check(&self, max: u64) -> Result<Descriptor, MalformedError> {
        if self.size > max {
            let what = format!(
                "it tells of a part of {} bytes; more than {max} are not read",
                self.size
            );
            return Err(MalformedError::new(what));
        }
        Ok(Descriptor {
            digest: digest(&self.digest)?,
            size: self.size,
        })
    }
}

impl Document {
    /// Reads an index or a manifest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, MalformedError> {
        let raw: RawDocument = serde_json::from_slice(bytes)
            .map_err(|error| MalformedError::new(format!("it is no manifest: {error}")))?;
        if raw.schema_version != Some(2) {
            let what =
                "it is no manifest of schema version 2; images of older ones must be pushed again";
            return Err(MalformedError::new(what));
        }
        match (raw.manifests, raw.config, raw.layers) {
            (Some(manifests), None, None) => {
                let choices = manifests.iter().map(|raw| {
                    Ok(Choice {
                        manifest: raw.check(MANIFEST_MAX)?,
                        platform: raw.platform.as_ref().map(|platform| Platform {
                            os: platform.os.clone(),
                            architecture: platform.architecture.clone(),
                        }),
                        name: raw.name(),
                    })
                });
                choices.collect::<Result<_, _>>().map(Self::Index)
            }
            (None, Some(config), Some(layers)) => {
                if let Some(foreign) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
                    let what = format!(
                        "it is no image that can be run: it has a part of the type `{}`",
                        foreign.media_type.escape_debug()
                    );
                    return Err(MalformedError::new(what));
                }
                if layers.len() > LAYERS_MAX {
                    return Err(MalformedError::new(format!(
                        "it has more than {LAYERS_MAX} layers"
                    )));
                }
                let config = config.check(CONFIG_MAX)?;
                let layers = layers.iter().map(|layer| layer.check(LAYER_MAX));
                let layers = layers.collect::<Result<_, _>>()?;
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            _ => {
                let kind = raw.media_type.unwrap_or_default();
                let what = format!(
                    "it is neither an index nor a manifest (`{}`)",
                    kind.escape_debug()
                );
                Err(MalformedError::new(what))
            }
        }
    }
}

impl RawDescriptor {
    fn name(&self) -> Option<String> {
        self.annotations
            .as_ref()?
            .get("org.opencontainers.image.ref.name")
            .cloned()
    }
}

fn is_layer(media_type: &str) -> bool {
    let oci = |base: &str| {
        media_type
            .strip_prefix(base)
            .is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd"))
    };
    oci("application/vnd.oci.image.layer.v1.tar")
        || oci("application/vnd.oci.image.layer.nondistributable.v1.tar")
        || matches!(
            media_type,
            "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        )
}

impl Config {
    /// Reads a configuration.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, MalformedError> {
        let raw: RawConfig = serde_json::from_slice(bytes).map_err(|error| {
            MalformedError::new(format!("its configuration cannot be read: {error}"))
        })?;
        let diff_ids = raw
            .rootfs
            .and_then(|rootfs| rootfs.diff_ids)
            .unwrap_or_default();
        let created = raw
            .created
            .and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let created = created.and_then(|time| u32::try_from(time.as_second()).ok());
        let run = raw.config.unwrap_or_default();
        Ok(Self {
            platform: Platform {
                os: raw.os,
                architecture: raw.architecture,
            },
            created: created.unwrap_or(0),
            diff_ids: diff_ids
                .iter()
                .map(|text| digest(text))
                .collect::<Result<_, _>>()?,
            run: ImageConfig {
                entrypoint: run.entrypoint.unwrap_or_default(),
                cmd: run.cmd.unwrap_or_default(),
                env: run.env.unwrap_or_default(),
                user: run.user.unwrap_or_default(),
                working_dir: run.working_dir.unwrap_or_default(),
                exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
                stop_signal: run.stop_signal.unwrap_or_default(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    fn manifest(kind: &str, size: u64) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{ZERO}","size":7}},"layers":[{{"mediaType":"{kind}","digest":"{ZERO}","size":{size}}}]}}"#
        )
    }

    #[test]
    fn images_are_told_from_what_else_is_kept_in_registries() {
        let layer = "application/vnd.oci.image.layer.v1.tar+zstd";
        assert!(matches!(
            Document::parse(manifest(layer, 5).as_bytes()),
            Ok(Document::Manifest(_))
        ));
        for kind in [
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "",
            "application/vnd.oci.image.layer.v1.tar+encrypted",
        ] {
            assert!(
                Document::parse(manifest(kind, 5).as_bytes()).is_err(),
                "{kind}"
            );
        }
        assert!(Document::parse(manifest(layer, u64::MAX).as_bytes()).is_err());
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
        ] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let md5 = manifest(layer, 5).replace("sha256", "md5");
        assert!(Document::parse(md5.as_bytes()).is_err());
    }

    #[test]
    fn a_configuration_may_leave_out_nearly_everything() {
        let config = Config::parse(b"{}").unwrap();
        assert_eq!((config.created, config.diff_ids.len()), (0, 0));
        let text = r#"{"os":"linux","architecture":"amd64","created":"2020-01-02T03:04:05.6+01:00","config":{"Entrypoint":null,"Cmd":["sh"],"ExposedPorts":{"80/tcp":{}}},"rootfs":{"diff_ids":[]}}"#;
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!(config.created, 1_577_930_645);
        assert_eq!(
            (config.run.cmd, config.run.exposed_ports),
            (vec!["sh".to_owned()], vec!["80/tcp".to_owned()])
        );
    }

    proptest! {
        #[test]
        fn nothing_makes_them_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Document::parse(&bytes), Config::parse(&bytes));
        }
    }
}
