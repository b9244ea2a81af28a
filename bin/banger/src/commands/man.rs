//! `man`: the manual's pages, from the same text as `--help`.

use std::path::Path;

use banger_core::ErrorCode;
use clap::CommandFactory;

use super::CommandResult;
use crate::cli::Cli;
use crate::error::CommandError;
use crate::ui::Ui;

/// Writes a page for each command into a folder.
pub(crate) fn man(ui: &Ui, folder: &Path) -> CommandResult {
    let failed = |error: std::io::Error| {
        let what = format!("the manual could not be written to {}", folder.display());
        CommandError::because(ErrorCode::PermissionDenied, what, &error)
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    ui.note(&format!("man pages are in {}", folder.display()));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::Output;

    #[test]
    fn every_command_has_a_page_with_its_example() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(man(&Ui::new(Output::Json), dir.path()).unwrap(), 0);
        fn check(command: &clap::Command, name: &str, dir: &Path) {
            let page = std::fs::read_to_string(dir.join(format!("{name}.1")));
            let page = page.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(page.contains("NAME"), "{name}");
            if !command.has_subcommands() {
                assert!(page.contains("SH EXTRA"), "{name} has no example");
            }
            for sub in command.get_subcommands() {
                if sub.get_name() != "help" && !sub.is_hide_set() {
                    check(sub, &format!("{name}-{}", sub.get_name()), dir);
                }
            }
        }
        check(&Cli::command(), "banger", dir.path());
        let file = dir.path().join("banger.1/x");
        assert!(
            man(&Ui::new(Output::Json), &file).is_err(),
            "a file is no folder"
        );
    }
}
