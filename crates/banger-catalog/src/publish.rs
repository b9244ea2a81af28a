//! Publishing a catalog: signing its index, and bringing it to the folder that is served.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_oci::Watch;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox};

use crate::build::{remove_others, write_whole};
use crate::catalog::{ensure_folder, open_blob, read_small};
use crate::error::{CatalogError, Context};
use crate::index::{CatalogImage, CatalogKernel, INDEX_MAX, Index};
use crate::signature::TrustedKey;
use crate::{BLOBS, INDEX, SIGNATURE};

/// A secret key, as minisign keeps it in a file.
pub struct SigningKey {
    secret: SecretKey,
    public: TrustedKey,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What checks it.
    pub key: TrustedKey,
    /// How many images.
    pub images: usize,
    /// How many kernels.
    pub kernels: usize,
    /// Size of all compressed files in bytes.
    pub size: u64,
}

impl SigningKey {
    /// Reads a key. `password` is asked for one when the key has one.
    ///
    /// # Errors
    /// There is none, it is malformed, or the password is another one.
    pub fn load(
        path: &Path,
        password: impl FnOnce() -> io::Result<String>,
    ) -> Result<Self, CatalogError> {
        let text = fs::read_to_string(path).context("read", path)?;
        let unusable = |why: &dyn ToString| CatalogError::SecretKey {
            path: path.to_owned(),
            why: why.to_string(),
        };
        let parse = || SecretKeyBox::from_string(&text);
        let parsed = parse().map_err(|_| unusable(&"it is no minisign secret key"))?;
        let secret = match parsed.into_unencrypted_secret_key() {
            Ok(secret) => secret,
            Err(_) => {
                let password = password().context("read the password of", path)?;
                let parsed = parse().map_err(|error| unusable(&error))?;
                let opened = parsed.into_secret_key(Some(password));
                opened.map_err(|_| unusable(&"the password is another one, or it is damaged"))?
            }
        };
        let public = PublicKey::from_secret_key(&secret).map_err(|error| unusable(&error))?;
        Self::of(secret, &public).ok_or_else(|| unusable(&"its public key cannot be told"))
    }

    /// Makes a key without a password, in a new file that only its owner may read; the public one beside it, with
    /// `.pub` at its end.
    ///
    /// # Errors
    /// A file cannot be made; there is one, for example.
    pub fn make(path: &Path) -> Result<Self, CatalogError> {
        let failed = |what: &dyn ToString| CatalogError::SecretKey {
            path: path.to_owned(),
            why: what.to_string(),
        };
        let pair = KeyPair::generate_unencrypted_keypair().map_err(|error| failed(&error))?;
        let secret = pair.sk.to_box(Some("banger catalog: keep it secret"));
        let secret = secret.map_err(|error| failed(&error))?.into_string();
        let public = pair.pk.to_box().map_err(|error| failed(&error))?;
        if let Some(folder) = path.parent() {
            ensure_folder(folder)?;
        }
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.context("make", path)?;
        let written = file.write_all(secret.as_bytes());
        written
            .and_then(|()| file.sync_all())
            .context("write", path)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".pub");
        let beside = PathBuf::from(beside);
        fs::write(&beside, public.into_string()).context("write", &beside)?;
        Self::of(pair.sk, &pair.pk).ok_or_else(|| failed(&"its public key cannot be told"))
    }

    fn of(secret: SecretKey, public: &PublicKey) -> Option<Self> {
        let public = public.to_base64().parse().ok()?;
        Some(Self { secret, public })
    }

    /// What others check signatures with.
    #[must_use]
    pub fn public(&self) -> &TrustedKey {
        &self.public
    }

    fn sign(&self, bytes: &[u8], comment: &str) -> Result<String, CatalogError> {
        let signed = minisign::sign(
            None,
            &self.secret,
            bytes,
            Some(comment),
            Some("signature of a banger catalog's index"),
        );
        signed
            .map(minisign::SignatureBox::into_string)
            .map_err(|_| CatalogError::Signature("it could not be made"))
    }
}

/// Checks every file of a catalog, signs its index, and copies it to another folder when there is one: files first,
/// then the index with its signature, then what the folder does not need any more is removed.
///
/// # Errors
/// See [`CatalogError`]. What was published before is as it was, unless the last step failed.
pub fn publish(
    folder: &Path,
    key: &SigningKey,
    to: Option<&Path>,
    watch: &dyn Watch,
) -> Result<Published, CatalogError> {
    let bytes = read_small(folder, INDEX, INDEX_MAX)?;
    let index = Index::parse(&bytes)?;
    let blobs = folder.join(BLOBS);
    watch.step("checking");
    let images = index.images.iter().flat_map(CatalogImage::files);
    let kernels = index.kernels.iter().flat_map(CatalogKernel::files);
    let files: Vec<_> = images.chain(kernels).collect();
    for file in &files {
        watch.line(&format!("{}…", file.blob.short()));
        if watch.cancelled() {
            return Err(CatalogError::Cancelled);
        }
        open_blob(&blobs, file)?;
    }
    let comment = format!("banger catalog {} {}", index.serial, index.created_at);
    let signature = key.sign(&bytes, &comment)?;
    // A mistake in the key's file would make a catalog that nobody can use.
    key.public.check(&bytes, signature.as_bytes())?;
    if let Some(to) = to {
        watch.step(&format!("copying to {}", to.display()));
        let there = to.join(BLOBS);
        ensure_folder(&there)?;
        for blob in index.blobs() {
            if watch.cancelled() {
                return Err(CatalogError::Cancelled);
            }
            let home = there.join(blob.digest.as_str());
            if fs::metadata(&home).is_ok_and(|found| found.len() == blob.size) {
                continue;
            }
            watch.line(&format!("{}…", blob.digest.short()));
            copy(&blobs.join(blob.digest.as_str()), &there, &home)?;
        }
        write_whole(to, SIGNATURE, signature.as_bytes())?;
        write_whole(to, INDEX, &bytes)?;
        remove_others(to, &index)?;
    }
    write_whole(folder, SIGNATURE, signature.as_bytes())?;
    Ok(Published {
        key: key.public.clone(),
        images: index.images.len(),
        kernels: index.kernels.len(),
        size: index.blobs().iter().map(|blob| blob.size).sum(),
    })
}

fn copy(from: &Path, folder: &Path, to: &Path) -> Result<(), CatalogError> {
    use std::os::unix::fs::PermissionsExt;
    let next = tempfile::NamedTempFile::new_in(folder).context("write to", folder)?;
    let mut source = File::open(from).context("read", from)?;
    let copied = io::copy(&mut source, &mut next.as_file()).and_then(|_| {
        let file = next.as_file();
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()
    });
    copied.context("write to", folder)?;
    let kept = next.persist(to).map_err(|error| error.error);
    kept.context("write", to)?;
    Ok(())
}
