//! Finding a program as execvp(3) would, but with answers that say what was wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use banger_guest_proto::AgentErrorCode;

/// The program's file, or what kind of failure it is and a sentence about it.
pub(super) fn find(
    name: &str,
    search: &str,
    cwd: &str,
) -> Result<PathBuf, (AgentErrorCode, String)> {
    if name.is_empty() {
        let what = "an empty name is no program".to_owned();
        return Err((AgentErrorCode::CommandNotFound, what));
    }
    let mut refused = None;
    let places: Vec<PathBuf> = if name.contains('/') {
        vec![Path::new(cwd).join(name)]
    } else {
        let folders = search.split(':');
        folders.map(|f| Path::new(cwd).join(f).join(name)).collect()
    };
    for place in places {
        match std::fs::metadata(&place) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                return Ok(place);
            }
            Ok(found) if found.is_dir() => {
                refused.get_or_insert(format!("`{}` is a directory", place.display()));
            }
            Ok(_) => {
                refused.get_or_insert(format!("`{}` is not executable", place.display()));
            }
            Err(_) => {}
        }
    }
    match refused {
        // A shell goes on to the next folder too, and says 126 only when none has it.
        Some(what) => Err((AgentErrorCode::NotExecutable, what)),
        None if name.contains('/') => Err((
            AgentErrorCode::CommandNotFound,
            format!("there is no `{name}` in the guest"),
        )),
        None => Err((
            AgentErrorCode::CommandNotFound,
            format!("there is no command `{name}` in the guest (PATH is {search})"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/usr/bin:/bin";

    #[test]
    fn programs_are_found_and_what_is_wrong_is_told_apart() {
        assert!(find("sh", PATH, "/").is_ok());
        assert!(find("/bin/sh", "", "/").is_ok());
        assert!(find("./sh", "", "/bin").is_ok());
        let code = |name: &str| find(name, PATH, "/").unwrap_err().0;
        assert_eq!(code("no-such-command"), AgentErrorCode::CommandNotFound);
        assert_eq!(code("/no/such"), AgentErrorCode::CommandNotFound);
        assert_eq!(code(""), AgentErrorCode::CommandNotFound);
        assert_eq!(code("/etc/passwd"), AgentErrorCode::NotExecutable);
        assert_eq!(code("/etc"), AgentErrorCode::NotExecutable);
    }
}
