//! The login environment of a program, as a login on a terminal would give it.

use std::path::Path;

use banger_guest_proto::{Environment, ExecRequest};
use banger_login::{ROOT_PATH, USER_PATH, User};

use super::forward::SSH_AGENT;

/// The variables, each name once: a login's, over them the VM's, over all the request's.
pub(super) fn variables(
    user: &User,
    of_vm: &Environment,
    request: &ExecRequest,
) -> Vec<(String, String)> {
    let path = if user.uid == 0 { ROOT_PATH } else { USER_PATH };
    let mut all: Vec<(String, String)> = vec![];
    let mut set = |name: &str, value: &str| {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => all.push((name.to_owned(), value.to_owned())),
        };
    };
    set("PATH", path);
    // What Debian's PAM reads for a login, in its order.
    for file in [
        "/etc/environment",
        "/etc/default/locale",
        "/etc/locale.conf",
    ] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for (name, value) in text.lines().filter_map(assignment) {
            set(name, value);
        }
    }
    set("HOME", &user.home);
    set("USER", &user.name);
    set("LOGNAME", &user.name);
    set("SHELL", &user.shell);
    if request.tty.is_some() {
        set("TERM", request.term.as_deref().unwrap_or("xterm-256color"));
    }
    if user.uid == 0 && Path::new(SSH_AGENT).exists() {
        set("SSH_AUTH_SOCK", SSH_AGENT);
    }
    let of_vm = if request.own { &[] } else { of_vm.variables() };
    for (name, value) in of_vm.iter().chain(&request.env) {
        set(name, value);
    }
    all
}

/// `NAME=value`, with quotes around the value as pam_env(8) takes them.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    if name.is_empty() || name.starts_with('#') || name.contains(char::is_whitespace) {
        return None;
    }
    let unquoted = ['"', '\''].into_iter().find_map(|quote| {
        value
            .strip_prefix(quote)
            .and_then(|rest| rest.strip_suffix(quote))
    });
    Some((name, unquoted.unwrap_or(value)))
}

/// Where the program starts: as asked, else at home, else at the root.
pub(super) fn working_directory(user: &User, request: &ExecRequest) -> String {
    match &request.cwd {
        Some(cwd) => cwd.clone(),
        None if let Some(first) = request.cwd_among.iter().find(|dir| Path::new(dir).is_dir()) => {
            first.clone()
        }
        None if Path::new(&user.home).is_dir() => user.home.clone(),
        None => "/".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> User {
        User {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            home: "/root".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    #[test]
    fn assignments_lose_their_quotes_and_comments_are_none() {
        assert_eq!(assignment("LANG=\"C.UTF-8\""), Some(("LANG", "C.UTF-8")));
        assert_eq!(assignment("export A='b c'"), Some(("A", "b c")));
        assert_eq!(assignment("#LANG=x"), None);
        assert_eq!(assignment("no assignment"), None);
    }

    #[test]
    fn what_the_client_sets_counts_last_and_once() {
        let request = ExecRequest {
            env: vec![("PATH".into(), "/x".into()), ("HOME".into(), "/h".into())],
            ..ExecRequest::default()
        };
        let all = variables(&root(), &Environment::default(), &request);
        let path: Vec<_> = all.iter().filter(|(name, _)| name == "PATH").collect();
        assert_eq!(path, [&("PATH".to_owned(), "/x".to_owned())]);
        assert!(all.contains(&("HOME".to_owned(), "/h".to_owned())));
        assert!(!all.iter().any(|(name, _)| name == "TERM"));
    }

    #[test]
    fn the_vms_go_over_a_logins_and_beneath_the_clients_and_not_to_bangers_own() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let of_vm = vec![pair("USER", "vm"), pair("A", "vm"), pair("B", "vm")];
        let of_vm = Environment::new(of_vm).unwrap();
        let mut request = ExecRequest::new(["x"]);
        request.env = vec![pair("B", "mine")];
        let all = variables(&root(), &of_vm, &request);
        for expected in [pair("USER", "vm"), pair("A", "vm"), pair("B", "mine")] {
            let found: Vec<_> = all.iter().filter(|(name, _)| *name == expected.0).collect();
            assert_eq!(found, [&expected]);
        }
        request.own = true;
        let all = variables(&root(), &of_vm, &request);
        assert!(all.contains(&pair("USER", "root")) && all.contains(&pair("B", "mine")));
        assert!(!all.iter().any(|(name, _)| name == "A"));
    }
}
