//! ssh keys: the owner's, and one for each VM's sshd.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_guest_proto::SshHostKey;
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("failed to make or read the ssh key {}", path.display())]
pub(crate) struct KeyError {
    path: PathBuf,
    source: io::Error,
}

/// The key at `path`, made when it is missing. Gives its private and public text.
pub(crate) fn ensure(path: &Path, comment: &str) -> Result<SshHostKey, KeyError> {
    load_or_make(path, comment).map_err(|source| KeyError {
        path: path.to_owned(),
        source,
    })
}

fn load_or_make(path: &Path, comment: &str) -> io::Result<SshHostKey> {
    match fs::read_to_string(path) {
        Ok(private) => {
            let key = PrivateKey::from_openssh(&private).map_err(io::Error::other)?;
            let public = key.public_key().to_openssh().map_err(io::Error::other)?;
            Ok(SshHostKey { private, public })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, comment),
        Err(error) => Err(error),
    }
}

fn make(path: &Path, comment: &str) -> io::Result<SshHostKey> {
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(io::Error::other)?;
    key.set_comment(comment);
    let private = key
        .to_openssh(LineEnding::LF)
        .map_err(io::Error::other)?
        .to_string();
    let public = key.public_key().to_openssh().map_err(io::Error::other)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let next = path.with_extension("partial");
    let _ = fs::remove_file(&next);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(private.as_bytes())?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    fs::write(path.with_extension("pub"), format!("{public}\n"))?;
    Ok(SshHostKey { private, public })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh/id_ed25519");
        let first = ensure(&path, "banger").unwrap();
        assert!(first.public.starts_with("ssh-ed25519 "));
        assert_eq!(ensure(&path, "banger").unwrap().public, first.public);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, "nonsense").unwrap();
        assert!(ensure(&path, "banger").is_err());
    }
}
