//! Live names for tab completion: asked of a daemon that runs. With the daemon down nothing is offered,
//! nothing is said, and nothing is started.

use std::time::Duration;

use banger_api::Readiness;
use banger_client::{Client, ClientError};
use clap_complete::engine::CompletionCandidate;

use crate::commands::{find_paths, live_names};

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

/// The sessions of the VM that the line names.
pub(crate) fn sessions() -> Vec<CompletionCandidate> {
    let words = std::env::args_os().filter_map(|word| word.into_string().ok());
    let Some(vm) = vm_of_session(words) else {
        return vec![];
    };
    ask(async |client| {
        let stream = client.connect_guest(&vm, Readiness::None, Some(1)).await?;
        let names = live_names(stream, PATIENCE);
        Ok(names
            .into_iter()
            .map(|(name, help)| candidate(name, Some(help)))
            .collect())
    })
}

/// What stands after `session VERB`, past flags.
fn vm_of_session(words: impl Iterator<Item = String>) -> Option<String> {
    let mut after = words.skip_while(|word| word != "session").skip(2);
    after.find(|word| !word.starts_with('-'))
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
        assert!(offered("banger vm session at").contains(&"attach".to_owned()));
    }

    #[test]
    fn the_vm_is_the_first_word_after_the_verb() {
        let of = |line: &str| super::vm_of_session(line.split(' ').map(str::to_owned));
        let line = "banger -- banger vm session logs --follow demo we";
        assert_eq!(of(line).as_deref(), Some("demo"));
        assert_eq!(of("banger -- banger vm session show"), None);
        assert_eq!(of("banger vm show demo"), None);
    }
}
