//! Where an OCI image comes from: a registry, a layout directory or an archive.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageName};

/// Where images without a host's name are looked for.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// Why a text is no reference to an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a valid image reference: {why}")]
pub struct ParseImageRefError {
    given: String,
    why: &'static str,
}

/// An image somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageRef {
    /// In a registry.
    Registry(RegistryRef),
    /// In an OCI layout directory: `oci:DIR[:TAG]`.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Which image, where there are several.
        tag: Option<String>,
    },
    /// In a tar of such a directory: `oci-archive:FILE[:TAG]`.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Which image, where there are several.
        tag: Option<String>,
    },
    /// In what `docker save` writes: `docker-archive:FILE[:NAME:TAG]`.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which image, where there are several.
        tag: Option<String>,
    },
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl RegistryRef {
    /// Host and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's path.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when there is neither a tag nor a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's digest; it goes before a tag.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether the host is this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = match self.host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.host,
        };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let parsed = address.parse::<std::net::IpAddr>();
        host == "localhost" || parsed.is_ok_and(|address| address.is_loopback())
    }
}

impl ImageRef {
    /// Whether this cannot be the name of an image in the store: those have neither `/` nor `:` nor `@`.
    #[must_use]
    pub fn is_meant_by(text: &str) -> bool {
        text.contains(['/', ':', '@'])
    }

    /// The same, with a path that means the same in any directory.
    #[must_use]
    pub fn absolute(self, current: &Path) -> Self {
        match self {
            Self::Registry(_) => self,
            Self::Layout { path, tag } => Self::Layout {
                path: current.join(path),
                tag,
            },
            Self::OciArchive { path, tag } => Self::OciArchive {
                path: current.join(path),
                tag,
            },
            Self::DockerArchive { path, tag } => Self::DockerArchive {
                path: current.join(path),
                tag,
            },
        }
    }

    /// A name for the store: `debian:bookworm` becomes `debian-bookworm`.
    ///
    /// # Errors
    /// Nothing is left that could be one.
    pub fn derived_name(&self) -> Result<ImageName, crate::ParseNameError> {
        let (stem, tag) = match self {
            Self::Registry(image) => {
                let last = image.repository.rsplit('/').next().unwrap_or_default();
                (
                    last.to_owned(),
                    image.tag.as_deref().filter(|tag| *tag != DEFAULT_TAG),
                )
            }
            Self::Layout { path, tag }
            | Self::OciArchive { path, tag }
            | Self::DockerArchive { path, tag } => {
                let stem = path.file_stem().unwrap_or_default();
                let tag = tag
                    .as_deref()
                    .map(|tag| tag.rsplit('/').next().unwrap_or(tag));
                (stem.to_string_lossy().into_owned(), tag)
            }
        };
        let text = match tag {
            Some(tag) => format!("{stem}-{tag}"),
            None => stem,
        };
        let plain = |c: char| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || "-._+".contains(c) => c,
            _ => '-',
        };
        let text: String = text.chars().map(plain).take(100).collect();
        text.trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
            .parse()
    }

    /// Whether the other one is the same image, maybe of another time.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Registry(a), Self::Registry(b)) => {
                (&a.host, &a.repository, a.tag()) == (&b.host, &b.repository, b.tag())
            }
            (a, b) => a == b,
        }
    }
}

impl FromStr for ImageRef {
    type Err = ParseImageRefError;

    fn from_str(text: &str) -> Result<Self, ParseImageRefError> {
        let rejected = |why| ParseImageRefError {
            given: text
                .chars()
                .take(120)
                .flat_map(char::escape_debug)
                .collect(),
            why,
        };
        if text.chars().any(char::is_control) {
            return Err(rejected("it has control characters"));
        }
        let at_path = |rest: &str| {
            let (path, tag) = match rest.split_once(':') {
                Some((path, tag)) => (path, Some(tag.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() || tag.as_deref() == Some("") {
                return Err(rejected(
                    "a path, and what may follow it behind a colon, cannot be empty",
                ));
            }
            Ok((PathBuf::from(path), tag))
        };
        match text.split_once(':') {
            Some(("oci", rest)) => at_path(rest).map(|(path, tag)| Self::Layout { path, tag }),
            Some(("oci-archive", rest)) => {
                at_path(rest).map(|(path, tag)| Self::OciArchive { path, tag })
            }
            Some(("docker-archive", rest)) => {
                at_path(rest).map(|(path, tag)| Self::DockerArchive { path, tag })
            }
            _ => {
                let rest = text.strip_prefix("docker://").unwrap_or(text);
                in_registry(rest).map(Self::Registry).map_err(rejected)
            }
        }
    }
}

fn in_registry(text: &str) -> Result<RegistryRef, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let hex = digest
                .strip_prefix("sha256:")
                .ok_or("its digest is no sha256")?;
            (
                rest,
                Some(hex.parse().map_err(|_| "its digest is malformed")?),
            )
        }
        None => (text, None),
    };
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].find(':') {
        // A host alone with its port is no image.
        Some(colon) => (
            &rest[..last + colon],
            Some(rest[last + colon + 1..].to_owned()),
        ),
        None => (rest, None),
    };
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    check_host(host)?;
    if !path.split('/').all(is_path_part) {
        return Err(
            "a repository's name has lower-case letters, digits and single `.`, `_` or `-` between them",
        );
    }
    if let Some(tag) = &tag
        && !is_tag(tag)
    {
        return Err("its tag is malformed");
    }
    if path.len() > 255 {
        return Err("its repository's name is too long");
    }
    let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    let is_official = host == DEFAULT_REGISTRY && !path.contains('/');
    Ok(RegistryRef {
        host: host.to_owned(),
        repository: if is_official {
            format!("library/{path}")
        } else {
            path.to_owned()
        },
        tag,
        digest,
    })
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("its host's port is malformed");
    }
    let is_v6 = name.starts_with('[')
        && name.ends_with(']')
        && name[1..name.len() - 1]
            .parse::<std::net::Ipv6Addr>()
            .is_ok();
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
    };
    if is_v6 || (name.len() <= 253 && name.split('.').all(label)) {
        Ok(())
    } else {
        Err("its host's name is malformed")
    }
}

fn is_path_part(part: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|byte| byte.is_some_and(alphanumeric))
        && bytes
            .iter()
            .all(|byte| alphanumeric(byte) || b"._-".contains(byte))
        && !part.contains("..")
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|byte| word(*byte) || b".-".contains(byte))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag) = match self {
            Self::Registry(image) => {
                write!(f, "{}/{}", image.host, image.repository)?;
                if let Some(tag) = image.tag() {
                    write!(f, ":{tag}")?;
                }
                return match &image.digest {
                    Some(digest) => write!(f, "@sha256:{digest}"),
                    None => Ok(()),
                };
            }
            Self::Layout { path, tag } => ("oci", path, tag),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag),
            Self::DockerArchive { path, tag } => ("docker-archive", path, tag),
        };
        write!(f, "{kind}:{}", path.display())?;
        match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ParseImageRefError;

    fn try_from(text: String) -> Result<Self, ParseImageRefError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references_and_the_names_that_they_give() {
        for (text, full, name) in [
            (
                "debian:bookworm",
                "docker.io/library/debian:bookworm",
                "debian-bookworm",
            ),
            (
                "debian@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                "docker.io/library/debian@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                "debian",
            ),
            ("ghcr.io/a/b:V1.2", "ghcr.io/a/b:V1.2", "b-v1.2"),
            ("localhost/x", "localhost/x:latest", "x"),
            ("127.0.0.1:5000/a/b_c", "127.0.0.1:5000/a/b_c:latest", "b_c"),
            ("[::1]:5000/x:1", "[::1]:5000/x:1", "x-1"),
            ("user/image", "docker.io/user/image:latest", "image"),
            ("docker://host.example/x", "host.example/x:latest", "x"),
            ("oci:some/dir:tag", "oci:some/dir:tag", "dir-tag"),
            ("oci-archive:/a/B c.tar", "oci-archive:/a/B c.tar", "b-c"),
            (
                "docker-archive:x.tar:name/x:1",
                "docker-archive:x.tar:name/x:1",
                "x-x-1",
            ),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(image.to_string(), full);
            assert_eq!(image.derived_name().unwrap().as_str(), name, "{text}");
            let again: ImageRef = full.parse().unwrap();
            assert_eq!(again.to_string(), full);
            assert_eq!(
                again, image,
                "{text}: written and read again it is another one"
            );
        }
    }

    #[test]
    fn malformed_references_are_refused() {
        for bad in [
            "",
            "/",
            "a//b",
            "Debian:1",
            "host.example/",
            "host.example:x/a",
            "a:",
            "a:-",
            "a@sha256:1",
            "a@md5:00",
            "oci:",
            "oci:x:",
            "-host.example/a",
            "a/../b",
            "a b/c",
            "x:\u{1b}",
            "a/.b",
            "a:b:c",
        ] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let is = |text: &str| match text.parse().unwrap() {
            ImageRef::Registry(image) => image.is_loopback(),
            _ => false,
        };
        for here in [
            "localhost/a",
            "localhost:5000/a",
            "127.0.0.1:5000/a",
            "127.1.2.3:80/a",
            "[::1]:5000/a",
        ] {
            assert!(is(here), "{here}");
        }
        for there in [
            "debian",
            "127.0.0.1.example.com/a",
            "localhost.example/a",
            "10.0.0.1:5000/a",
        ] {
            assert!(!is(there), "{there}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in ".{0,60}") {
            if let Ok(image) = text.parse::<ImageRef>() {
                prop_assert_eq!(image.to_string().parse::<ImageRef>().unwrap(), image.to_string().parse().unwrap());
                let _ = image.derived_name();
            }
        }
    }
}
