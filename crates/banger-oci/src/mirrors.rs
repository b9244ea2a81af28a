//! Where a registry's images are really fetched from: mirrors and other addresses, by the files in which Podman and
//! its like are told of them (containers-registries.conf(5), version 2).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use banger_core::{ImageRef, RegistryRef};
use serde::Deserialize;

use crate::error::{Context, MalformedError, PullError};

/// A file has no more than this.
const FILE_MAX: u64 = 1 << 20;

/// What is known of registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    entries: Vec<Entry>,
}

/// A place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The image as this place calls it.
    pub(crate) reference: RegistryRef,
    /// It may speak plain HTTP.
    pub(crate) insecure: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    registry: Vec<Entry>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    All,
    DigestOnly,
    TagOnly,
}

impl Registries {
    /// What the usual files say: the user's `containers/registries.conf`, else the machine's, and what lies in the
    /// folders `registries.conf.d` of both. `$CONTAINERS_REGISTRIES_CONF` goes before all.
    ///
    /// # Errors
    /// One that is there cannot be read, or is malformed: to go on without it could mean asking the wrong place.
    pub fn usual(environment: impl Fn(&str) -> Option<String>) -> Result<Self, PullError> {
        if let Some(file) = environment("CONTAINERS_REGISTRIES_CONF") {
            return Self::load(&[PathBuf::from(file)]);
        }
        let machine = Path::new("/etc/containers");
        let user = match environment("XDG_CONFIG_HOME") {
            Some(config) => Some(Path::new(&config).join("containers")),
            None => environment("HOME").map(|home| Path::new(&home).join(".config/containers")),
        };
        let folders = [Some(machine.to_owned()), user];
        let folders: Vec<PathBuf> = folders.into_iter().flatten().collect();
        let main = folders.iter().rev().map(|it| it.join("registries.conf"));
        let mut files: Vec<PathBuf> = main.filter(|path| path.exists()).take(1).collect();
        for folder in &folders {
            files.extend(drop_ins(&folder.join("registries.conf.d"))?);
        }
        Self::load(&files)
    }

    /// What these files say; what a later one says of a prefix goes before.
    ///
    /// # Errors
    /// See [`Registries::usual`].
    pub fn load(files: &[PathBuf]) -> Result<Self, PullError> {
        let mut all = Self::default();
        for path in files {
            let found = fs::metadata(path).context("read", path)?;
            let malformed = |what: String| PullError::Malformed {
                image: path.display().to_string(),
                source: MalformedError::new(what),
            };
            if found.len() > FILE_MAX {
                return Err(malformed(format!("it has {} bytes", found.len())));
            }
            let text = fs::read_to_string(path).context("read", path)?;
            let file: File = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
            for mut entry in file.registry {
                if entry.prefix.is_empty() {
                    entry.prefix.clone_from(&entry.location);
                }
                if entry.prefix.is_empty() {
                    let what = "a [[registry]] has neither prefix nor location";
                    return Err(malformed(what.to_owned()));
                }
                all.entries.retain(|known| known.prefix != entry.prefix);
                all.entries.push(entry);
            }
        }
        Ok(all)
    }

    /// Where to ask for an image, in this order.
    ///
    /// # Errors
    /// The registry is blocked, or a location makes no reference.
    pub(crate) fn endpoints(&self, image: &RegistryRef) -> Result<Vec<Endpoint>, PullError> {
        let name = format!("{}/{}", image.host(), image.repository());
        let fitting = self.entries.iter().filter(|entry| entry.fits(&name));
        let Some(entry) = fitting.max_by_key(|entry| entry.prefix.len()) else {
            return Ok(vec![Endpoint {
                reference: image.clone(),
                insecure: false,
            }]);
        };
        if entry.blocked {
            return Err(PullError::Blocked {
                prefix: entry.prefix.clone(),
            });
        }
        let by_digest = image.digest().is_some();
        let mirrors = entry.mirror.iter().filter(|mirror| {
            let kind = mirror.pull_from_mirror;
            let only = entry.mirror_by_digest_only || kind == Some(Kind::DigestOnly);
            (by_digest || !only) && !(by_digest && kind == Some(Kind::TagOnly))
        });
        let mut endpoints = vec![];
        for mirror in mirrors {
            endpoints.push(Endpoint {
                reference: entry.moved(image, &name, &mirror.location)?,
                insecure: mirror.insecure,
            });
        }
        let own = if entry.location.is_empty() {
            image.clone()
        } else {
            entry.moved(image, &name, &entry.location)?
        };
        endpoints.push(Endpoint {
            reference: own,
            insecure: entry.insecure,
        });
        Ok(endpoints)
    }
}

impl Entry {
    /// Whether this is about images of that name, `HOST/REPOSITORY`.
    fn fits(&self, name: &str) -> bool {
        if let Some(domain) = self.prefix.strip_prefix("*.") {
            let host = name.split('/').next().unwrap_or_default();
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            return host
                .strip_suffix(domain)
                .is_some_and(|it| it.ends_with('.'));
        }
        let rest = name.strip_prefix(self.prefix.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The image below another location than the prefix.
    fn moved(
        &self,
        image: &RegistryRef,
        name: &str,
        location: &str,
    ) -> Result<RegistryRef, PullError> {
        let rest = match self.prefix.starts_with("*.") {
            true => name.find('/').map_or("", |at| &name[at..]),
            false => &name[self.prefix.len()..],
        };
        let mut text = format!("docker://{location}{rest}");
        if let Some(tag) = image.tag() {
            text += &format!(":{tag}");
        }
        if let Some(digest) = image.digest() {
            text += &format!("@sha256:{digest}");
        }
        match text.parse() {
            Ok(ImageRef::Registry(moved)) => Ok(moved),
            _ => Err(PullError::Malformed {
                image: format!("registries.conf's location `{location}`"),
                source: MalformedError::new(format!("`{text}` is no image in a registry")),
            }),
        }
    }
}

/// The files of such a folder, in their order.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, PullError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).context("read", folder),
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "conf"))
        .collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str) -> Registries {
        loaded(text).unwrap()
    }

    fn loaded(text: &str) -> Result<Registries, PullError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.conf");
        fs::write(&path, text).unwrap();
        Registries::load(&[path])
    }

    fn asked(registries: &Registries, image: &str) -> Vec<String> {
        let ImageRef::Registry(image) = image.parse().unwrap() else {
            panic!("{image}");
        };
        let endpoints = registries.endpoints(&image).unwrap();
        let text = |endpoint: Endpoint| {
            let image = ImageRef::Registry(endpoint.reference).to_string();
            format!("{image}{}", if endpoint.insecure { " plain" } else { "" })
        };
        endpoints.into_iter().map(text).collect()
    }

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn mirrors_come_before_the_registry_and_the_longest_prefix_counts() {
        let registries = known(
            r#"
            unqualified-search-registries = ["example.org"]
            [[registry]]
            location = "example.org"
            [[registry.mirror]]
            location = "mirror.test:5000/all"
            insecure = true
            [[registry]]
            prefix = "example.org/team"
            location = "other.test/moved"
            "#,
        );
        assert_eq!(
            asked(&registries, "example.org/a/b:1"),
            ["mirror.test:5000/all/a/b:1 plain", "example.org/a/b:1"]
        );
        assert_eq!(
            asked(&registries, "example.org/team/x:2"),
            ["other.test/moved/x:2"]
        );
        assert_eq!(
            asked(&registries, "example.org/teams/x:2"),
            [
                "mirror.test:5000/all/teams/x:2 plain",
                "example.org/teams/x:2"
            ]
        );
        assert_eq!(asked(&registries, "example.net/a:1"), ["example.net/a:1"]);
    }

    #[test]
    fn docker_hub_has_mirrors_too_and_a_star_is_for_all_hosts_of_a_domain() {
        let registries = known(
            r#"
            [[registry]]
            prefix = "docker.io"
            location = "docker.io"
            [[registry.mirror]]
            location = "hub.test"
            [[registry]]
            prefix = "*.example.org"
            location = "cache.test/x"
            "#,
        );
        assert_eq!(
            asked(&registries, "debian:12"),
            ["hub.test/library/debian:12", "docker.io/library/debian:12"]
        );
        assert_eq!(
            asked(&registries, "a.example.org:99/b:1"),
            ["cache.test/x/b:1"]
        );
        assert_eq!(asked(&registries, "example.org/b:1"), ["example.org/b:1"]);
    }

    #[test]
    fn some_mirrors_are_for_digests_or_tags_alone() {
        let registries = known(
            r#"
            [[registry]]
            location = "example.org"
            [[registry.mirror]]
            location = "digests.test"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tags.test"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "example.net"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "digests.test"
            "#,
        );
        let by_digest = |host: &str| format!("{host}/a@{DIGEST}");
        assert_eq!(
            asked(&registries, "example.org/a:1"),
            ["tags.test/a:1", "example.org/a:1"]
        );
        assert_eq!(
            asked(&registries, &by_digest("example.org")),
            [by_digest("digests.test"), by_digest("example.org")]
        );
        assert_eq!(asked(&registries, "example.net/a:1"), ["example.net/a:1"]);
        assert_eq!(
            asked(&registries, &by_digest("example.net")),
            [by_digest("digests.test"), by_digest("example.net")]
        );
    }

    #[test]
    fn what_is_blocked_or_makes_no_sense_is_refused() {
        let blocked = known("[[registry]]\nprefix = \"example.org\"\nblocked = true\n");
        let ImageRef::Registry(image) = "example.org/a:1".parse().unwrap() else {
            panic!();
        };
        let error = blocked.endpoints(&image).unwrap_err().to_string();
        assert_eq!(error, "`example.org` is blocked in registries.conf");
        for text in [
            "[[registry]]\ninsecure = true\n",
            "[[registry]\n",
            "registry = 1",
        ] {
            let error = loaded(text).unwrap_err();
            assert!(
                matches!(error, PullError::Malformed { .. }),
                "{text}: {error}"
            );
        }
        let strange = known("[[registry]]\nprefix = \"example.org\"\nlocation = \"a b\"\n");
        assert!(strange.endpoints(&image).is_err());
    }

    #[test]
    fn the_users_file_goes_before_the_machines_and_drop_ins_are_added() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("containers");
        fs::create_dir_all(folder.join("registries.conf.d")).unwrap();
        let entry = |host: &str, to: &str| {
            format!("[[registry]]\nprefix = \"{host}\"\nlocation = \"{to}\"\n")
        };
        let main = entry("a.test", "1.test") + &entry("b.test", "2.test");
        fs::write(folder.join("registries.conf"), main).unwrap();
        let drop_in = folder.join("registries.conf.d/10.conf");
        fs::write(drop_in, entry("b.test", "3.test")).unwrap();
        fs::write(folder.join("registries.conf.d/README"), "no").unwrap();
        let config = home.path().to_str().unwrap().to_owned();
        let environment = |name: &str| (name == "XDG_CONFIG_HOME").then(|| config.clone());
        let registries = Registries::usual(environment).unwrap();
        assert_eq!(asked(&registries, "a.test/x:1"), ["1.test/x:1"]);
        assert_eq!(asked(&registries, "b.test/x:1"), ["3.test/x:1"]);
    }
}
