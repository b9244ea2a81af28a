//! What is said at the end: a table of times, what failed, what did not run, and one line that counts.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should.
    Passed,
    /// Why it failed.
    Failed(String),
    /// What kept it, each time, from ending: neither passed nor failed.
    CutOff(String),
    /// Why it could not run.
    Skipped(String),
}

/// The exit code when no test has failed, and some could not be brought to an end (`EX_TEMPFAIL`, sysexits.h(3head)).
const CUT_OFF: u8 = 75;

/// Times and outcomes of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    stages: Vec<(String, Duration)>,
    tests: Vec<(String, Duration, Outcome)>,
    figures: Vec<(String, Duration)>,
    again: Vec<(String, String)>,
}

impl Report {
    /// Does a stage, and notes how long it took.
    pub(crate) fn stage<T>(&mut self, name: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let result = act();
        self.stages.push((name.to_owned(), start.elapsed()));
        result
    }

    /// Notes how a test ended.
    pub(crate) fn test(&mut self, name: &str, took: Duration, outcome: Outcome) {
        match &outcome {
            Outcome::Passed => println!("ok      {name} ({:.1} s)", took.as_secs_f64()),
            Outcome::Failed(why) => println!("FAILED  {name} ({:.1} s)\n{why}", took.as_secs_f64()),
            Outcome::CutOff(why) => println!("CUT OFF {name}: {why}"),
            Outcome::Skipped(why) => println!("SKIPPED {name}: {why}"),
        }
        self.tests.push((name.to_owned(), took, outcome));
    }

    /// Notes that a test is run again, and why, with what it said.
    pub(crate) fn again(&mut self, name: &str, why: &str, said: &str) {
        println!("{name} is run again: {why}\n{said}");
        self.again.push((name.to_owned(), why.to_owned()));
    }

    /// Takes what tests have measured, for a table of its own.
    pub(crate) fn figures(&mut self, figures: Vec<(String, Duration)>) {
        self.figures = figures;
    }

    /// Prints the end of the report, and gives the exit code.
    pub(crate) fn finish(&self) -> ExitCode {
        print!("{}", self.render());
        let any = |is: fn(&Outcome) -> bool| self.tests.iter().any(|(.., outcome)| is(outcome));
        let failed = any(|outcome| matches!(outcome, Outcome::Failed(_)));
        if failed || !any(|outcome| *outcome == Outcome::Passed) {
            ExitCode::FAILURE
        } else if any(|outcome| matches!(outcome, Outcome::CutOff(_))) {
            ExitCode::from(CUT_OFF)
        } else {
            ExitCode::SUCCESS
        }
    }

    fn render(&self) -> String {
        let mut text = "\ntiming\n".to_owned();
        let row =
            |name: &str, took: &Duration| format!("  {name:<64} {:>7.1} s\n", took.as_secs_f64());
        for (name, took) in &self.stages {
            text += &row(name, took);
        }
        for (name, took, outcome) in &self.tests {
            if !matches!(outcome, Outcome::Skipped(_)) {
                text += &row(name, took);
            }
        }
        if !self.figures.is_empty() {
            text += "\nstages of a create, then ssh\n";
        }
        for (what, took) in &self.figures {
            text += &format!("  {what:<64} {:>7.2} s\n", took.as_secs_f64());
        }
        let count = |is: fn(&Outcome) -> bool| {
            self.tests
                .iter()
                .filter(|(.., outcome)| is(outcome))
                .count()
        };
        for (name, _, outcome) in &self.tests {
            if let Outcome::Failed(why) = outcome {
                text += &format!("\nFAILED {name}\n{why}\n");
            }
        }
        let mut reasons: Vec<(&str, usize)> = Vec::new();
        for (.., outcome) in &self.tests {
            if let Outcome::Skipped(why) = outcome {
                match reasons.iter_mut().find(|(known, _)| known == why) {
                    Some((_, number)) => *number += 1,
                    None => reasons.push((why, 1)),
                }
            }
        }
        text += "\n";
        for (why, number) in reasons {
            text += &format!("NOT RUN ({number} tests): {why}\n");
        }
        for (name, why) in &self.again {
            text += &format!("RUN AGAIN, as {why}: {name}\n");
        }
        for (name, _, outcome) in &self.tests {
            if let Outcome::CutOff(why) = outcome {
                text += &format!("CUT OFF each time, as {why}: {name}\n");
            }
        }
        text += &format!(
            "host-vm: {} passed, {} failed, {} cut off, {} skipped\n",
            count(|outcome| *outcome == Outcome::Passed),
            count(|outcome| matches!(outcome, Outcome::Failed(_))),
            count(|outcome| matches!(outcome, Outcome::CutOff(_))),
            count(|outcome| matches!(outcome, Outcome::Skipped(_)))
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_say_what_did_not_run_and_count_all() {
        let mut report = Report::default();
        report.test("a", Duration::from_secs(1), Outcome::Passed);
        report.test(
            "b",
            Duration::from_secs(2),
            Outcome::Failed("broken".into()),
        );
        report.test("c", Duration::ZERO, Outcome::Skipped("no binary".into()));
        report.test("d", Duration::ZERO, Outcome::Skipped("no binary".into()));
        let cut_off = Outcome::CutOff("the host crashed".into());
        report.test("e", Duration::from_secs(3), cut_off);
        report.again("a", "the host crashed", "no answer");
        report.figures(vec![("qemu: ssh".into(), Duration::from_millis(1250))]);
        let text = report.render();
        let mut last = text.lines().rev();
        assert_eq!(
            last.next(),
            Some("host-vm: 1 passed, 1 failed, 1 cut off, 2 skipped")
        );
        assert_eq!(
            last.next(),
            Some("CUT OFF each time, as the host crashed: e")
        );
        assert_eq!(last.next(), Some("RUN AGAIN, as the host crashed: a"));
        assert_eq!(last.next(), Some("NOT RUN (2 tests): no binary"));
        assert!(text.contains("FAILED b\nbroken"));
        let figure = text.lines().find(|line| line.contains("qemu: ssh"));
        assert!(figure.is_some_and(|line| line.ends_with(" 1.25 s")));
        assert_eq!(
            format!("{:?}", report.finish()),
            format!("{:?}", ExitCode::FAILURE)
        );
    }

    #[test]
    fn a_run_in_which_nothing_ran_is_a_failure() {
        let mut report = Report::default();
        report.test("c", Duration::ZERO, Outcome::Skipped("no binary".into()));
        assert_eq!(
            format!("{:?}", report.finish()),
            format!("{:?}", ExitCode::FAILURE)
        );
        report.test("a", Duration::ZERO, Outcome::CutOff("no luck".into()));
        assert_eq!(
            format!("{:?}", report.finish()),
            format!("{:?}", ExitCode::FAILURE)
        );
        report.test("a", Duration::ZERO, Outcome::Passed);
        assert_eq!(
            format!("{:?}", report.finish()),
            format!("{:?}", ExitCode::from(CUT_OFF))
        );
        report.tests.remove(1);
        assert_eq!(
            format!("{:?}", report.finish()),
            format!("{:?}", ExitCode::SUCCESS)
        );
    }
}
