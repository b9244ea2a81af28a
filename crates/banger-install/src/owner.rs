//! The user that an installation serves.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Users that VMMs run as; no person may be one of them.
const VMM_UIDS: std::ops::Range<u32> = 880_000..890_000;

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home.
    pub home: PathBuf,
}

/// Why nobody can be the owner.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// No such user.
    #[error("there is no user `{0}` on this host")]
    Unknown(String),
    /// Root.
    #[error("the owner must be an ordinary user, not root")]
    Root,
    /// In the range of VMMs.
    #[error("`{name}` has the user id {uid}, and VMMs run under 880000 to 889999")]
    VmmRange {
        /// Who.
        name: String,
        /// The id.
        uid: u32,
    },
    /// A name or home that would not survive a unit file.
    #[error("the {what} `{value}` cannot be written into a unit file")]
    Unprintable {
        /// Name or home.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// The lookup itself failed.
    #[error("users could not be looked up: {0}")]
    Lookup(String),
}

impl Owner {
    /// Looks a user up where this host keeps its users, by name or number.
    ///
    /// # Errors
    /// An unknown or unsuitable user.
    pub fn find(user: &str) -> Result<Self, OwnerError> {
        let output = Command::new("/usr/bin/getent")
            .args(["passwd", "--", user])
            .output()
            .map_err(|error| OwnerError::Lookup(error.to_string()))?;
        match output.status.code() {
            Some(0) => Self::parse(user, &String::from_utf8_lossy(&output.stdout)),
            // getent(1): one or more keys could not be found.
            Some(2) => Err(OwnerError::Unknown(user.to_owned())),
            _ => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(OwnerError::Lookup(why))
            }
        }
    }

    fn parse(user: &str, line: &str) -> Result<Self, OwnerError> {
        let unknown = || OwnerError::Unknown(user.to_owned());
        let line = line.lines().next().ok_or_else(unknown)?;
        let fields: Vec<&str> = line.split(':').collect();
        let &[name, _, uid, gid, _, home, ..] = fields.as_slice() else {
            return Err(unknown());
        };
        let owner = Self {
            name: name.to_owned(),
            uid: uid.parse().map_err(|_| unknown())?,
            gid: gid.parse().map_err(|_| unknown())?,
            home: home.into(),
        };
        owner.check()?;
        Ok(owner)
    }

    fn check(&self) -> Result<(), OwnerError> {
        if self.uid == 0 {
            return Err(OwnerError::Root);
        }
        if VMM_UIDS.contains(&self.uid) {
            return Err(OwnerError::VmmRange {
                name: self.name.clone(),
                uid: self.uid,
            });
        }
        if !is_plain(Path::new(&self.name)) {
            return Err(OwnerError::Unprintable {
                what: "user name",
                value: self.name.clone(),
            });
        }
        if !self.home.is_absolute() || !is_plain(&self.home) {
            return Err(OwnerError::Unprintable {
                what: "home",
                value: self.home.display().to_string(),
            });
        }
        Ok(())
    }
}

/// Whether a path means itself in a unit file: no blanks, quotes, `%`, `$` or control bytes.
pub(crate) fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+@~".contains(b);
    !bytes.is_empty() && bytes.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_user_database_is_read() {
        let owner = Owner::parse("alice", "alice:x:1000:1001:Alice,,,:/home/alice:/bin/sh\n");
        let owner = owner.unwrap();
        assert_eq!((owner.uid, owner.gid), (1000, 1001));
        assert_eq!(owner.home, Path::new("/home/alice"));
    }

    #[test]
    fn who_cannot_be_the_owner() {
        let of = |line: &str| Owner::parse("u", line).unwrap_err();
        assert_eq!(of("root:x:0:0::/root:/bin/sh"), OwnerError::Root);
        assert!(matches!(
            of("v:x:880001:1::/h:/x"),
            OwnerError::VmmRange { .. }
        ));
        assert!(matches!(
            of("u:x:7:7::h:/x"),
            OwnerError::Unprintable { .. }
        ));
        assert!(matches!(
            of("u:x:7:7::/h%n:/x"),
            OwnerError::Unprintable { .. }
        ));
        assert!(matches!(of("nonsense"), OwnerError::Unknown(_)));
    }

    #[test]
    fn this_hosts_own_users_are_known() {
        assert_eq!(Owner::find("root"), Err(OwnerError::Root));
        let nobody = "no-such-user-here";
        assert_eq!(
            Owner::find(nobody),
            Err(OwnerError::Unknown(nobody.to_owned()))
        );
    }
}
