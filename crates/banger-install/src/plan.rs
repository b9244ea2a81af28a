//! What an installation consists of, decided before anything is touched.

use std::path::{Path, PathBuf};

use crate::layout::{CONFIG_DIR, HELPER_DIR, ROOT_CONFIG, UNIT_DIR, lib_dir};
use crate::{InstallSpec, Programs, units};

/// The most VMs at once; root can change it in [`ROOT_CONFIG`].
const MAX_VMS: u32 = 256;
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Where a file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Made here.
    Text(String),
    /// A copy of that file.
    CopyOf(PathBuf),
}

/// One file, root's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Where.
    pub path: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// What is in it.
    pub content: Content,
}

/// All files, in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Folders of ours, made when missing (root's, 0755).
    pub folders: Vec<PathBuf>,
    /// The files.
    pub files: Vec<PlannedFile>,
}

impl Plan {
    /// Decides.
    #[must_use]
    pub fn new(spec: &InstallSpec, programs: &Programs) -> Self {
        let lib = lib_dir(&spec.prefix);
        let program = |name: &str, from: &Path| PlannedFile {
            path: lib.join(name),
            mode: 0o755,
            content: Content::CopyOf(from.to_owned()),
        };
        let mut files = vec![
            program("bangerd", &programs.daemon),
            program("bangerd-root", &programs.helper),
            program("banger-vhost-vsock", &programs.vhost_vsock),
            program("banger-vsock-agent", &programs.agent),
            program("banger-sshd", &programs.sshd),
        ];
        if let Some(firecracker) = &programs.firecracker {
            files.push(program("firecracker", firecracker));
        }
        files.push(PlannedFile {
            path: spec.prefix.join("bin/banger"),
            mode: 0o755,
            content: Content::CopyOf(programs.cli.clone()),
        });
        files.push(text(PathBuf::from(ROOT_CONFIG), root_config(spec)));
        for (name, content) in units::render(spec) {
            files.push(text(Path::new(UNIT_DIR).join(name), content));
        }
        let bin = spec.prefix.join("bin");
        Self {
            folders: vec![bin, lib, CONFIG_DIR.into(), UNIT_DIR.into()],
            files,
        }
    }
}

fn text(path: PathBuf, content: String) -> PlannedFile {
    PlannedFile {
        path,
        mode: 0o644,
        content: Content::Text(content),
    }
}

/// What the helper reads: the options of `bangerd-root`, one a line.
fn root_config(spec: &InstallSpec) -> String {
    let lib = lib_dir(&spec.prefix);
    let mut text = format!(
        "# What banger's root helper acts on. Root decides; the owner's config.toml may only agree.\n\
         # After a change: sudo banger system restart. `banger system install` writes this file anew.\n\
         owner = {owner}\n\
         runtime-dir = \"{HELPER_DIR}\"\n\
         bridge = \"{bridge}\"\n\
         bridge-ip = \"{ip}\"\n\
         prefix = {prefix}\n\
         qemu = \"{QEMU}\"\n\
         vhost-vsock = \"{vsock}\"\n\
         slice = \"banger.slice\"\n\
         max-vms = {MAX_VMS}\n",
        owner = spec.owner.uid,
        bridge = spec.network.bridge,
        ip = spec.network.bridge_ip,
        prefix = spec.network.prefix_len,
        vsock = lib.join("banger-vhost-vsock").display(),
    );
    if spec.firecracker {
        text += &format!("firecracker = \"{}\"\n", lib.join("firecracker").display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::example;

    fn programs(firecracker: bool) -> Programs {
        let at = |name: &str| PathBuf::from(format!("/src/{name}"));
        Programs {
            cli: at("banger"),
            daemon: at("bangerd"),
            helper: at("bangerd-root"),
            vhost_vsock: at("banger-vhost-vsock"),
            agent: at("banger-vsock-agent"),
            sshd: at("banger-sshd"),
            firecracker: firecracker.then(|| at("firecracker")),
        }
    }

    fn rendered(plan: &Plan) -> String {
        let mut text = String::new();
        for folder in &plan.folders {
            text += &format!("{}/\n", folder.display());
        }
        for file in &plan.files {
            text += &format!("\n{} {:04o}", file.path.display(), file.mode);
            match &file.content {
                Content::CopyOf(from) => text += &format!(" <- {}\n", from.display()),
                Content::Text(content) => text += &format!("\n{content}"),
            }
        }
        text
    }

    #[test]
    fn the_whole() {
        insta::assert_snapshot!(rendered(&Plan::new(&example(), &programs(true))));
    }

    #[test]
    fn elsewhere_and_without_firecracker() {
        let mut spec = example();
        spec.prefix = "/opt/banger".into();
        spec.firecracker = false;
        spec.kvm_group = None;
        let plan = Plan::new(&spec, &programs(false));
        let text = rendered(&plan);
        assert!(!text.contains("firecracker") && !text.contains("SupplementaryGroups"));
        assert!(!text.contains("/usr/lib/banger"), "{text}");
        assert!(text.contains("ExecStart=/opt/banger/lib/banger/bangerd-root "));
        assert!(text.contains("vhost-vsock = \"/opt/banger/lib/banger/banger-vhost-vsock\""));
    }

    #[test]
    fn no_unit_points_into_a_home_but_for_configuration() {
        let plan = Plan::new(&example(), &programs(true));
        for file in &plan.files {
            let Content::Text(content) = &file.content else {
                continue;
            };
            for line in content.lines().filter(|line| line.contains("/home/")) {
                let allowed = line.starts_with("ReadWritePaths=-") || line.contains("--config-dir");
                assert!(allowed, "{}: {line}", file.path.display());
            }
        }
    }
}
