//! Looking for traces of the build host in an image's tree.

use std::fs;
use std::path::Path;

/// What of the host must not be in an image.
#[derive(Debug, Clone, Default)]
pub struct HostTraces {
    /// Texts that may stand in no configuration file: the host's name, its machine-id, proxies.
    pub texts: Vec<String>,
}

impl HostTraces {
    /// This host's.
    #[must_use]
    pub fn of_this_host() -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let mut texts = vec![read("/etc/hostname"), read("/etc/machine-id")];
        let proxies = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"];
        texts.extend(proxies.iter().filter_map(|name| std::env::var(name).ok()));
        // Short or common names would be found everywhere.
        texts.retain(|text| {
            text.len() >= 6 && text != "localhost" && !text.eq_ignore_ascii_case("debian")
        });
        Self { texts }
    }
}

/// What of the host is in this tree, for people. Empty: nothing.
#[must_use]
pub fn leaks(tree: &Path, host: &HostTraces) -> Vec<String> {
    let mut found = Vec::new();
    for absent in [
        "etc/resolv.conf",
        "etc/hostname",
        "root/.ssh",
        "etc/apt/apt.conf",
    ] {
        if tree.join(absent).symlink_metadata().is_ok() {
            found.push(format!("/{absent} exists"));
        }
    }
    if fs::metadata(tree.join("etc/machine-id")).is_ok_and(|metadata| metadata.len() > 0) {
        found.push("/etc/machine-id is not empty".to_owned());
    }
    let keys = fs::read_dir(tree.join("etc/ssh"))
        .into_iter()
        .flatten()
        .flatten();
    for key in keys.filter(|entry| entry.file_name().to_string_lossy().starts_with("ssh_host_")) {
        found.push(format!("{} is an ssh host key", key.path().display()));
    }
    search(&tree.join("etc"), &host.texts, &mut found);
    search(&tree.join("root"), &host.texts, &mut found);
    found
}

fn search(folder: &Path, texts: &[String], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            search(&entry.path(), texts, found);
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(entry.path())
        {
            let content = String::from_utf8_lossy(&bytes);
            if texts.iter().any(|text| content.contains(text.as_str())) {
                found.push(format!("{} names the build host", entry.path().display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trace_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["etc/ssh", "etc/conf.d", "root/.ssh"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("etc/resolv.conf"), "nameserver 10.0.0.1").unwrap();
        fs::write(dir.path().join("etc/machine-id"), "0123").unwrap();
        fs::write(dir.path().join("etc/ssh/ssh_host_ed25519_key"), "key").unwrap();
        fs::write(
            dir.path().join("etc/conf.d/proxy"),
            "Proxy http://build-proxy:3128",
        )
        .unwrap();
        let host = HostTraces {
            texts: vec!["build-proxy".into()],
        };
        assert_eq!(leaks(dir.path(), &host).len(), 5);
        assert!(leaks(&dir.path().join("root"), &host).is_empty());
    }
}
