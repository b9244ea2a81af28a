//! What an image gets by flags instead of a Dockerfile: packages, tools, a script.

mod tools;

use std::str::FromStr;

pub use tools::Tool;

use crate::step::{Action, RunStep, Step};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provision {
    /// Packages of the image's own distribution.
    pub packages: Vec<Package>,
    /// Tools that banger knows.
    pub tools: Vec<Tool>,
    /// A program that is run last: what comes with it is its name and its content.
    pub script: Option<(String, String)>,
}

/// The name of a package, such as `jq` or `libc6:i386` or `git=1:2.39.5-0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package(String);

/// What is no name of a package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a package")]
pub struct ParsePackageError(String);

impl FromStr for Package {
    type Err = ParsePackageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "+.:_~=@/-".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= 200 && text.chars().all(fits) {
            return Ok(Self(text.to_owned()));
        }
        let shown = text.chars().take(60).flat_map(char::escape_debug);
        Err(ParsePackageError(shown.collect()))
    }
}

impl Package {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Functions that every script begins with.
const COMMON: &str = include_str!("provision/common.sh");

impl Provision {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.tools.is_empty() && self.script.is_none()
    }

    /// The steps, in their order. Each tool is there once.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = vec![];
        if !self.packages.is_empty() {
            let mut names: Vec<&str> = self.packages.iter().map(Package::as_str).collect();
            names.sort_unstable();
            names.dedup();
            let names = names.join(" ");
            let text = format!("{COMMON}\ninstall {names}\nclean\n");
            steps.push(script(format!("packages {names}"), text));
        }
        let mut tools = self.tools.clone();
        tools.sort_unstable();
        tools.dedup();
        for tool in tools {
            let text = format!("{COMMON}\n{}\nclean\n", tool.script());
            steps.push(script(format!("with {tool}"), text));
        }
        if let Some((name, content)) = &self.script {
            steps.push(script(format!("script {name}"), content.clone()));
        }
        steps
    }
}

fn script(title: String, content: String) -> Step {
    let run = RunStep {
        env: vec![("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())],
        cwd: "/".to_owned(),
        script: Some(content),
        ..RunStep::default()
    };
    Step {
        title,
        line: None,
        action: Action::Run(run),
    }
}

#[cfg(test)]
mod tests;
