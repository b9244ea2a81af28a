//! `--env` and `--env-file`: variables for a command in a guest, or for a whole VM. Their values go to the guest's agent over
//! vsock and nowhere else: not to the daemon, its log or its database, nor onto a command line.

use std::path::{Path, PathBuf};

use banger_core::ErrorCode;
use clap::Args;

use crate::error::CommandError;

/// The longest file of variables, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The flags.
#[derive(Clone, Default, Args)]
pub(crate) struct EnvFlags {
    /// Environment variable in the guest: K=V, or K to pass on this one's (which keeps the value off the command line).
    #[arg(short, long, value_name = "K[=V]")]
    env: Vec<String>,
    /// File of such variables, one a line; # begins a comment. --env goes before it.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

/// Values may be secrets: names only.
impl std::fmt::Debug for EnvFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
        let names: Vec<String> = self.env.iter().map(name).collect();
        let mut shown = f.debug_struct("EnvFlags");
        shown
            .field("env", &names)
            .field("env_file", &self.env_file)
            .finish()
    }
}

impl EnvFlags {
    /// Whether there are no such flags.
    pub(crate) fn is_empty(&self) -> bool {
        self.env.is_empty() && self.env_file.is_empty()
    }

    /// Every variable; the later of two with one name counts.
    pub(crate) fn variables(&self) -> Result<Vec<(String, String)>, CommandError> {
        let here = |name: &str| std::env::var(name).ok();
        let mut all = vec![];
        for path in &self.env_file {
            let text = read(path)?;
            let parsed = parse(&text, here);
            all.extend(parsed.map_err(|what| invalid(format!("{}, {what}", path.display())))?);
        }
        for entry in &self.env {
            // The value is not repeated: what is wrong is in the name.
            let variable = variable(entry, here);
            all.push(variable.map_err(|what| invalid(format!("--env: {what}")))?);
        }
        Ok(all)
    }
}

fn invalid(what: String) -> CommandError {
    CommandError::new(ErrorCode::InvalidArgument, what)
}

fn read(path: &Path) -> Result<String, CommandError> {
    use std::io::Read;
    let failed = |error: &std::io::Error| {
        let what = format!("the file {} cannot be read", path.display());
        CommandError::because(ErrorCode::InvalidArgument, what, error)
    };
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = vec![];
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed(&error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(invalid(format!(
            "{}: more than 1 MiB of variables",
            path.display()
        )));
    }
    String::from_utf8(bytes)
        .map_err(|_| invalid(format!("{}: it is not UTF-8 text", path.display())))
}

/// The variables in a file's text.
fn parse(
    text: &str,
    here: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, String> {
    let mut all = vec![];
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let variable = variable(line, &here);
        all.push(variable.map_err(|what| format!("line {}: {what}", at + 1))?);
    }
    Ok(all)
}

/// `K=V`, or `K` for what this process has under that name.
fn variable(
    entry: &str,
    here: impl Fn(&str) -> Option<String>,
) -> Result<(String, String), String> {
    let (name, value) = match entry.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (entry.trim_end(), None),
    };
    let shown: String = name
        .chars()
        .take(60)
        .flat_map(char::escape_default)
        .collect();
    if name.is_empty() {
        return Err("there is no name before the =".to_owned());
    }
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("`{shown}` is no variable's name"));
    }
    if value.is_some_and(|value| value.contains('\0')) {
        return Err(format!("the value of `{shown}` has a zero byte"));
    }
    match value {
        Some(value) => Ok((name.to_owned(), value.to_owned())),
        None => match here(name) {
            Some(value) => Ok((name.to_owned(), value)),
            None => Err(format!(
                "`{shown}` is not set here; give it a value with {shown}=…"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(name: &str) -> Option<String> {
        (name == "TOKEN").then(|| "s3cret".to_owned())
    }

    #[test]
    fn an_entry_names_a_variable() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(variable("A=b=c", here), pair("A", "b=c"));
        assert_eq!(variable("A=", here), pair("A", ""));
        assert_eq!(variable("TOKEN", here), pair("TOKEN", "s3cret"));
        for bad in ["=b", "", "A B=c", "UNSET", "A\u{1b}=x", "A=\0"] {
            assert!(variable(bad, here).is_err(), "{bad:?}");
        }
        let told = variable("A B=s3cret", here).unwrap_err();
        assert!(!told.contains("s3cret"), "{told}");
    }

    #[test]
    fn a_file_has_one_a_line_and_a_mistake_its_number() {
        let text = "# comment\n\nA=1 # kept\n  B=two words \nTOKEN\n";
        let found = parse(text, here).unwrap();
        let expected = [("A", "1 # kept"), ("B", "two words "), ("TOKEN", "s3cret")];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let error = parse("A=1\nno such\n", here).unwrap_err();
        assert!(error.starts_with("line 2:"), "{error}");
    }

    #[test]
    fn flags_go_before_files_and_no_value_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, "A=file\nB=file\n").unwrap();
        let flags = EnvFlags {
            env: vec!["A=s3cret".to_owned()],
            env_file: vec![path.clone()],
        };
        let all = flags.variables().unwrap();
        assert_eq!(all.last(), Some(&("A".to_owned(), "s3cret".to_owned())));
        assert!(!format!("{flags:?}").contains("s3cret"));
        std::fs::write(&path, b"A=\xff\n").unwrap();
        assert!(flags.variables().is_err());
        std::fs::remove_file(&path).unwrap();
        let error = flags.variables().unwrap_err();
        assert!(error.0.message.contains("cannot be read"), "{error:?}");
    }
}
