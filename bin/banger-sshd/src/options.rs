//! What `serve` is told. In a guest it is told nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Where keys are, and how long a client may take to show one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// The guest's host key: banger writes it at each boot, and the host knows its public half.
    pub(crate) host_key: PathBuf,
    /// Who may log in.
    pub(crate) authorized_keys: PathBuf,
    /// From the start until a client has proved its key.
    pub(crate) login_grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host_key: "/etc/ssh/ssh_host_ed25519_key".into(),
            authorized_keys: "/root/.ssh/authorized_keys".into(),
            login_grace: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// From `--host-key FILE`, `--authorized-keys FILE`, `--login-grace SECONDS`.
    ///
    /// # Errors
    /// A sentence about what is no option.
    pub(crate) fn parse(words: &[OsString]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || {
                let missing = || format!("`{}` takes a value", word.display());
                words.next().ok_or_else(missing)
            };
            match word.to_str() {
                Some("--host-key") => options.host_key = value()?.into(),
                Some("--authorized-keys") => options.authorized_keys = value()?.into(),
                Some("--login-grace") => {
                    let seconds = value()?.to_str().and_then(|text| text.parse().ok());
                    let seconds = seconds.filter(|seconds: &u64| *seconds > 0);
                    let seconds = seconds.ok_or("--login-grace takes seconds, at least 1")?;
                    options.login_grace = Duration::from_secs(seconds);
                }
                _ => return Err(format!("`{}` is no option of `serve`", word.display())),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Options::parse(&words)
    }

    #[test]
    fn options_have_values_and_unknown_ones_are_refused() {
        assert_eq!(parse(&[]).unwrap(), Options::default());
        let some = parse(&["--login-grace", "3", "--host-key", "/k"]).unwrap();
        assert_eq!(some.login_grace, Duration::from_secs(3));
        assert_eq!(some.host_key, PathBuf::from("/k"));
        for bad in [&["--host-key"][..], &["x"], &["--login-grace", "0"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
