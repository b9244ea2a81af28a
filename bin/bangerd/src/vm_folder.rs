//! What is where in a VM's folder.

/// Where the agent of its guest is reached.
pub(crate) const AGENT: &str = "run/v";
/// What its guest says on its console.
pub(crate) const CONSOLE: &str = "run/console";
