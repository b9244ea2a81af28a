//! The tests, and which of them run.

mod absence;
mod beside;
mod confinement;
mod deaths;
mod echo;
mod faults;
mod guest;
mod leaks;
mod life;
mod machine;
mod network;
mod pausing;
mod readme;
mod repo;
mod storage;
mod verbs;
mod world;

use anyhow::Result;

use crate::host::Host;
pub(crate) use guest::Vmm;

/// What a test is given, and how it says that something is wrong.
type Run = Box<dyn Fn(&Host) -> Result<()> + Send + Sync>;

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
    /// Set for a test with guests in that VMM.
    pub(crate) vmm: Option<Vmm>,
    /// What it runs beside.
    pub(crate) company: Company,
    pub(crate) run: Run,
}

/// What a test may run beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Company {
    /// Nothing.
    None,
    /// All others of this kind: it looks at its own VMs alone.
    Any,
    /// The same test in the other VMM, which is called so: what either does to the host both do together, by
    /// [`Host::once`].
    Pair(String),
}

impl Test {
    fn new(
        name: &str,
        length: Length,
        run: impl Fn(&Host) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            length,
            vmm: None,
            company: Company::None,
            run: Box::new(run),
        }
    }

    /// One test for each VMM.
    fn each(name: &str, length: Length, run: fn(&Host, Vmm) -> Result<()>) -> Vec<Self> {
        let one = |vmm: Vmm| Self {
            name: format!("{name}/{}", vmm.name()),
            length,
            vmm: Some(vmm),
            company: Company::None,
            run: Box::new(move |host| run(host, vmm)),
        };
        [Vmm::Qemu, Vmm::Firecracker].map(one).into()
    }

    /// The same for tests that run beside others.
    fn each_beside(name: &str, length: Length, run: fn(&Host, Vmm) -> Result<()>) -> Vec<Self> {
        Self::with(Company::Any, Self::each(name, length, run))
    }

    /// The same for tests that run beside each other.
    fn pair(name: &str, length: Length, run: fn(&Host, Vmm) -> Result<()>) -> Vec<Self> {
        let company = Company::Pair(name.to_owned());
        Self::with(company, Self::each(name, length, run))
    }

    fn with(company: Company, mut tests: Vec<Self>) -> Vec<Self> {
        for test in &mut tests {
            test.company = company.clone();
        }
        tests
    }

    /// One test in the VMM that the host has chosen: what is tested does not depend on it.
    fn best(name: &str, length: Length, run: fn(&Host, Vmm) -> Result<()>) -> Vec<Self> {
        vec![Self::new(name, length, move |host| {
            run(host, Vmm::of(host)?)
        })]
    }
}

/// All tests, in the order in which they run.
pub(crate) fn all() -> Vec<Test> {
    let parts = [
        machine::first(),
        readme::tests(),
        life::tests(),
        verbs::tests(),
        repo::tests(),
        storage::tests(),
        network::tests(),
        beside::tests(),
        confinement::tests(),
        absence::tests(),
        pausing::tests(),
        faults::tests(),
        deaths::tests(),
        leaks::tests(),
    ];
    parts.into_iter().flatten().collect()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_the_smoke_is_a_part_of_the_whole() {
        let all = all();
        let names: BTreeSet<&str> = all.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        let smoke = select(true, &[]);
        assert!(!smoke.is_empty() && smoke.len() <= all.len());
    }

    #[test]
    fn words_choose_tests_by_their_names() {
        let chosen = select(false, &["poweroff".into()]);
        assert!(!chosen.is_empty());
        assert!(chosen.iter().all(|test| test.name.contains("poweroff")));
        assert!(select(false, &["no such test".into()]).is_empty());
    }
}
