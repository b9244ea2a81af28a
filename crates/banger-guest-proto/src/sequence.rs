//! Accounting for every byte of a session's log, on the receiver's side.

/// What the receiver of a log expects next. Whatever is missing must have been announced as a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    next: u64,
    /// Records of the other stream are left out, which no gap announces.
    filtered: bool,
}

/// The sender skipped or repeated bytes without saying so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log goes on at {got}, where {expected} was to come")]
pub struct OutOfSequence {
    /// Where it should have gone on.
    pub expected: u64,
    /// Where it went on.
    pub got: u64,
}

impl Sequence {
    /// A log from this position on; `filtered` when only one of the streams comes.
    #[must_use]
    pub const fn new(from: u64, filtered: bool) -> Self {
        Self {
            next: from,
            filtered,
        }
    }

    /// The position after all that came.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    fn check(&self, at: u64) -> Result<(), OutOfSequence> {
        if at == self.next || (self.filtered && at > self.next) {
            return Ok(());
        }
        Err(OutOfSequence {
            expected: self.next,
            got: at,
        })
    }

    /// These bytes came.
    ///
    /// # Errors
    /// [`OutOfSequence`] when others were to come.
    pub fn record(&mut self, at: u64, length: usize) -> Result<(), OutOfSequence> {
        self.check(at)?;
        let end = u64::try_from(length).ok().and_then(|n| at.checked_add(n));
        self.next = end.ok_or(OutOfSequence {
            expected: self.next,
            got: at,
        })?;
        Ok(())
    }

    /// These bytes are said to be lost.
    ///
    /// # Errors
    /// [`OutOfSequence`] when others were to come.
    pub fn gap(&mut self, from: u64, to: u64) -> Result<(), OutOfSequence> {
        self.check(from)?;
        if to <= from {
            return Err(OutOfSequence {
                expected: self.next,
                got: to,
            });
        }
        self.next = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_missing_or_twice_is_noticed() {
        let mut all = Sequence::new(5, false);
        assert_eq!(all.record(5, 3), Ok(()));
        let (expected, got) = (8, 9);
        assert_eq!(all.record(9, 1), Err(OutOfSequence { expected, got }));
        assert!(all.record(5, 3).is_err());
        assert_eq!(all.gap(8, 9), Ok(()));
        assert_eq!(all.record(9, 1), Ok(()));
        assert!(all.gap(10, 10).is_err());
        assert_eq!(all.next(), 10);
        let mut one = Sequence::new(0, true);
        assert_eq!(one.record(7, 1), Ok(()));
        assert!(one.record(7, 1).is_err());
        assert!(Sequence::new(u64::MAX, false).record(u64::MAX, 1).is_err());
    }

    proptest! {
        #[test]
        fn what_is_accepted_adds_up(steps in prop::collection::vec((0_u64..50, 0_usize..20, any::<bool>()), 0..50)) {
            let mut sequence = Sequence::new(0, false);
            let mut accounted = 0_u64;
            for (at, length, is_gap) in steps {
                let before = sequence.next();
                let accepted = if is_gap {
                    sequence.gap(at, at + length as u64).is_ok()
                } else {
                    sequence.record(at, length).is_ok()
                };
                if accepted {
                    prop_assert_eq!(at, before);
                    accounted += length as u64;
                }
                prop_assert_eq!(sequence.next(), accounted);
            }
        }
    }
}
