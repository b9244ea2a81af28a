//! The VM's environment: variables that clients' programs get beneath their own. The host gives them once and keeps none; they
//! are in a file for root alone, which is read when the agent starts.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_guest_proto::{AgentError, AgentErrorCode, AgentMessage, Environment, MAX_FRAME};

use super::private_file;

/// Its name, beside the sessions' folder.
const FILE: &str = "environment";

/// The environment, and the file that keeps it.
#[derive(Debug)]
pub(super) struct KeptEnvironment {
    path: PathBuf,
    current: Mutex<Arc<Environment>>,
}

impl KeptEnvironment {
    /// The one that was kept beside that folder. What is wrong with it is told: programs run without it then.
    pub(super) fn beside(sessions: &Path) -> (Self, Option<String>) {
        let path = sessions.with_file_name(FILE);
        let (current, problem) = match read(&path) {
            Ok(environment) => (environment, None),
            Err(what) => {
                let what = format!(
                    "the VM's environment ({}) is not used: {what}",
                    path.display()
                );
                (Environment::default(), Some(what))
            }
        };
        let current = Mutex::new(Arc::new(current));
        (Self { path, current }, problem)
    }

    // A thread that panicked held a whole one.
    fn lock(&self) -> MutexGuard<'_, Arc<Environment>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What programs get now.
    pub(super) fn current(&self) -> Arc<Environment> {
        Arc::clone(&self.lock())
    }

    /// Takes a client's in place of it, when the file has it.
    pub(super) fn set(&self, variables: Vec<(String, String)>) -> AgentMessage {
        let refuse = |code, message: String, hint: Option<&str>| {
            AgentMessage::Error(AgentError {
                code,
                message,
                hint: hint.map(str::to_owned),
            })
        };
        let environment = match Environment::new(variables) {
            Ok(environment) => environment,
            Err(error) => return refuse(AgentErrorCode::BadRequest, error.to_string(), None),
        };
        let mut current = self.lock();
        if let Err(error) = write(&self.path, &environment) {
            let code = match error.kind() {
                io::ErrorKind::StorageFull => AgentErrorCode::DiskFull,
                _ => AgentErrorCode::FileFailed,
            };
            let what = format!("failed to write {}: {error}", self.path.display());
            return refuse(code, what, None);
        }
        *current = Arc::new(environment);
        AgentMessage::EnvironmentSet
    }
}

/// The environment in a file; an absent one is empty. No value is in what is told.
fn read(path: &Path) -> Result<Environment, String> {
    // Whatever stands there, the agent does not wait for it.
    let mut options = File::options();
    let options = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Environment::default()),
        opened => opened.map_err(|error| error.to_string())?,
    };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Err("it is no file".to_owned());
    }
    let mut bytes = vec![];
    let longest = MAX_FRAME as u64;
    let read = file.take(longest + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Environment, String> {
    if bytes.len() > MAX_FRAME {
        return Err("it is too long".to_owned());
    }
    // What is wrong is not told in full: it would show what stands there.
    let variables = serde_json::from_slice(bytes).map_err(|error| {
        format!(
            "line {}, column {} is not as the agent wrote it",
            error.line(),
            error.column()
        )
    })?;
    Environment::new(variables).map_err(|error| error.to_string())
}

/// Writes it as a whole, or leaves what there was.
fn write(path: &Path, environment: &Environment) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    private_file::replace(path, &serde_json::to_vec(environment.variables())?)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    fn kept(folder: &tempfile::TempDir) -> (KeptEnvironment, Option<String>) {
        KeptEnvironment::beside(&folder.path().join("banger/sessions"))
    }

    #[test]
    fn what_was_set_is_there_again_for_root_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (first, problem) = kept(&folder);
        assert_eq!((first.current().is_empty(), problem), (true, None));
        let path = folder.path().join("banger/environment");
        // What a write that was cut off has left.
        fs::create_dir(folder.path().join("banger")).unwrap();
        fs::write(path.with_file_name(".environment"), "half").unwrap();
        let variables = vec![pair("A", "1"), pair("B", "two\n\"words\" 🦀")];
        assert_eq!(first.set(variables.clone()), AgentMessage::EnvironmentSet);
        assert_eq!(first.current().variables(), variables);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!path.with_file_name(".environment").exists());
        assert_eq!(kept(&folder).0.current().variables(), variables);
        assert_eq!(first.set(vec![]), AgentMessage::EnvironmentSet);
        assert!(kept(&folder).0.current().is_empty());
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, _) = kept(&folder);
        kept.set(vec![pair("A", "1")]);
        let code = |answer| match answer {
            AgentMessage::Error(error) => (error.code, error.message),
            other => panic!("{other:?}"),
        };
        let (bad, told) = code(kept.set(vec![pair("A", "s3cret\0")]));
        assert_eq!(bad, AgentErrorCode::BadRequest);
        assert!(!told.contains("s3cret"), "{told}");
        // A folder stands where the file is written first.
        fs::create_dir(folder.path().join("banger/.environment")).unwrap();
        let (failed, told) = code(kept.set(vec![pair("A", "s3cret")]));
        assert_eq!(failed, AgentErrorCode::FileFailed);
        assert!(!told.contains("s3cret"), "{told}");
        assert_eq!(kept.current().variables(), [pair("A", "1")]);
    }

    #[test]
    fn what_is_no_environment_is_told_and_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("banger/environment");
        fs::create_dir(folder.path().join("banger")).unwrap();
        let bad = [
            "",
            "[[\"A\",\"s3cret\"",
            "{\"A\":\"s3cret\"}",
            "[[\"A B\",\"s3cret\"]]",
            "s3cret",
        ];
        for bytes in bad
            .map(str::to_owned)
            .into_iter()
            .chain([" ".repeat(MAX_FRAME + 1)])
        {
            fs::write(&path, &bytes).unwrap();
            let (kept, problem) = kept(&folder);
            let problem = problem.unwrap();
            assert!(problem.contains("is not used"), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
            assert!(kept.current().is_empty());
        }
        // None of these is waited for, nor followed.
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(kept(&folder).1.is_some());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(kept(&folder).1.is_some());
    }

    proptest! {
        #[test]
        fn any_environment_comes_back_and_any_bytes_are_bounded(
            variables in proptest::collection::vec(("[^=\\s\\p{Cc}]{1,8}", "[^\0]{0,40}"), 0..20),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..400,
        ) {
            let environment = Environment::new(variables).unwrap();
            let json = serde_json::to_vec(environment.variables()).unwrap();
            prop_assert_eq!(parse(&json).unwrap(), environment);
            let _ = parse(&bytes);
            if cut < json.len() {
                prop_assert!(parse(&json[..cut]).is_err());
            }
        }
    }
}
