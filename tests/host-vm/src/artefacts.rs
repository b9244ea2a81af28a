//! What is under test, built outside: programs, and kernel and images made beforehand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

/// Programs that are installed side by side.
const PROGRAMS: &[&str] = &["banger", "bangerd", "bangerd-root", "banger-vhost-vsock"];

/// Programs that run in guests, in `lib/banger` beside them.
const GUEST_PROGRAMS: &[&str] = &["banger-vsock-agent", "banger-sshd"];

/// Test programs that need root and device-mapper (`scripts/host-vm` builds them).
const TESTS: &[&str] = &["rootops", "snapshot", "hostile"];

/// Where the artefacts lie.
#[derive(Debug, Clone, Args)]
pub(crate) struct Artefacts {
    /// Folder of the built programs; those for guests are beside it, at ../lib/banger.
    #[arg(long, default_value = "target/release")]
    pub(crate) programs: PathBuf,
    /// banger's state directory with a kernel and images to take along.
    #[arg(long, default_value = "target/e2e/state/banger")]
    pub(crate) state: PathBuf,
    /// Folder of test programs that run in the host.
    #[arg(long, default_value = "target/host-vm/tests")]
    pub(crate) tests: PathBuf,
    /// A Firecracker binary.
    #[arg(long, env = "BANGER_TEST_FIRECRACKER", value_parser = not_empty)]
    pub(crate) firecracker: Option<PathBuf>,
}

fn not_empty(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty: unset it, or name the binary".into());
    }
    Ok(text.into())
}

impl Artefacts {
    /// Lays them out below `checkout` as a build does.
    pub(crate) fn stage(&self, checkout: &Path) -> Result<()> {
        let target = checkout.join("target");
        for program in PROGRAMS {
            put(
                &self.programs.join(program),
                &target.join("release").join(program),
            )?;
        }
        for program in GUEST_PROGRAMS {
            let program = Path::new("lib/banger").join(program);
            put(
                &self.programs.join("..").join(&program),
                &target.join(&program),
            )?;
        }
        for test in TESTS {
            put(&self.tests.join(test), &checkout.join("tests").join(test))?;
        }
        if let Some(firecracker) = &self.firecracker {
            put(firecracker, &checkout.join("firecracker"))?;
        }
        Ok(())
    }
}

fn put(from: &Path, to: &Path) -> Result<()> {
    ensure!(
        from.is_file(),
        "{} is missing: run `make build`",
        from.display()
    );
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
