//! What a client asks of a channel before its program starts, and the program that comes of it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use banger_guest_proto::TtySize;
use banger_login::{ROOT_PATH, USER_PATH, User};
use russh::Pty;

/// So many variables a client may set for a program, each so long.
const MAX_VARIABLES: usize = 64;
const MAX_VALUE: usize = 4096;
/// What a terminal's type may look like at most.
const MAX_TERM: usize = 64;
/// Where every shell is expected, when the user's own is not there.
const SHELL: &str = "/bin/sh";

/// A terminal that the client has asked for.
#[derive(Debug, Clone)]
pub(crate) struct WantedTerminal {
    /// Its type.
    pub(crate) term: String,
    pub(crate) size: TtySize,
    pub(crate) modes: Vec<(Pty, u32)>,
}

/// What the program is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The login shell.
    Shell,
    /// A line for the shell.
    Command(Vec<u8>),
    /// The files of the guest, by the sftp protocol.
    Sftp,
}

/// What was asked so far.
#[derive(Debug, Default)]
pub(crate) struct Request {
    env: Vec<(String, String)>,
    pub(crate) terminal: Option<WantedTerminal>,
}

/// A program, ready to be launched.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Words for `launch`.
    pub(crate) words: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cwd: String,
}

impl Request {
    /// Takes a variable, if it is one that a client may set: how things look, and git's protocol.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> bool {
        let harmless = ["LANG", "LANGUAGE", "COLORTERM", "NO_COLOR", "GIT_PROTOCOL"];
        let locale = name.strip_prefix("LC_").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        });
        let fits = value.len() <= MAX_VALUE && !value.contains('\0');
        let room = self.env.len() < MAX_VARIABLES;
        let taken = (locale || harmless.contains(&name)) && fits && room;
        if taken {
            self.env.push((name.to_owned(), value.to_owned()));
        }
        taken
    }

    /// Takes a terminal.
    pub(crate) fn set_terminal(
        &mut self,
        term: &str,
        (cols, rows): (u32, u32),
        modes: &[(Pty, u32)],
    ) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._+".contains(&b);
        let known = !term.is_empty() && term.len() <= MAX_TERM && term.bytes().all(plain);
        self.terminal = Some(WantedTerminal {
            term: if known { term } else { "xterm-256color" }.to_owned(),
            size: size(cols, rows),
            modes: modes.to_vec(),
        });
    }

    /// The program for that user; `own` is this process's environment, which is a login's.
    pub(crate) fn plan(
        &self,
        user: &User,
        wanted: &Wanted,
        own: impl Iterator<Item = (OsString, OsString)>,
    ) -> Option<Plan> {
        let mut words: Vec<OsString> = vec!["launch".into()];
        if self.terminal.is_some() {
            words.push("--tty".into());
        }
        if user.uid != rustix::process::geteuid().as_raw() {
            words.extend(["--user".into(), OsString::from(&user.name)]);
        }
        words.push("--".into());
        let shell = match Path::new(&user.shell).exists() {
            true => user.shell.as_str(),
            false => SHELL,
        };
        let base = shell.rsplit('/').next().unwrap_or("sh");
        match wanted {
            // The leading hyphen tells the shell that it is a login's.
            Wanted::Shell => words.extend([shell.into(), format!("-{base}").into()]),
            Wanted::Command(line) if line.contains(&0) => return None,
            Wanted::Command(line) => {
                words.extend([shell.into(), base.into(), "-c".into()]);
                words.push(OsStr::from_bytes(line).to_owned());
            }
            Wanted::Sftp => {
                words.extend(["/proc/self/exe", "banger-sftp", "sftp"].map(OsString::from));
            }
        }
        let cwd = match Path::new(&user.home).is_dir() {
            true => user.home.clone(),
            false => "/".to_owned(),
        };
        Some(Plan {
            words,
            env: self.variables(user, shell, own),
            cwd,
        })
    }

    /// Each name once: the login's, over it the user's own, over all the client's.
    fn variables(
        &self,
        user: &User,
        shell: &str,
        own: impl Iterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let mut all: Vec<(OsString, OsString)> = own.collect();
        let mut set = |name: &str, value: &str| {
            all.retain(|(known, _)| known != name);
            all.push((name.into(), value.into()));
        };
        set("HOME", &user.home);
        set("USER", &user.name);
        set("LOGNAME", &user.name);
        set("SHELL", shell);
        // As sshd has it for a client without an address: what looks whether it runs over ssh finds it.
        set("SSH_CONNECTION", "UNKNOWN 65535 UNKNOWN 65535");
        if user.uid != rustix::process::geteuid().as_raw() {
            set("PATH", USER_PATH);
        }
        if let Some(terminal) = &self.terminal {
            set("TERM", &terminal.term);
        }
        for (name, value) in &self.env {
            set(name, value);
        }
        if !all.iter().any(|(name, _)| name == "PATH") {
            all.push(("PATH".into(), ROOT_PATH.into()));
        }
        all
    }
}

/// A size as terminals have it; the client may claim anything.
pub(crate) fn size(cols: u32, rows: u32) -> TtySize {
    let fits = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    TtySize {
        rows: fits(rows),
        cols: fits(cols),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> User {
        User {
            name: "me".to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            gid: 0,
            home: "/nowhere".to_owned(),
            shell: "/no/such/shell".to_owned(),
        }
    }

    #[test]
    fn only_harmless_variables_are_taken_and_not_without_end() {
        let mut request = Request::default();
        for good in ["LANG", "LC_ALL", "LC_TIME", "COLORTERM", "GIT_PROTOCOL"] {
            assert!(request.set(good, "x"), "{good}");
        }
        for bad in ["LD_PRELOAD", "PATH", "LC_", "LC_a=b", "BASH_ENV", "ENV", ""] {
            assert!(!request.set(bad, "x"), "{bad}");
        }
        assert!(!request.set("LANG", "a\0b"));
        assert!(!request.set("LANG", &"x".repeat(MAX_VALUE + 1)));
        for _ in 0..2 * MAX_VARIABLES {
            request.set("LANG", "y");
        }
        assert_eq!(request.env.len(), MAX_VARIABLES);
    }

    #[test]
    fn a_line_goes_to_the_shell_and_who_has_none_gets_the_usual_one() {
        let mut request = Request::default();
        request.set("LANG", "C");
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let own = vec![pair("LANG", "xx"), pair("A", "kept"), pair("HOME", "/root")];
        let wanted = Wanted::Command(b"echo \xff".to_vec());
        let plan = request.plan(&me(), &wanted, own.into_iter()).unwrap();
        let line = OsStr::from_bytes(b"echo \xff");
        let words = ["launch", "--", "/bin/sh", "sh", "-c"].map(OsStr::new);
        assert_eq!(plan.words[..5], words);
        assert_eq!(plan.words[5], line);
        assert_eq!(plan.cwd, "/");
        for expected in [
            pair("LANG", "C"),
            pair("A", "kept"),
            pair("HOME", "/nowhere"),
            pair("PATH", ROOT_PATH),
        ] {
            let found: Vec<_> = plan.env.iter().filter(|(n, _)| *n == expected.0).collect();
            assert_eq!(found, [&expected]);
        }
        let none = Wanted::Command(b"a\0b".to_vec());
        assert!(request.plan(&me(), &none, std::iter::empty()).is_none());
    }

    #[test]
    fn a_terminal_is_asked_for_with_whatever_numbers() {
        let mut request = Request::default();
        request.set_terminal("xterm\x1b[2J", (1 << 20, 24), &[]);
        let terminal = request.terminal.as_ref().unwrap();
        assert_eq!(terminal.term, "xterm-256color");
        assert_eq!(
            terminal.size,
            TtySize {
                rows: 24,
                cols: u16::MAX
            }
        );
        let plan = request
            .plan(&me(), &Wanted::Shell, std::iter::empty())
            .unwrap();
        let words = ["launch", "--tty", "--", "/bin/sh", "-sh"].map(OsString::from);
        assert_eq!(plan.words, words);
    }
}
