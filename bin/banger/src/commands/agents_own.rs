//! The agent's own program, run in a guest: for what the image need not have a program for.

use banger_core::ErrorCode;
use banger_guest_proto::ExecRequest;

use crate::error::CommandError;

/// What it says to a word that it does not know.
pub(super) const UNKNOWN_WORD: u8 = 2;

/// Runs it with these words.
pub(super) fn request<const N: usize>(words: [&str; N]) -> ExecRequest {
    ExecRequest::own(["/proc/self/exe"].into_iter().chain(words))
}

/// It does not know the word: an older banger has booted that VM.
pub(super) fn too_old(vm: &str, cannot: &str) -> CommandError {
    let what = format!("the agent in {vm} is older and cannot {cannot}");
    CommandError::new(ErrorCode::AgentTooOld, what).hint(format!("banger vm restart {vm}"))
}
