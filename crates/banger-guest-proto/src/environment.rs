//! The environment of a VM: variables that every command of its owner's gets in it, beneath its own.

use std::collections::HashMap;
use std::fmt;

/// The most variables.
pub const MAX_VARIABLES: usize = 1024;

/// The most bytes of all names and values, each variable with its `=` and its end, as execve(2) counts them: what Linux
/// takes of a single one. So they fit into one frame, however they are escaped.
pub const MAX_ENVIRONMENT: usize = 128 << 10;

/// Variables that a VM can have: each name once, none malformed, not too many, not too large.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

/// Values may be secrets: names only.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

/// Variables that no VM can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvironment {
    /// More than [`MAX_VARIABLES`].
    #[error("{count} variables are too many: a VM's environment takes {MAX_VARIABLES}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// More than [`MAX_ENVIRONMENT`].
    #[error(
        "{bytes} bytes of variables are too many: a VM's environment takes {} KiB",
        MAX_ENVIRONMENT >> 10
    )]
    TooLarge {
        /// How large they are.
        bytes: usize,
    },
    /// It is empty, or has a `=`, a blank or a control character.
    #[error("`{}` is no variable's name", name.escape_debug())]
    Name {
        /// The beginning of the name.
        name: String,
    },
    /// It has a zero byte.
    #[error("the value of `{name}` has a zero byte")]
    Value {
        /// Whose.
        name: String,
    },
}

impl Environment {
    /// Takes the variables in; the later of two with one name counts.
    ///
    /// # Errors
    /// [`BadEnvironment`]; what is told of it holds no value.
    pub fn new(variables: Vec<(String, String)>) -> Result<Self, BadEnvironment> {
        let mut once: Vec<(String, String)> = vec![];
        let mut places: HashMap<String, usize> = HashMap::new();
        for (name, value) in variables {
            let bad = |c: char| c == '=' || c.is_whitespace() || c.is_control();
            if name.is_empty() || name.contains(bad) {
                let name = name.chars().take(60).collect();
                return Err(BadEnvironment::Name { name });
            }
            if value.contains('\0') {
                return Err(BadEnvironment::Value { name });
            }
            match places.get(&name) {
                Some(at) => once[*at].1 = value,
                None => {
                    places.insert(name.clone(), once.len());
                    once.push((name, value));
                }
            }
        }
        let count = once.len();
        if count > MAX_VARIABLES {
            return Err(BadEnvironment::TooMany { count });
        }
        let bytes = once
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2);
        let bytes = bytes.sum();
        if bytes > MAX_ENVIRONMENT {
            return Err(BadEnvironment::TooLarge { bytes });
        }
        Ok(Self(once))
    }

    /// The variables.
    #[must_use]
    pub fn variables(&self) -> &[(String, String)] {
        &self.0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn the_later_of_two_counts_and_no_value_is_shown() {
        let all = vec![pair("A", "s3cret"), pair("B", ""), pair("A", "s3cret2")];
        let environment = Environment::new(all).unwrap();
        assert_eq!(
            environment.variables(),
            [pair("A", "s3cret2"), pair("B", "")]
        );
        assert_eq!(format!("{environment:?}"), r#"["A", "B"]"#);
    }

    #[test]
    fn what_no_vm_can_have_is_refused_without_its_value() {
        for name in ["", "A=", "A B", "A\n", "\u{1b}[2J"] {
            let error = Environment::new(vec![pair(name, "s3cret")]).unwrap_err();
            assert!(matches!(error, BadEnvironment::Name { .. }), "{name:?}");
            let told = error.to_string();
            assert!(
                !told.contains("s3cret") && !told.contains('\u{1b}'),
                "{told}"
            );
        }
        let error = Environment::new(vec![pair("A", "s3cret\0")]).unwrap_err();
        assert_eq!(error.to_string(), "the value of `A` has a zero byte");
        let many = (0..=MAX_VARIABLES).map(|n| (format!("V{n}"), String::new()));
        let error = Environment::new(many.clone().collect()).unwrap_err();
        assert_eq!(error, BadEnvironment::TooMany { count: 1025 });
        assert!(Environment::new(many.skip(1).collect()).is_ok());
        let of_size = |size| Environment::new(vec![("A".to_owned(), "x".repeat(size))]);
        assert!(of_size(MAX_ENVIRONMENT - 3).is_ok());
        let error = of_size(MAX_ENVIRONMENT - 2).unwrap_err();
        assert_eq!(
            error,
            BadEnvironment::TooLarge {
                bytes: (128 << 10) + 1
            }
        );
    }

    #[test]
    fn the_largest_fits_into_a_frame_however_it_is_escaped() {
        let size = MAX_ENVIRONMENT / MAX_VARIABLES - 2;
        let variables = (0..MAX_VARIABLES).map(|n| {
            let name = format!("V{n:04}");
            let value = "\u{1}".repeat(size - name.len());
            (name, value)
        });
        let environment = Environment::new(variables.collect()).unwrap();
        let message = crate::ClientMessage::SetEnvironment {
            variables: environment.variables().to_vec(),
        };
        let mut bytes = vec![];
        crate::encode_control(&mut bytes, &message);
        assert!(bytes.len() <= crate::MAX_FRAME, "{}", bytes.len());
    }

    proptest! {
        #[test]
        fn what_is_taken_in_is_within_bounds_and_taken_in_again(
            variables in proptest::collection::vec((".{0,3}", ".{0,40}"), 0..40),
        ) {
            if let Ok(environment) = Environment::new(variables.clone()) {
                let taken = environment.variables();
                let names: std::collections::HashSet<_> = taken.iter().map(|(name, _)| name).collect();
                prop_assert_eq!(names.len(), taken.len());
                for (name, value) in taken {
                    let last = variables.iter().rev().find(|(other, _)| other == name);
                    prop_assert_eq!(last.map(|(_, value)| value), Some(value));
                }
                prop_assert_eq!(Environment::new(taken.to_vec()), Ok(environment.clone()));
            }
        }
    }
}
