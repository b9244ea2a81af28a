//! What VMs hold that was never pulled: told before it is gone, and when a VM stops.

use banger_api::{UnpulledList, UnpulledWorkspace};
use banger_client::{Client, ClientError};
use banger_core::ErrorCode;
use futures_util::future::join_all;

use super::Context;
use crate::error::CommandError;

/// So many of a workspace's files are named.
const NAMED: usize = 3;

/// A sentence for each workspace that holds something, and for each VM of which it is not known. A VM that is not
/// there has none.
pub(super) async fn sentences(client: &Client, vms: &[String]) -> Vec<String> {
    // Side by side: a guest that does not answer is waited for.
    let asked = join_all(vms.iter().map(|vm| client.unpulled(vm))).await;
    let told = |(vm, asked): (&String, Result<UnpulledList, ClientError>)| match asked {
        Ok(found) => of_one(&found),
        Err(ClientError::Api(error)) if error.code == ErrorCode::VmNotFound => vec![],
        Err(error) => vec![not_known(vm, &error.to_string())],
    };
    vms.iter().zip(asked).flat_map(told).collect()
}

fn of_one(found: &UnpulledList) -> Vec<String> {
    let workspaces = found.workspaces.iter();
    let held = workspaces.map(|one| sentence(&found.vm, one));
    let unknown = found.unknown.as_deref();
    held.chain(unknown.map(|why| not_known(&found.vm, why)))
        .collect()
}

fn not_known(vm: &str, why: &str) -> String {
    format!("it is not known whether {vm} holds work that was never pulled: {why}")
}

fn sentence(vm: &str, one: &UnpulledWorkspace) -> String {
    let counted = |count: u64, what: &str| match count {
        0 => None,
        1 => Some(format!("1 {what}")),
        count => Some(format!("{count} {what}s")),
    };
    // Names are the guest's word: they must not steer the terminal.
    let shown = |text: &str| banger_guest_proto::shown(text.as_bytes());
    let files = one.files.len() as u64 + one.more_files;
    let named: Vec<String> = one
        .files
        .iter()
        .take(NAMED)
        .map(|name| shown(name))
        .collect();
    let more = if files > named.len() as u64 {
        ", …"
    } else {
        ""
    };
    let commits = counted(one.commits, "commit");
    let tags = counted(one.tags, "tag");
    let changed = counted(files, "changed file");
    let changed = changed.map(|count| format!("{count} ({}{more})", named.join(", ")));
    let what: Vec<String> = [commits, tags, changed].into_iter().flatten().collect();
    let path = shown(&one.path);
    format!(
        "{vm} holds work in {path} that was never pulled: {}",
        what.join(", ")
    )
}

/// Asks whether that may be gone; without a terminal it may not.
pub(super) fn may_go(context: &Context<'_>, sentences: &[String]) -> Result<(), CommandError> {
    if !rustix::termios::isatty(rustix::stdio::stdin()) {
        let what = "nothing was deleted: there is work, or may be, that is in the guest only";
        let mut told = CommandError::new(ErrorCode::WorkInGuest, what);
        told.0.causes.extend(sentences.iter().cloned());
        return Err(told
            .hint("`banger vm workspace pull VM` brings it here, once the VM runs")
            .hint("--force deletes all the same"));
    }
    let question = format!("{}\nDelete all the same?", sentences.join("\n"));
    let answer = context.ui.confirm(&question).map_err(|error| {
        CommandError::because(ErrorCode::Internal, "the question was not answered", &error)
    })?;
    if answer {
        return Ok(());
    }
    let what = "nothing was deleted";
    Err(CommandError::new(ErrorCode::Cancelled, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_counts_and_names() {
        let mut one = UnpulledWorkspace {
            path: "/root/repo".to_owned(),
            commits: 2,
            tags: 3,
            files: ["a", "b\u{1b}", "c", "d"].map(str::to_owned).into(),
            more_files: 7,
        };
        insta::assert_snapshot!(sentence("demo", &one), @r"demo holds work in /root/repo that was never pulled: 2 commits, 3 tags, 11 changed files (a, b\u{1b}, c, …)");
        (one.commits, one.tags, one.more_files) = (1, 0, 0);
        one.files.clear();
        insta::assert_snapshot!(sentence("demo", &one), @"demo holds work in /root/repo that was never pulled: 1 commit");
    }
}
