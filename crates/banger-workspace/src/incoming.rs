//! Objects that a guest has sent, beside the repository until they are known to be whole: as git's own receive-pack(1)
//! has it. What is refused, or did not fit on the disk, leaves nothing behind.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::path::PathBuf;
use std::process::Stdio;

use crate::git::{Git, GitError};
use crate::pull::PullError;
use crate::staging::{StagedFolder, Staging};

/// What the folder's name begins with: git-prune(1) knows it for something temporary.
const PREFIX: &str = "tmp_objdir-banger-";

/// Objects beside the repository's own.
#[derive(Debug)]
pub(crate) struct Incoming {
    folder: StagedFolder,
    objects: PathBuf,
    /// Sees the repository with them.
    pub(crate) git: Git,
}

impl Incoming {
    /// Takes a pack in, after git has looked at each object of it.
    pub(crate) fn take(git: &Git, mut pack: File) -> Result<Self, PullError> {
        pack.rewind().map_err(PullError::Read)?;
        let objects = git.path(&["rev-parse", "--git-path", "objects"])?;
        let folder = Staging::among(objects.clone(), PREFIX)
            .folder()
            .map_err(PullError::Keep)?;
        let incoming = Self {
            git: git.writing_to(folder.path())?,
            folder,
            objects,
        };
        let args = ["index-pack", "--stdin", "--fix-thin", "--strict"];
        let mut command = incoming.git.command(&args);
        let output = command.stdin(Stdio::from(pack)).output();
        let output = output.map_err(GitError::Start)?;
        if output.status.success() {
            return Ok(incoming);
        }
        Err(PullError::Git(GitError::Failed {
            args: args.join(" "),
            stderr: banger_guest_proto::shown(
                String::from_utf8_lossy(&output.stderr).trim().as_bytes(),
            ),
        }))
    }

    /// Puts them among the repository's own. A pack counts once its index is there, which therefore comes last.
    pub(crate) fn keep(self) -> io::Result<()> {
        let (from, to) = (self.folder.path().join("pack"), self.objects.join("pack"));
        let mut names = vec![];
        if !from.exists() {
            return Ok(());
        }
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(from.as_path())? {
            names.push(entry?.file_name());
        }
        names.sort_by_key(|name| name.as_encoded_bytes().ends_with(b".idx"));
        for name in names {
            fs::rename(from.join(&name), to.join(&name))?;
        }
        Ok(())
    }
}
