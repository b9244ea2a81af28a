//! Checks that compilers do not make: who may depend on whom, and how large a file may be.
//!
//! `cargo xtask check` runs all of them, `cargo xtask deps` and `cargo xtask files` one each.
#![expect(
    clippy::print_stdout,
    reason = "a command-line tool of the workspace's own"
)]

mod deps;
mod files;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let mut problems = Vec::new();
    match std::env::args().nth(1).as_deref() {
        Some("deps") => deps::check(&mut problems)?,
        Some("files") => files::check(&mut problems)?,
        Some("check") => {
            deps::check(&mut problems)?;
            files::check(&mut problems)?;
        }
        _ => bail!("usage: cargo xtask check|deps|files"),
    }
    for problem in &problems {
        println!("{problem}");
    }
    if problems.is_empty() {
        println!("xtask: dependency direction and file sizes are as they should be");
        return Ok(());
    }
    bail!("{} problem(s)", problems.len())
}
