//! The direction of dependencies (`docs/architecture.md`): each package may depend on the packages
//! of ours that its row names, and privileged or guest code on no foreign crate outside a short list.

use std::collections::{BTreeSet, HashMap};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Package, and what of ours it may depend on. Dev-dependencies are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("banger-core", &[]),
    ("banger-api", &["banger-core"]),
    ("banger-root-proto", &["banger-core"]),
    ("banger-guest-proto", &["banger-core"]),
    ("banger-client", &["banger-core", "banger-api"]),
    ("banger-store", &["banger-core"]),
    ("banger-ext4", &[]),
    ("banger-oci", &["banger-core", "banger-ext4"]),
    ("banger-catalog", &["banger-core", "banger-oci"]),
    (
        "banger-image",
        &["banger-core", "banger-ext4", "banger-oci"],
    ),
    ("banger-build", &["banger-core"]),
    ("banger-kernel", &["banger-core"]),
    ("banger-vmm", &["banger-core"]),
    ("banger-dns", &["banger-core"]),
    ("banger-files", &["banger-guest-proto"]),
    ("banger-login", &["banger-guest-proto"]),
    (
        "banger-guest",
        &["banger-core", "banger-files", "banger-guest-proto"],
    ),
    ("banger-rootops", &["banger-core", "banger-root-proto"]),
    ("banger-engine", &["banger-core", "banger-store"]),
    ("banger-install", &["banger-core"]),
    (
        "banger-testkit",
        &[
            "banger-core",
            "banger-engine",
            "banger-root-proto",
            "banger-store",
        ],
    ),
    (
        "banger",
        &[
            "banger-core",
            "banger-api",
            "banger-catalog",
            "banger-client",
            "banger-files",
            "banger-guest",
            "banger-guest-proto",
            "banger-install",
            "banger-workspace",
        ],
    ),
    (
        "bangerd",
        &[
            "banger-core",
            "banger-api",
            "banger-catalog",
            "banger-engine",
            "banger-store",
            "banger-image",
            "banger-build",
            "banger-files",
            "banger-oci",
            "banger-kernel",
            "banger-vmm",
            "banger-guest",
            "banger-guest-proto",
            "banger-workspace",
            "banger-dns",
            "banger-root-proto",
        ],
    ),
    (
        "bangerd-root",
        &["banger-core", "banger-root-proto", "banger-rootops"],
    ),
    (
        "banger-vsock-agent",
        &[
            "banger-core",
            "banger-files",
            "banger-guest-proto",
            "banger-login",
        ],
    ),
    ("banger-sshd", &["banger-guest-proto", "banger-login"]),
    (
        "banger-workspace",
        &[
            "banger-ext4",
            "banger-files",
            "banger-guest",
            "banger-guest-proto",
        ],
    ),
    ("banger-vhost-vsock", &[]),
    (
        "banger-e2e",
        &[
            "banger-core",
            "banger-guest",
            "banger-guest-proto",
            "banger-store",
        ],
    ),
    ("banger-host-vm", &["banger-vmm"]),
    ("xtask", &[]),
];

/// Packages whose whole tree must be free of these crates: an async runtime, HTTP, TLS, SQLite.
const SPARE: &[&str] = &["bangerd-root", "banger-vsock-agent", "banger-vhost-vsock"];
const HEAVY: &[&str] = &[
    "tokio",
    "async-std",
    "hyper",
    "axum",
    "rustls",
    "ring",
    "openssl",
    "rusqlite",
    "libsqlite3-sys",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDep>,
}

#[derive(Deserialize)]
struct NodeDep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Deserialize)]
struct DepKind {
    kind: Option<String>,
}

impl NodeDep {
    fn is_normal(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

/// Adds a line for each dependency that goes the wrong way.
pub(crate) fn check(problems: &mut Vec<String>) -> Result<()> {
    let metadata = load()?;
    let names: HashMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|p| (p.id.as_str(), p.name.as_str()))
        .collect();
    let nodes: HashMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|n| (n.id.as_str(), n))
        .collect();
    let ours: BTreeSet<&str> = metadata
        .workspace_members
        .iter()
        .map(|id| names[id.as_str()])
        .collect();

    for member in &metadata.workspace_members {
        let name = names[member.as_str()];
        let Some((_, allowed)) = ALLOWED.iter().find(|(package, _)| *package == name) else {
            problems.push(format!("{name}: has no row in xtask/src/deps.rs"));
            continue;
        };
        for dep in nodes[member.as_str()]
            .deps
            .iter()
            .filter(|dep| dep.is_normal())
        {
            let dep = names[dep.pkg.as_str()];
            if ours.contains(dep) && !allowed.contains(&dep) {
                problems.push(format!("{name}: may not depend on {dep}"));
            }
        }
        if SPARE.contains(&name) {
            for heavy in tree_of(member, &nodes).into_iter().map(|id| names[id]) {
                if HEAVY.contains(&heavy) {
                    problems.push(format!("{name}: its tree may not hold {heavy}"));
                }
            }
        }
    }
    Ok(())
}

fn load() -> Result<Metadata> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
        ])
        .arg("x86_64-unknown-linux-gnu")
        .output()
        .context("failed to run cargo metadata")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("failed to read cargo's metadata")
}

/// Everything that `root` needs when it is built, by package id.
fn tree_of<'a>(root: &'a str, nodes: &HashMap<&'a str, &'a Node>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(
                nodes[id]
                    .deps
                    .iter()
                    .filter(|d| d.is_normal())
                    .map(|d| d.pkg.as_str()),
            );
        }
    }
    seen
}
