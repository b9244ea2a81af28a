//! How large a source file may be: one noun per file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Lines beyond which a file must be split, a trailing test module not counted.
const LIMIT: usize = 800;
const ROOTS: &[&str] = &["crates", "bin", "tests", "xtask"];

/// Adds a line for each file that is too large.
pub(crate) fn check(problems: &mut Vec<String>) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for dir in ROOTS {
        collect(&root.join(dir), &mut files)?;
    }
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let product = text
            .split("\n#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or(&text);
        let lines = product.lines().count();
        if lines > LIMIT {
            let file = file.strip_prefix(&root).unwrap_or(&file).display();
            problems.push(format!("{file}: {lines} lines; split it (limit {LIMIT})"));
        }
    }
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
