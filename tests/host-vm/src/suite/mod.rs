//! The tests, and which of them run.

mod machine;

use crate::host::Host;

/// What a test is given, and how it says that something is wrong.
type Run = Box<dyn Fn(&Host) -> anyhow::Result<()>>;

/// Which suite a test belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// The short one, which runs on every change; and the whole.
    Smoke,
    /// The whole alone.
    Whole,
}

/// One test.
pub(crate) struct Test {
    /// By which it is chosen.
    pub(crate) name: String,
    pub(crate) length: Length,
    /// Why it cannot run here.
    pub(crate) skip: Option<String>,
    pub(crate) run: Run,
}

impl Test {
    fn new(name: &str, length: Length, run: impl Fn(&Host) -> anyhow::Result<()> + 'static) -> Self {
        Self { name: name.to_owned(), length, skip: None, run: Box::new(run) }
    }
}

/// All tests, in the order in which they run.
pub(crate) fn all() -> Vec<Test> {
    machine::tests()
}

/// The tests of a suite whose names have any of these words; without a word, all of it.
pub(crate) fn select(smoke: bool, words: &[String]) -> Vec<Test> {
    let mut tests = all();
    tests.retain(|test| {
        let length = !smoke || test.length == Length::Smoke;
        length && (words.is_empty() || words.iter().any(|word| test.name.contains(word.as_str())))
    });
    tests
}
