//! Where a kernel comes from: fetching it into a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::error::Context;
use crate::{ImportError, Source};

/// The package that always depends on the newest kernel for virtual machines.
const DEFAULT_PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel's files, wherever they lie.
#[derive(Debug)]
pub(crate) struct Found {
    /// `vmlinuz` or `vmlinux`.
    pub(crate) kernel: PathBuf,
    /// A root folder under which `lib/modules/<release>` lies.
    pub(crate) modules_root: Option<PathBuf>,
    /// `lib/modules/<release>` itself, where it lies elsewhere.
    pub(crate) modules: Option<PathBuf>,
    /// For people.
    pub(crate) said: String,
}

/// Finds or fetches the files; what is fetched goes below `work`.
pub(crate) fn find(source: &Source, work: &Path, say: &dyn Fn(&str)) -> Result<Found, ImportError> {
    match source {
        Source::Package(name) => {
            let package = match name {
                Some(name) => name.clone(),
                None => newest_of(DEFAULT_PACKAGE)?,
            };
            say(&format!("fetching {package}"));
            let deb = download(&package, work)?;
            unpack(&deb, work, say).map(|found| Found {
                said: format!("Debian package {package}"),
                ..found
            })
        }
        Source::Host => host(),
        Source::File { path, .. }
            if path.extension().is_some_and(|extension| extension == "deb") =>
        {
            if !path.is_file() {
                return Err(std::io::Error::from(std::io::ErrorKind::NotFound))
                    .context("read", path);
            }
            unpack(path, work, say)
        }
        Source::File { path, modules } => Ok(Found {
            kernel: path.clone(),
            modules_root: None,
            modules: modules.clone(),
            said: path.display().to_string(),
        }),
    }
}

/// The real package that a meta package depends on.
fn newest_of(meta: &str) -> Result<String, ImportError> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--important", meta]);
    let output = run(&mut command, "apt-cache", "apt")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let depends = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    let real = depends
        .map(str::trim)
        .find(|name| name.starts_with("linux-image-"));
    real.map(str::to_owned).ok_or_else(|| ImportError::Command {
        argv: format!("apt-cache depends {meta}"),
        status: "no kernel found".into(),
        stderr: "run `apt-get update`, or import a kernel from a file".into(),
    })
}

fn download(package: &str, work: &Path) -> Result<PathBuf, ImportError> {
    let mut command = Command::new("apt-get");
    // The sandbox user of apt may not write into a folder of ours, and need not.
    command
        .args(["download", "-q", "-o", "APT::Sandbox::User=", package])
        .current_dir(work);
    run(&mut command, "apt-get", "apt")?;
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let files = fs::read_dir(work).context("list", work)?;
    let deb = files.flatten().map(|entry| entry.path()).find(is_deb);
    deb.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
        .context("find the package in", work)
}

fn unpack(deb: &Path, work: &Path, say: &dyn Fn(&str)) -> Result<Found, ImportError> {
    say("unpacking the package");
    let root = work.join("root");
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(deb).arg(&root);
    run(&mut command, "dpkg-deb", "dpkg")?;
    // Newer packages have everything below /usr and the kernel beside its modules.
    if !root.join("lib").exists() && root.join("usr/lib/modules").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))
            .context("link", root.join("lib"))?;
    }
    let kernel = kernel_in(&root.join("boot")).or_else(|| {
        let releases = fs::read_dir(root.join("lib/modules")).ok()?;
        releases
            .flatten()
            .find_map(|entry| kernel_in(&entry.path()))
    });
    let kernel = kernel.ok_or_else(|| ImportError::NotAKernel {
        path: deb.to_owned(),
        why: "the package has no vmlinuz".into(),
    })?;
    let said = format!("package file {}", deb.display());
    Ok(Found {
        kernel,
        modules_root: Some(root),
        modules: None,
        said,
    })
}

fn kernel_in(folder: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(folder).ok()?;
    let is_kernel = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinu"))
            && path.is_file()
    };
    names.flatten().map(|entry| entry.path()).find(is_kernel)
}

fn host() -> Result<Found, ImportError> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let candidates = [
        format!("/boot/vmlinuz-{release}"),
        format!("/usr/lib/modules/{release}/vmlinuz"),
    ]
    .map(PathBuf::from);
    let found = candidates.iter().find(|path| path.is_file()).cloned();
    let kernel = found.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound));
    let kernel = kernel.context("find this host's own kernel at", &candidates[0])?;
    let modules = PathBuf::from(format!("/lib/modules/{release}"));
    let said = format!("this host's kernel {release}");
    Ok(Found {
        kernel,
        modules_root: None,
        modules: modules.is_dir().then_some(modules),
        said,
    })
}
