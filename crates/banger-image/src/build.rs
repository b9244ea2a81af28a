//! Building an image: packages into a tree, the tree into file systems, the file systems into the store.
//! All of it in one folder beside the images, which is removed whatever happens.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run_step;
use crate::file_error::Context;
use crate::seed::SeedOrigin;
use crate::store::{Image, ImageRecord, ImageStore};
use crate::{BuildError, Recipe, digest};

/// Whoever watches a build.
pub trait BuildWatch: Sync {
    /// A step begins.
    fn step(&self, title: &str);
    /// A line of a step's output.
    fn line(&self, text: &str);
    /// Whether the build shall end early.
    fn cancelled(&self) -> bool;
}

/// Size of the work seed before it is grown: small, as it is copied for each VM.
const SEED_MIB: u64 = 64;

impl ImageStore {
    /// Builds an image and takes it into the store, in place of an older one of that name.
    ///
    /// # Errors
    /// Nothing of a failed build is left but its log.
    pub fn build(
        &self,
        recipe: &Recipe,
        log: &Path,
        watch: &dyn BuildWatch,
    ) -> Result<Image, BuildError> {
        let lock = self.lock_file().context("lock", self.root())?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(std::io::Error::from)
            .context("lock", self.root())?;
        let work = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(self.root());
        let work = work.context("make a folder in", self.root())?;
        fs::set_permissions(work.path(), Permissions::from_mode(0o755))
            .context("open up", work.path())?;
        let builder = Builder {
            recipe,
            work: work.path(),
            log,
            watch,
        };
        let made = builder.make();
        builder.clear();
        let (next, record) = made?;
        self.adopt(&next, record)
    }
}

struct Builder<'a> {
    recipe: &'a Recipe,
    work: &'a Path,
    log: &'a Path,
    watch: &'a dyn BuildWatch,
}

impl Builder<'_> {
    fn make(&self) -> Result<(PathBuf, ImageRecord), BuildError> {
        let next = self.work.join("image");
        fs::create_dir(&next).context("make", &next)?;
        self.watch.step("installing packages");
        let tar = self.work.join("root.tar");
        let customize = self.work.join("customize.sh");
        fs::write(&customize, self.recipe.customize).context("write", &customize)?;
        fs::set_permissions(&customize, Permissions::from_mode(0o755))
            .context("open up", &customize)?;
        self.install(&customize, &tar)?;
        self.watch.step("making the file systems");
        let mib = self.root_size_mib(&tar)?;
        self.format(&tar, &next, mib)?;
        let _ = fs::remove_file(&tar);
        self.watch.step("computing the digest");
        let rootfs = next.join("rootfs.ext4");
        let file = fs::File::open(&rootfs).context("read", &rootfs)?;
        let digest = digest::of_file(&file).context("read", &rootfs)?;
        let contents = fs::read_to_string(self.work.join("contents")).unwrap_or_default();
        let record = ImageRecord {
            name: self.recipe.name.clone(),
            seed: Some(SeedOrigin::now(&digest)),
            digest,
            recipe_fingerprint: Some(self.recipe.fingerprint.clone()),
            kernel: None,
            ready: self.recipe.contents.ready.clone(),
            contents: contents.lines().map(str::to_owned).collect(),
            created_at: jiff::Timestamp::now().to_string(),
            origin: None,
            elsewhere: None,
            catalog: None,
            built: None,
        };
        Ok((next, record))
    }

    fn install(&self, customize: &Path, tar: &Path) -> Result<(), BuildError> {
        let recipe = &self.recipe.contents;
        let mode = if is_root() { "root" } else { "unshare" };
        let mut command = Command::new("mmdebstrap");
        command.args([
            format!("--mode={mode}"),
            format!("--variant={}", recipe.variant),
        ]);
        command.arg(format!("--include={}", recipe.packages.join(",")));
        command.arg(format!("--extract-hook={}", leave_out(LEFT_OUT)));
        // The recipe's script cleans apt's folders. mmdebstrap would do it by an `apt-get update` without
        // sources; were its configuration gone by then, that would empty the host's own lists.
        command
            .arg("--skip=cleanup/apt")
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            .arg("--format=tar");
        // A variant that only unpacks its packages ends before the hooks for customising.
        let stage = if recipe.variant == "extract" {
            "extract"
        } else {
            "customize"
        };
        let hook = format!("--{stage}-hook={} \"$1\"", customize.display());
        // The list of versions is for the record; it is not part of the image.
        let list = format!(
            "--customize-hook=dpkg-query --admindir=\"$1/var/lib/dpkg\" -W -f='${{Package}} ${{Version}}\\n' {} > {} || true",
            recipe.contents.join(" "),
            self.work.join("contents").display()
        );
        command.args([list, hook, recipe.suite.clone()]).arg(tar);
        command
            .env("TMPDIR", self.work)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run_step(
            "installing packages",
            &mut command,
            "mmdebstrap",
            self.log,
            self.watch,
        )
    }

    fn root_size_mib(&self, tar: &Path) -> Result<u64, BuildError> {
        let content = fs::metadata(tar).context("look at", tar)?.len() >> 20;
        Ok(
            (content + content / 4 + (self.recipe.contents.free_gib << 10))
                .next_multiple_of(1 << 10),
        )
    }

    /// Unpacks the tree, looks for traces of this host, and makes both file systems of it: as root, or as
    /// root of a user namespace, so that owners and modes are right for an ordinary user as well.
    fn format(&self, tar: &Path, next: &Path, root_mib: u64) -> Result<(), BuildError> {
        let script = include_str!("format.sh");
        let mut command = self.as_root("sh");
        command
            .arg("-ec")
            .arg(script)
            .arg("format")
            .arg(tar)
            .arg(self.work.join("tree"))
            .arg(next);
        command.args([root_mib.to_string(), SEED_MIB.to_string()]);
        run_step(
            "unpacking and formatting",
            &mut command,
            "uidmap",
            self.log,
            self.watch,
        )?;
        let report = next.join("leaks");
        let found = self.leaks()?;
        let _ = fs::remove_file(report);
        if found.is_empty() {
            Ok(())
        } else {
            Err(BuildError::Leak(found))
        }
    }

    /// The tree's configuration is readable for everyone; what is not is root's own and was made here.
    fn leaks(&self) -> Result<Vec<String>, BuildError> {
        let tree = self.work.join("tree");
        let found = crate::leaks(&tree, &crate::HostTraces::of_this_host());
        let mut command = self.as_root("rm");
        command.arg("-rf").arg("--one-file-system").arg(&tree);
        run_step(
            "removing the tree",
            &mut command,
            "coreutils",
            self.log,
            self.watch,
        )?;
        Ok(found)
    }

    fn as_root(&self, program: &str) -> Command {
        let mut command = if is_root() {
            Command::new(program)
        } else {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--map-auto", "--", program]);
            command
        };
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Removes what belongs to subordinate users; the folder itself goes with its guard.
    fn clear(&self) {
        if !is_root() {
            let inside = fs::read_dir(self.work)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path());
            let foreign: Vec<PathBuf> = inside
                .filter(|path| *path != self.work.join("image"))
                .collect();
            let _ = self.as_root("rm").arg("-rf").args(foreign).status();
        }
    }
}

/// What an image has none of.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
];

/// A hook that tells dpkg of these patterns, after the first packages were extracted without it: what they have of that is removed.
/// Told by `--dpkgopt`, mmdebstrap has each of these packages filtered by a program that takes longer to start than
/// to do so, which is a quarter of the whole build.
fn leave_out(patterns: &[&str]) -> String {
    let mut hook = "cd \"$1\" && mkdir -p etc/dpkg/dpkg.cfg.d && rm -rf".to_owned();
    for pattern in patterns {
        hook += &format!(" .{pattern}");
    }
    hook += " && printf 'path-exclude=%s\\n'";
    for pattern in patterns {
        hook += &format!(" '{pattern}'");
    }
    hook + " >etc/dpkg/dpkg.cfg.d/banger"
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_removed_and_dpkg_is_told() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        for path in ["usr/share/doc/a/b", "usr/share/info/c", "usr/share/kept/d"] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        // As mmdebstrap runs a hook: with the tree as the first argument.
        let mut shell = Command::new("sh");
        shell.args(["-c", &leave_out(LEFT_OUT), "exec"]).arg(root);
        assert!(shell.status().unwrap().success());
        let is_there = |path: &str| root.join(path).exists();
        assert!(is_there("usr/share/kept/d") && is_there("usr/share/doc"));
        assert!(!is_there("usr/share/doc/a") && !is_there("usr/share/info/c"));
        let told = fs::read_to_string(root.join("etc/dpkg/dpkg.cfg.d/banger")).unwrap();
        assert_eq!(told.lines().count(), LEFT_OUT.len());
        assert!(
            told.starts_with("path-exclude=/usr/share/doc/*\n"),
            "{told}"
        );
    }
}
