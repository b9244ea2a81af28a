//! Credentials, from the files that Docker and Podman keep them in, and from their helper programs.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Context, MalformedError, PullError};

/// How Docker calls its own registry in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// A helper's user name when its secret is a token for getting tokens.
const TOKEN_USER: &str = "<token>";

/// What a registry is told.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// User and password.
    Basic { user: String, password: String },
    /// A token for getting tokens.
    Refresh(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// Where credentials are looked for: the first file that knows the registry counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthFiles {
    files: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperReply {
    username: String,
    secret: String,
}

impl AuthFiles {
    /// The usual files, by the environment: `$REGISTRY_AUTH_FILE`, Podman's two, Docker's.
    #[must_use]
    pub fn usual(environment: impl Fn(&str) -> Option<String>) -> Self {
        let under = |variable: &str, path: &str| {
            environment(variable).map(|base| Path::new(&base).join(path))
        };
        let files = [
            environment("REGISTRY_AUTH_FILE").map(PathBuf::from),
            under("XDG_RUNTIME_DIR", "containers/auth.json"),
            under("XDG_CONFIG_HOME", "containers/auth.json")
                .or_else(|| under("HOME", ".config/containers/auth.json")),
            under("DOCKER_CONFIG", "config.json").or_else(|| under("HOME", ".docker/config.json")),
        ];
        Self {
            files: files.into_iter().flatten().collect(),
        }
    }

    /// These files.
    #[must_use]
    pub fn at(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// What is known for a repository of a registry.
    pub(crate) fn find(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credentials>, PullError> {
        for path in &self.files {
            let text = match std::fs::read(path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).context("read", path),
            };
            let refused = |source| PullError::Credentials {
                path: path.clone(),
                source,
            };
            let file: AuthFile = serde_json::from_slice(&text).map_err(|error| {
                refused(MalformedError::new(format!("it is malformed: {error}")))
            })?;
            if let Some(found) = file.find(host, repository).map_err(refused)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl AuthFile {
    fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>, MalformedError> {
        let keys = keys(host, repository);
        let server = if host == banger_core::DEFAULT_REGISTRY {
            DOCKER_HUB
        } else {
            host
        };
        if let Some(helper) = keys.iter().find_map(|key| self.cred_helpers.get(key)) {
            return ask(helper, server);
        }
        if let Some(found) = keys.iter().find_map(|key| self.auths.get(key))
            && let Some(credentials) = found.credentials()?
        {
            return Ok(Some(credentials));
        }
        match &self.creds_store {
            Some(helper) => ask(helper, server),
            None => Ok(None),
        }
    }
}

/// The names that a registry may have in these files, the narrowest first.
fn keys(host: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = Some(repository);
    while let Some(prefix) = path {
        keys.push(format!("{host}/{prefix}"));
        path = prefix.rsplit_once('/').map(|(outer, _)| outer);
    }
    keys.push(host.to_owned());
    for scheme in ["https", "http"] {
        for end in ["", "/", "/v1/", "/v2/"] {
            keys.push(format!("{scheme}://{host}{end}"));
        }
    }
    if host == banger_core::DEFAULT_REGISTRY {
        keys.extend([DOCKER_HUB.to_owned(), "index.docker.io".to_owned()]);
    }
    keys
}

impl Auth {
    fn credentials(&self) -> Result<Option<Credentials>, MalformedError> {
        if let Some(token) = self
            .identitytoken
            .as_ref()
            .filter(|token| !token.is_empty())
        {
            return Ok(Some(Credentials::Refresh(token.clone())));
        }
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            let (user, password) = (user.clone(), password.clone());
            return Ok(Some(Credentials::Basic { user, password }));
        }
        let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) else {
            return Ok(None);
        };
        let decoded = decode(auth).and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) = decoded
            .as_deref()
            .and_then(|text| text.trim_end_matches('\0').split_once(':'))
            .ok_or_else(|| MalformedError::new("an entry is not `user:password` in base64"))?;
        Ok(Some(Credentials::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text.trim())
        .ok()
}

/// Asks a helper program: `docker-credential-NAME get`, the server on its input.
fn ask(helper: &str, server: &str) -> Result<Option<Credentials>, MalformedError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if helper.is_empty() || !helper.bytes().all(is_plain) {
        return Err(MalformedError::new("a helper's name is malformed"));
    }
    ask_program(&format!("docker-credential-{helper}"), server)
}

fn ask_program(program: &str, server: &str) -> Result<Option<Credentials>, MalformedError> {
    let failed = |why: String| MalformedError::new(format!("`{program} get` failed: {why}"));
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read it says why itself.
        let _ = input.write_all(server.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(said.trim().chars().take(200).collect()));
    }
    let reply: HelperReply = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its answer is malformed".to_owned()))?;
    Ok(Some(if reply.username == TOKEN_USER {
        Credentials::Refresh(reply.secret)
    } else {
        Credentials::Basic {
            user: reply.username,
            password: reply.secret,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_told_the_server_and_its_answer_is_not_believed_blindly() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let asked = |script: &str| {
            let path = dir.path().join("docker-credential-test");
            let next = dir.path().join("next");
            std::fs::write(&next, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(&next, &path).unwrap();
            ask_program(path.to_str().unwrap(), "example.org:5000").map_err(|it| it.to_string())
        };
        let answer = r#"[ "$1" = get ] && printf '{"Username":"me","Secret":"for %s"}' "$(cat)""#;
        let expected = Credentials::Basic {
            user: "me".into(),
            password: "for example.org:5000".into(),
        };
        assert_eq!(asked(answer), Ok(Some(expected)));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(asked(token), Ok(Some(Credentials::Refresh("t".into()))));
        let unknown = "echo credentials not found in native keychain; exit 1";
        assert_eq!(asked(unknown), Ok(None));
        assert!(
            asked("echo no bus; exit 1")
                .unwrap_err()
                .ends_with("no bus")
        );
        assert!(asked("echo me secret").unwrap_err().ends_with("malformed"));
        assert!(asked("exit 0").unwrap_err().ends_with("malformed"));
    }

    fn found(text: &str, host: &str, repository: &str) -> Option<Credentials> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, text).unwrap();
        let files = AuthFiles::at(vec![dir.path().join("absent"), path]);
        files.find(host, repository).unwrap()
    }

    fn basic(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    #[test]
    fn the_narrowest_entry_counts() {
        let text = r#"{"auths":{"h:5":{"auth":"YTpi"},"h:5/team":{"auth":"Yzpk"},"https://index.docker.io/v1/":{"auth":"ZTpm"},"t":{"identitytoken":"tok"}}}"#;
        assert_eq!(found(text, "h:5", "x"), basic("a", "b"));
        assert_eq!(found(text, "h:5", "team/x"), basic("c", "d"));
        assert_eq!(found(text, "docker.io", "library/x"), basic("e", "f"));
        assert_eq!(
            found(text, "t", "x"),
            Some(Credentials::Refresh("tok".to_owned()))
        );
        assert_eq!(found(text, "other", "x"), None);
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        for bad in [
            "{",
            r#"{"auths":{"h":{"auth":"%%%"}}}"#,
            r#"{"credHelpers":{"h":"../x"}}"#,
            r#"{"credHelpers":{"h":"no-such-helper-anywhere"}}"#,
        ] {
            std::fs::write(&path, bad).unwrap();
            let files = AuthFiles::at(vec![path.clone()]);
            assert!(
                matches!(files.find("h", "x"), Err(PullError::Credentials { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_usual_files_follow_the_environment() {
        let usual = AuthFiles::usual(|name| (name == "HOME").then(|| "/home/me".to_owned()));
        let paths = [
            "/home/me/.config/containers/auth.json",
            "/home/me/.docker/config.json",
        ];
        assert_eq!(usual.files, paths.map(PathBuf::from));
    }
}
