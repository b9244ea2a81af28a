//! How an image wants to be run, as it changes from instruction to instruction.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    pub cmd: Vec<String>,
    /// Environment, each name once.
    pub env: Vec<(String, String)>,
    /// User, or user and group; empty is root.
    pub user: String,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// Ports, `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Signal that ends it.
    pub stop_signal: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Folders whose content is data. Only noted: a VM's disks keep everything.
    pub volumes: Vec<String>,
}

impl Config {
    /// Sets a variable of the environment.
    pub fn set_env(&mut self, name: &str, value: String) {
        match self.env.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.env.push((name.to_owned(), value)),
        }
    }

    /// The folder in which programs start.
    #[must_use]
    pub fn folder(&self) -> &str {
        match self.working_dir.as_str() {
            "" => "/",
            folder => folder,
        }
    }
}

/// Joins a path to the folder that it is relative to, and takes `.`, `..` and double slashes out of it. A slash at its
/// end stays.
#[must_use]
pub fn absolute(folder: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{folder}/{path}")
    };
    let mut names: Vec<&str> = vec![];
    for name in joined.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let is_folder = path.ends_with('/') || path.ends_with("/.") || path == ".";
    let slash = if is_folder && !names.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_never_leave_the_root() {
        for (folder, path, whole) in [
            ("/", "a", "/a"),
            ("/app", "src/", "/app/src/"),
            ("/app", ".", "/app/"),
            ("/app", "/etc//x", "/etc/x"),
            ("/app", "../../../etc", "/etc"),
            ("/", ".", "/"),
            ("/app", "/", "/"),
        ] {
            assert_eq!(absolute(folder, path), whole, "{folder} {path}");
        }
    }

    #[test]
    fn a_variable_is_there_once() {
        let mut config = Config::default();
        config.set_env("A", "1".into());
        config.set_env("A", "2".into());
        assert_eq!(config.env, [("A".to_owned(), "2".to_owned())]);
    }
}
