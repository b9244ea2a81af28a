//! Copying files. After each of these requests the connection carries records (`tree`), and ends with
//! [`AgentMessage::FilesDone`](crate::AgentMessage::FilesDone) or an error.

use serde::{Deserialize, Serialize};

use crate::WirePath;

/// Send these trees: entries with content, then the last message. The first name of each entry's path
/// is the source's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetFiles {
    /// Files and folders. A link named here is followed, links below are sent as links.
    pub sources: Vec<WirePath>,
}

/// Send what stands at given paths below a folder. The paths follow as records that ask for them, then
/// the end; the answer is an entry for each, also for those where nothing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetPaths {
    /// The folder.
    pub base: WirePath,
    /// With the files' content; else it is a listing.
    pub content: bool,
    /// Also what folders hold. Without any path asked for: all that the base holds.
    pub recursive: bool,
}

/// Take the records that follow, up to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutFiles {
    /// Where to.
    pub target: WirePath,
    /// The target must be a folder that exists. Without: what is sent goes into it when it is a folder,
    /// else the target is the name of the one tree that is sent.
    #[serde(default)]
    pub into: bool,
    /// The target must be no folder: it is the one file that is sent.
    #[serde(default)]
    pub file: bool,
    /// The target is the folder below which the paths stand; it is made with all that leads to it. What
    /// stands in the way is removed, folders with what they hold, and links lead nowhere.
    #[serde(default)]
    pub exact: bool,
}

/// How a transfer went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesDone {
    /// Files, folders and links.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// What was left out, and why: the first of them.
    #[serde(default)]
    pub problems: Vec<FileProblem>,
    /// How many there were beyond those.
    #[serde(default)]
    pub more_problems: u64,
}

/// What was not copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProblem {
    /// Where, for people.
    pub path: String,
    /// Why.
    pub what: String,
}

/// Of a file that ended before all of it was read: it is not copied, and what had its name before stays.
pub const CUT_SHORT: &str = "it became shorter while it was read";
/// Of a file that was written to while it was read: what is copied may be of two moments.
pub const CHANGED: &str = "it changed while it was read";

impl FileProblem {
    /// A sentence for people, with nothing in it that a terminal would obey.
    #[must_use]
    pub fn sentence(&self) -> String {
        let how = match self.what.as_str() {
            CHANGED => "copied, but perhaps not as it was at one moment",
            _ => "not copied",
        };
        let shown = |text: &str| crate::shown(text.as_bytes());
        format!("{how}: {}: {}", shown(&self.path), shown(&self.what))
    }
}

/// The most problems that are told one by one.
const MAX_TOLD: usize = 50;

impl FilesDone {
    /// Something was left out.
    pub fn problem(&mut self, path: &[u8], what: impl Into<String>) {
        if self.problems.len() < MAX_TOLD {
            self.problems.push(FileProblem {
                path: crate::shown(path),
                what: what.into(),
            });
        } else {
            self.more_problems += 1;
        }
    }

    /// Adds what the sender of the same files has left out. That a file was cut short both notice.
    pub fn with_senders(&mut self, sender: Self) {
        let is_cut = |problem: &FileProblem| problem.what == CUT_SHORT;
        if sender.problems.iter().any(is_cut) {
            self.problems.retain(|problem| !is_cut(problem));
        }
        self.problems.extend(sender.problems);
        self.more_problems += sender.more_problems;
    }

    /// Whether nothing was left out.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}
