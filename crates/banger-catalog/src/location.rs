//! Where a catalog is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use banger_core::ImageRef;
use serde::Deserialize;

/// A folder, or a folder on a server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Location {
    /// An absolute path; one that begins with `~/` is below the owner's home.
    Folder(PathBuf),
    /// An address that begins with `https://`, or with `http://` on this machine, without a slash at the end.
    Server(String),
}

/// Why a text is no place of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no place of a catalog: {why}")]
pub struct ParseLocationError {
    given: String,
    why: &'static str,
}

impl Location {
    /// The same, with the owner's home in the place of `~`.
    #[must_use]
    pub fn below(self, home: &Path) -> Self {
        match self {
            Self::Folder(path) => match path.strip_prefix("~") {
                Ok(rest) => Self::Folder(home.join(rest)),
                Err(_) => Self::Folder(path),
            },
            server => server,
        }
    }
}

impl FromStr for Location {
    type Err = ParseLocationError;

    fn from_str(text: &str) -> Result<Self, ParseLocationError> {
        let refuse = |why| {
            let given = text.chars().take(120).flat_map(char::escape_debug);
            let given = given.collect();
            Err(ParseLocationError { given, why })
        };
        if text.chars().any(|c| c.is_control() || c == ' ') && text.contains("://") {
            return refuse("an address has neither spaces nor control characters");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.starts_with('/') || text.starts_with("~/") {
                Ok(Self::Folder(text.into()))
            } else {
                refuse("write an absolute path, or an address that begins with https://")
            };
        };
        let host = rest.split('/').next().unwrap_or_default();
        if rest.contains(['?', '#', '@', '\\', '%']) || rest.split('/').any(|part| part == "..") {
            return refuse("its address has parts that an address of a folder does not have");
        }
        // The rules for hosts are those of registries, which are told from other words by their ports.
        let has_port = !host.ends_with(']') && host.contains(':');
        let host = if has_port {
            host.to_owned()
        } else {
            format!("{host}:443")
        };
        let reference = format!("{host}/x").parse();
        let Ok(ImageRef::Registry(server)) = reference else {
            return refuse("its host's name is malformed");
        };
        match scheme {
            _ if server.host() != host => refuse("its host's name is malformed"),
            "https" => Ok(Self::Server(text.trim_end_matches('/').to_owned())),
            "http" if server.is_loopback() => {
                Ok(Self::Server(text.trim_end_matches('/').to_owned()))
            }
            "http" => refuse("plain HTTP is for this machine only; elsewhere it is https://"),
            _ => refuse("it is neither a path nor an address that begins with https://"),
        }
    }
}

impl TryFrom<String> for Location {
    type Error = ParseLocationError;

    fn try_from(text: String) -> Result<Self, ParseLocationError> {
        text.parse()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Server(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn folders_and_servers() {
        let home = Path::new("/home/me");
        for (text, expected) in [
            ("/srv/catalog", Location::Folder("/srv/catalog".into())),
            ("~/c", Location::Folder("/home/me/c".into())),
            (
                "https://images.example/c/",
                Location::Server("https://images.example/c".into()),
            ),
            (
                "https://images.example:8443",
                Location::Server("https://images.example:8443".into()),
            ),
            (
                "http://127.0.0.1:8000/c",
                Location::Server("http://127.0.0.1:8000/c".into()),
            ),
            ("https://lan/c", Location::Server("https://lan/c".into())),
            ("http://[::1]/", Location::Server("http://[::1]".into())),
            (
                "http://localhost/c",
                Location::Server("http://localhost/c".into()),
            ),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.below(home), expected, "{text}");
        }
        for bad in [
            "",
            "catalog",
            "./c",
            "http://images.example/c",
            "http://127.0.0.1.images.example/",
            "http://127.0.0.1@images.example/",
            "https://",
            "https:///c",
            "https://user:word@images.example/c",
            "https://images.example/../c",
            "https://images.example/c?a=b",
            "https://images example/",
            "ftp://images.example/",
            "file:///srv",
            "https://:80/c",
        ] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = text.parse::<Location>();
            let _ = format!("https://{text}").parse::<Location>();
        }
    }
}
