//! `[[file_sync]]`: what guests get of the owner's files. Paths are checked when the configuration is read.
//! Pure.

use std::path::{Component, Path, PathBuf};

use banger_guest_proto::RelPath;
use serde::Deserialize;

/// An entry as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSync {
    pub(crate) host: String,
    pub(crate) guest: String,
    pub(crate) mode: Option<String>,
}

/// An entry that can be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncedPath {
    /// Below the owner's home.
    pub(crate) host: PathBuf,
    /// Below the guest's `/root`.
    pub(crate) guest: RelPath,
    /// Permissions of its files.
    pub(crate) mode: Option<u32>,
}

impl FileSync {
    /// Checks the entry. The home is the owner's.
    ///
    /// # Errors
    /// Which key is wrong, and why.
    pub(crate) fn check(&self, home: &Path) -> Result<SyncedPath, (&'static str, String)> {
        let host = below(&self.host, home).ok_or_else(|| {
            let home = home.display();
            let what = format!("{:?} is not below your home ({home})", self.host);
            ("host", format!("{what}; write it like \"~/.gitconfig\""))
        })?;
        let guest = below(&self.guest, Path::new("/root"))
            .and_then(|path| RelPath::new(path.into_os_string().into_encoded_bytes()).ok())
            .ok_or_else(|| {
                let what = format!("{:?} is not below the guest's /root", self.guest);
                ("guest", format!("{what}; write it like \"~/.gitconfig\""))
            })?;
        let mode = self.mode.as_deref().map(mode).transpose();
        Ok(SyncedPath {
            host: home.join(host),
            guest,
            mode: mode.map_err(|what| ("mode", what))?,
        })
    }
}

/// The rest of a path that begins with `~/` or with the home itself. A path with `..` can lead anywhere.
fn below(text: &str, home: &Path) -> Option<PathBuf> {
    let path = match text.strip_prefix("~/") {
        Some(rest) => Path::new(rest),
        None => Path::new(text).strip_prefix(home).ok()?,
    };
    let mut rest = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => rest.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!rest.as_os_str().is_empty()).then_some(rest)
}

fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| is_octal);
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("{text:?} are no permissions; write them like \"0644\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn checked(host: &str, guest: &str, mode: Option<&str>) -> Result<SyncedPath, &'static str> {
        let entry = FileSync {
            host: host.to_owned(),
            guest: guest.to_owned(),
            mode: mode.map(str::to_owned),
        };
        entry.check(Path::new("/home/me")).map_err(|(key, _)| key)
    }

    #[test]
    fn homes_are_the_owners_and_the_guests() {
        let found = checked("~/.gitconfig", "~/.gitconfig", Some("0644")).unwrap();
        assert_eq!(found.host, Path::new("/home/me/.gitconfig"));
        assert_eq!(found.guest.as_bytes(), b".gitconfig");
        assert_eq!(found.mode, Some(0o644));
        let same = checked("/home/me/./a//b", "/root/a/b/", None).unwrap();
        assert_eq!(same.host, Path::new("/home/me/a/b"));
        assert_eq!(same.guest.as_bytes(), b"a/b");
    }

    #[test]
    fn what_lies_elsewhere_is_refused() {
        for bad in [
            "",
            "~",
            "~/",
            "~/.",
            "a",
            "~x/a",
            "~/../b",
            "~/a/../../b",
            "/etc/passwd",
            "/home/me",
            "/home/mee/a",
            "~//etc",
        ] {
            assert_eq!(checked(bad, "~/a", None), Err("host"), "{bad}");
        }
        for bad in [
            "",
            "~",
            "/etc/a",
            "/root",
            "/rooted/a",
            "~/../etc/a",
            "/root/../etc",
            "a",
        ] {
            assert_eq!(checked("~/a", bad, None), Err("guest"), "{bad}");
        }
        for bad in [
            "", "7", "64", "888", "1777", "0o", "-644", "+644", "u+x", "06444",
        ] {
            assert_eq!(checked("~/a", "~/a", Some(bad)), Err("mode"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_leads_out_of_a_home(text in "[~./a-c]{0,20}") {
            if let Ok(found) = checked(&text, &text, None) {
                prop_assert!(found.host.starts_with("/home/me"));
                prop_assert!(!found.host.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
