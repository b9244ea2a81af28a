//! Live names for tab completion: asked of a daemon that runs. With the daemon down nothing is offered,
//! nothing is said, and nothing is started.

use std::time::Duration;

use banger_client::{Client, ClientError};
use clap_complete::engine::CompletionCandidate;

use crate::commands::find_paths;

/// Who presses Tab waits no longer than this.
const PATIENCE: Duration = Duration::from_millis(500);

/// The VMs' names, with what they do.
pub(crate) fn vms() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.vms().await?;
        let candidate = |(name, help)| candidate(name, Some(help));
        let vms = list.vms.into_iter().map(|vm| (vm.name, vm.phase));
        Ok(vms.map(candidate).collect())
    })
}

/// The VMs' names, to be followed by a path.
pub(crate) fn vm_paths() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.vms().await?;
        let names = list.vms.into_iter().map(|vm| format!("{}:", vm.name));
        Ok(names.map(|name| candidate(name, None)).collect())
    })
}

/// The images' names.
pub(crate) fn images() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.images().await?;
        let names = list.images.into_iter().map(|image| image.name);
        Ok(names.map(|name| candidate(name, None)).collect())
    })
}

/// The kernels' names.
pub(crate) fn kernels() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let list = client.kernels().await?;
        let names = list.kernels.into_iter().map(|kernel| kernel.name);
        Ok(names.map(|name| candidate(name, None)).collect())
    })
}

fn candidate(name: String, help: Option<String>) -> CompletionCandidate {
    CompletionCandidate::new(name).help(help.map(Into::into))
}

fn ask(
    question: impl AsyncFnOnce(&Client) -> Result<Vec<CompletionCandidate>, ClientError>,
) -> Vec<CompletionCandidate> {
    let answer = || {
        let client = Client::new(find_paths(false).ok()?.socket());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let answer = async { tokio::time::timeout(PATIENCE, question(&client)).await };
        runtime.block_on(answer).ok()?.ok()
    };
    answer().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::cli::Cli;

    fn offered(line: &str) -> Vec<String> {
        let words: Vec<_> = line.split(' ').map(Into::into).collect();
        let at = words.len() - 1;
        let offered = clap_complete::engine::complete(&mut Cli::command(), words, at, None);
        offered
            .unwrap()
            .iter()
            .map(|one| one.get_value().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn verbs_and_flags_are_offered() {
        assert_eq!(offered("banger vm sh"), ["show"]);
        assert!(offered("banger vm run --im").contains(&"--image".to_owned()));
        assert_eq!(offered("banger completion z"), ["zsh"]);
    }
}
