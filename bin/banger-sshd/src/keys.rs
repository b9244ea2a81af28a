//! The guest's host key, and the keys that may log in. banger writes both at each boot, whether the image has an ssh server or not.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use rustix::fs::OFlags;

/// The most that is read of a file of keys, in bytes.
const MOST: u64 = 1 << 20;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// Not there, or not readable.
    #[error("{} cannot be read: {source}; banger writes it when the VM starts", path.display())]
    Unreadable {
        /// Of keys.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else may write to it.
    #[error("{} may be written to by others than its owner, or is another user's", .0.display())]
    Open(PathBuf),
    /// It holds something else.
    #[error("{} holds no ssh key: {source}", path.display())]
    NoKey {
        /// Of the host key.
        path: PathBuf,
        /// Why.
        source: russh::keys::ssh_key::Error,
    },
}

/// The host key in that file.
pub(crate) fn host_key(path: &Path) -> Result<PrivateKey, KeysError> {
    let text = read(path)?;
    PrivateKey::from_openssh(text).map_err(|source| KeysError::NoKey {
        path: path.to_owned(),
        source,
    })
}

/// A text that its owner alone, root or this user, may write (sshd's StrictModes).
fn read(path: &Path) -> Result<String, KeysError> {
    let unreadable = |source| KeysError::Unreadable {
        path: path.to_owned(),
        source,
    };
    // What is no file is not waited for.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
        .map_err(unreadable)?;
    let data = file.metadata().map_err(unreadable)?;
    let own = rustix::process::geteuid().as_raw();
    if !data.is_file() || ![0, own].contains(&data.uid()) || data.mode() & 0o022 != 0 {
        return Err(KeysError::Open(path.to_owned()));
    }
    let mut text = String::new();
    file.take(MOST)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// Who may log in.
#[derive(Debug)]
pub(crate) struct AuthorizedKeys(Vec<KeyData>);

impl AuthorizedKeys {
    /// The keys of a file as sshd(8) has it. Lines with options are left out: what they restrict is not known here.
    pub(crate) fn load(path: &Path) -> Result<Self, KeysError> {
        Ok(Self::parse(&read(path)?))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let keys = lines.filter_map(|line| PublicKey::from_openssh(line).ok());
        Self(keys.map(|key| key.key_data().clone()).collect())
    }

    /// Whether that key may, used with that algorithm.
    pub(crate) fn has(&self, key: &PublicKey, algorithm: &Algorithm) -> bool {
        // SHA-1 signatures can be forged.
        let sound = !matches!(algorithm, Algorithm::Rsa { hash: None } | Algorithm::Dsa);
        sound && self.0.contains(key.key_data())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ43rUDh8ycR+nHTzjQxXFJGuVHqnWTTgqV1oJsEYMTU";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g";

    #[test]
    fn plain_lines_count_and_those_with_options_do_not() {
        let text = format!("# a comment\n\n  {KEY} me@here\ncommand=\"x\" {OTHER}\nnonsense\n");
        let keys = AuthorizedKeys::parse(&text);
        let key = |text: &str| PublicKey::from_openssh(text).unwrap();
        assert!(keys.has(&key(KEY), &Algorithm::Ed25519));
        assert!(!keys.has(&key(OTHER), &Algorithm::Ed25519));
        assert!(!keys.has(&key(KEY), &Algorithm::Rsa { hash: None }));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        assert!(matches!(
            AuthorizedKeys::load(&path),
            Err(KeysError::Unreadable { .. })
        ));
        std::fs::write(&path, KEY).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode));
        mode(0o664).unwrap();
        assert!(matches!(
            AuthorizedKeys::load(&path),
            Err(KeysError::Open(_))
        ));
        mode(0o600).unwrap();
        assert_eq!(AuthorizedKeys::load(&path).unwrap().0.len(), 1);
        assert!(matches!(host_key(&path), Err(KeysError::NoKey { .. })));
        assert!(AuthorizedKeys::load(dir.path()).is_err());
    }
}
