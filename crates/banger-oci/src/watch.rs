//! Whoever watches a pull.

/// Is told how far a pull is, and asked whether it shall go on.
pub trait Watch: Sync {
    /// A part of the work begins.
    fn step(&self, title: &str);
    /// How far it is.
    fn line(&self, text: &str);
    /// Whether the pull shall end early.
    fn cancelled(&self) -> bool;
}

/// Nobody watches.
#[derive(Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn step(&self, _: &str) {}

    fn line(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        false
    }
}
