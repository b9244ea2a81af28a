//! The index: what a catalog has, and how each file is to be when it is unpacked. Pure.

use std::collections::HashSet;

use banger_core::{Digest, ImageName, ImageRef, KernelName};
use banger_oci::{Descriptor, ImageConfig};
use serde::{Deserialize, Serialize};

use crate::error::{CatalogError, MalformedError};

/// The format that is written, and the newest that is read.
pub(crate) const FORMAT: u32 = 1;
/// An index is not longer, in bytes.
pub(crate) const INDEX_MAX: u64 = 4 << 20;
/// Nor is a signature.
pub(crate) const SIGNATURE_MAX: u64 = 4 << 10;
/// No file of an image is larger when it is unpacked: as much as ext4 is written for.
const FILE_MAX: u64 = 1 << 40;
/// Compressing never makes more of it than this.
const OVERHEAD: u64 = 1 << 20;
const LINES_MAX: usize = 500;
const LINE_MAX: usize = 300;

/// A catalog's index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Of this file.
    pub format: u32,
    /// Higher in each later index.
    pub serial: u64,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// One for each name and architecture.
    #[serde(default)]
    pub images: Vec<CatalogImage>,
    /// One for each name and architecture.
    #[serde(default)]
    pub kernels: Vec<CatalogKernel>,
}

/// A file, compressed by zstd, in `blobs/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// SHA-256 of the compressed file, which is its name.
    pub blob: Digest,
    /// Of the compressed file, in bytes.
    pub blob_size: u64,
    /// When it is unpacked, in bytes.
    pub size: u64,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogImage {
    /// Name.
    pub name: ImageName,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// By which images are told apart, see `image show`.
    pub digest: Digest,
    /// When it was made: RFC 3339, UTC.
    pub created_at: String,
    /// The kernel that it is to be booted with, of this catalog.
    #[serde(default)]
    pub kernel: Option<KernelName>,
    /// Units that it promises.
    #[serde(default)]
    pub ready: Vec<String>,
    /// What is in it.
    #[serde(default)]
    pub contents: Vec<String>,
    /// Fingerprint of the recipe that it was built from.
    #[serde(default)]
    pub recipe_fingerprint: Option<Digest>,
    /// Where its maker pulled it from.
    #[serde(default)]
    pub origin: Option<Provenance>,
    /// Root file system, ext4.
    pub rootfs: Packed,
    /// Prepared `/root`, ext4.
    #[serde(default)]
    pub work_seed: Option<Packed>,
}

/// The OCI image that an image was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Where it was pulled from.
    pub reference: ImageRef,
    /// How it wants to be run.
    pub config: ImageConfig,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogKernel {
    /// Name.
    pub name: KernelName,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// Its `uname -r`.
    pub release: String,
    /// SHA-256 of its ELF image.
    pub digest: Digest,
    /// Where it comes from, for people.
    pub source: String,
    /// When it was imported: RFC 3339, UTC.
    pub created_at: String,
    /// ELF image.
    pub vmlinux: Packed,
    /// What of it goes into every initramfs.
    pub segment: Packed,
    /// Drive of modules, ext4.
    #[serde(default)]
    pub modules: Option<Packed>,
    /// An initramfs of its own, uncompressed cpio.
    #[serde(default)]
    pub initrd: Option<Packed>,
}

impl Packed {
    /// As what is fetched.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            digest: self.blob.clone(),
            size: self.blob_size,
        }
    }
}

impl CatalogImage {
    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Packed> {
        std::iter::once(&self.rootfs).chain(&self.work_seed)
    }
}

impl CatalogKernel {
    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Packed> {
        let always = [&self.vmlinux, &self.segment].into_iter();
        always.chain(&self.modules).chain(&self.initrd)
    }
}

#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

impl Index {
    /// Reads an index. Its signature was checked: this is about mistakes of its maker, and indexes of later bangers.
    ///
    /// # Errors
    /// It is malformed, or of a newer format.
    pub fn parse(bytes: &[u8]) -> Result<Self, CatalogError> {
        let malformed = |what: String| CatalogError::Malformed(MalformedError(what));
        if bytes.len() as u64 > INDEX_MAX {
            return Err(malformed(format!("it has more than {INDEX_MAX} bytes")));
        }
        let unreadable = |error: serde_json::Error| malformed(error.to_string());
        let Versioned { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format > FORMAT {
            return Err(CatalogError::NewerFormat(format));
        }
        let index: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        index.check().map_err(CatalogError::Malformed)?;
        Ok(index)
    }

    /// An image for an architecture.
    #[must_use]
    pub fn image(&self, name: &ImageName, architecture: &str) -> Option<&CatalogImage> {
        let mut all = self.images.iter();
        all.find(|image| image.name == *name && image.architecture == architecture)
    }

    /// A kernel for an architecture.
    #[must_use]
    pub fn kernel(&self, name: &KernelName, architecture: &str) -> Option<&CatalogKernel> {
        let mut all = self.kernels.iter();
        all.find(|kernel| kernel.name == *name && kernel.architecture == architecture)
    }

    /// What an image without a kernel of its own is booted with where there is none yet: the newest one that is
    /// nobody's own.
    #[must_use]
    pub fn default_kernel(&self, architecture: &str) -> Option<&CatalogKernel> {
        let all = self.kernels.iter();
        let fitting = all.filter(|kernel| kernel.architecture == architecture);
        let of_an_image = |kernel: &&CatalogKernel| {
            let mut images = self.images.iter();
            images.any(|image| image.kernel.as_ref() == Some(&kernel.name))
        };
        let newest = |kernel: &&CatalogKernel| kernel.created_at.clone();
        let (own, free): (Vec<_>, Vec<_>) = fitting.partition(of_an_image);
        let free = free.into_iter().max_by_key(newest);
        free.or_else(|| own.into_iter().max_by_key(newest))
    }

    /// Every compressed file, once.
    #[must_use]
    pub fn blobs(&self) -> Vec<Descriptor> {
        let images = self.images.iter().flat_map(CatalogImage::files);
        let kernels = self.kernels.iter().flat_map(CatalogKernel::files);
        let mut seen = HashSet::new();
        images
            .chain(kernels)
            .filter(|file| seen.insert(&file.blob))
            .map(Packed::descriptor)
            .collect()
    }

    fn check(&self) -> Result<(), MalformedError> {
        check_time(&self.created_at)?;
        let mut names = HashSet::new();
        for image in &self.images {
            let name = (image.name.as_str(), &image.architecture);
            if !names.insert(name) {
                return wrong(format!("it has the image `{}` twice", image.name));
            }
            let told = |error: MalformedError| {
                MalformedError(format!("the image `{}`: {error}", image.name))
            };
            check_image(image).map_err(told)?;
        }
        let mut names = HashSet::new();
        for kernel in &self.kernels {
            let name = (kernel.name.as_str(), &kernel.architecture);
            if !names.insert(name) {
                return wrong(format!("it has the kernel `{}` twice", kernel.name));
            }
            let told = |error: MalformedError| {
                MalformedError(format!("the kernel `{}`: {error}", kernel.name))
            };
            check_kernel(kernel).map_err(told)?;
        }
        let mut sizes = std::collections::HashMap::new();
        for blob in self.blobs() {
            sizes.insert(blob.digest, blob.size);
        }
        let images = self.images.iter().flat_map(CatalogImage::files);
        let kernels = self.kernels.iter().flat_map(CatalogKernel::files);
        for file in images.chain(kernels) {
            if sizes.get(&file.blob) != Some(&file.blob_size) {
                return wrong(format!("it says two sizes of the file {}", file.blob));
            }
        }
        Ok(())
    }
}

fn wrong<T>(what: impl Into<String>) -> Result<T, MalformedError> {
    Err(MalformedError(what.into()))
}

fn check_image(image: &CatalogImage) -> Result<(), MalformedError> {
    check_architecture(&image.architecture)?;
    check_time(&image.created_at)?;
    for lines in [&image.ready, &image.contents] {
        if lines.len() > LINES_MAX {
            return wrong(format!("it tells of more than {LINES_MAX} things"));
        }
        for line in lines {
            check_line(line)?;
        }
    }
    image.files().try_for_each(check_file)
}

fn check_kernel(kernel: &CatalogKernel) -> Result<(), MalformedError> {
    check_architecture(&kernel.architecture)?;
    check_time(&kernel.created_at)?;
    check_line(&kernel.source)?;
    // It becomes a part of paths.
    if kernel.release.parse::<KernelName>().is_err() {
        return wrong("its release is none");
    }
    kernel.files().try_for_each(check_file)
}

fn check_file(file: &Packed) -> Result<(), MalformedError> {
    if file.size == 0 || file.size > FILE_MAX {
        return wrong(format!("a file of {} bytes", file.size));
    }
    if file.blob_size == 0 || file.blob_size > file.size + file.size / 100 + OVERHEAD {
        let what = "bytes make a compressed one of";
        return wrong(format!("{} {what} {}", file.size, file.blob_size));
    }
    Ok(())
}

fn check_architecture(text: &str) -> Result<(), MalformedError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=20).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(());
    }
    wrong("its architecture is none")
}

fn check_time(text: &str) -> Result<(), MalformedError> {
    match text.parse::<jiff::Timestamp>() {
        Ok(_) => Ok(()),
        Err(_) => wrong("a time that is none"),
    }
}

/// It is shown to people.
fn check_line(text: &str) -> Result<(), MalformedError> {
    if text.len() > LINE_MAX || text.chars().any(char::is_control) {
        return wrong("it has a line that cannot be shown");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    /// An index with an image of that name, whose rest is replaced.
    fn index(from: &str, to: &str) -> String {
        let text = format!(
            r#"{{"format":1,"serial":7,"created_at":"2026-01-02T03:04:05Z","images":[{{"name":"small","architecture":"x86_64","digest":"{ZERO}","created_at":"2026-01-02T03:04:05Z","kernel":"6.1","contents":["a 1"],"rootfs":{{"blob":"{ZERO}","blob_size":10,"size":1000}}}}],"kernels":[{{"name":"6.1","architecture":"x86_64","release":"6.1.0","digest":"{ZERO}","source":"a file","created_at":"2026-01-02T03:04:05Z","vmlinux":{{"blob":"{ZERO}","blob_size":10,"size":11}},"segment":{{"blob":"{ZERO}","blob_size":10,"size":12}}}}]}}"#
        );
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    }

    #[test]
    fn what_is_there_is_found_for_its_architecture() {
        let index = Index::parse(index("", "").as_bytes()).unwrap();
        let name = "small".parse().unwrap();
        assert!(index.image(&name, "x86_64").is_some());
        assert!(index.image(&name, "aarch64").is_none());
        assert_eq!(
            index.default_kernel("x86_64").unwrap().name.as_str(),
            "6.1",
            "an image's own where there is no other"
        );
        assert_eq!(index.blobs().len(), 1);
        let again = serde_json::to_vec(&index).unwrap();
        assert_eq!(Index::parse(&again).unwrap(), index);
    }

    #[test]
    fn what_a_later_banger_added_is_passed_over_until_the_format_changes() {
        let more = index(r#""serial":7"#, r#""serial":7,"mood":"good""#);
        assert!(Index::parse(more.as_bytes()).is_ok());
        let newer = r#"{"format":2,"images":"elsewhere"}"#;
        let error = Index::parse(newer.as_bytes()).unwrap_err();
        assert!(matches!(error, CatalogError::NewerFormat(2)));
    }

    #[test]
    fn hostile_and_mistaken_indexes_are_refused() {
        let image = r#"{"name":"small""#;
        for (from, to) in [
            (r#""name":"small""#, r#""name":"../small""#),
            (r#""name":"small""#, r#""name":"a/b""#),
            (r#""name":"small""#, r#""name":".hidden""#),
            (r#""name":"6.1""#, r#""name":"..""#),
            (r#""kernel":"6.1""#, r#""kernel":"/etc""#),
            (r#""release":"6.1.0""#, r#""release":"../../x""#),
            (r#""architecture":"x86_64""#, r#""architecture":"x86 64""#),
            (r#""contents":["a 1"]"#, r#""contents":["\u001b[2J"]"#),
            (r#""source":"a file""#, r#""source":"a\nfile""#),
            (r#""size":1000"#, r#""size":0"#),
            (r#""size":1000"#, r#""size":-1"#),
            (r#""size":1000"#, r#""size":18446744073709551615"#),
            (r#""size":1000"#, r#""size":1e3"#),
            (r#""blob_size":10"#, r#""blob_size":0"#),
            (r#""blob_size":10"#, r#""blob_size":11"#),
            (r#""blob_size":10"#, r#""blob_size":9999999999"#),
            (
                &format!(r#""blob":"{ZERO}""#),
                r#""blob":"../../etc/passwd""#,
            ),
            (&format!(r#""digest":"{ZERO}""#), r#""digest":"00""#),
            (
                r#""created_at":"2026-01-02T03:04:05Z""#,
                r#""created_at":"yesterday""#,
            ),
            (r#""format":1"#, r#""format":"1""#),
            (r#""format":1,"#, ""),
            (image, r#"{"name":"small","name":"other""#),
        ] {
            let text = index(from, to);
            assert!(Index::parse(text.as_bytes()).is_err(), "{from} → {to}");
        }
        let mut twice = Index::parse(index("", "").as_bytes()).unwrap();
        twice.images.push(twice.images[0].clone());
        assert!(Index::parse(&serde_json::to_vec(&twice).unwrap()).is_err());
        let long = vec![b' '; usize::try_from(INDEX_MAX).unwrap() + 1];
        assert!(Index::parse(&long).is_err());
        for bad in [&b""[..], b"{}", b"[]", b"null", b"\xff"] {
            assert!(Index::parse(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let _ = Index::parse(&bytes);
            let mut text = index("", "").into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(index) = Index::parse(&text) {
                let again = serde_json::to_vec(&index).unwrap();
                prop_assert_eq!(Index::parse(&again).unwrap(), index);
            }
        }
    }
}
