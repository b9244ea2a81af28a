//! From an error to a refusal: the chain of causes is walked once, here.

use std::error::Error;
use std::iter::successors;

use banger_root_proto::{Refusal, RefusalCode};
use rustix::io::Errno;

/// A refusal without a cause.
pub(crate) fn refuse(code: RefusalCode, message: impl Into<String>) -> Refusal {
    Refusal {
        code,
        message: message.into(),
        causes: vec![],
    }
}

/// Turns a failure into a refusal, outermost first.
pub(crate) trait OrRefuse<T> {
    /// The code is the system's own (`DiskFull` when that is the cause, else `System`).
    fn or_refuse(self, message: impl FnOnce() -> String) -> Result<T, Refusal>;
    /// With a code of the caller's choice.
    fn or_refuse_as(
        self,
        code: RefusalCode,
        message: impl FnOnce() -> String,
    ) -> Result<T, Refusal>;
}

impl<T, E: Error + 'static> OrRefuse<T> for Result<T, E> {
    fn or_refuse(self, message: impl FnOnce() -> String) -> Result<T, Refusal> {
        self.map_err(|error| because(code_of(&error), message(), &error))
    }

    fn or_refuse_as(
        self,
        code: RefusalCode,
        message: impl FnOnce() -> String,
    ) -> Result<T, Refusal> {
        self.map_err(|error| because(code, message(), &error))
    }
}

pub(crate) fn because(
    code: RefusalCode,
    message: impl Into<String>,
    error: &(dyn Error + 'static),
) -> Refusal {
    let chain = successors(Some(error as &dyn Error), |e| Error::source(*e));
    Refusal {
        causes: chain.map(ToString::to_string).collect(),
        ..refuse(code, message)
    }
}

fn code_of(error: &(dyn Error + 'static)) -> RefusalCode {
    let full = [Errno::NOSPC, Errno::DQUOT];
    let is_full =
        successors(Some(error as &(dyn Error + 'static)), |e| Error::source(*e)).any(|cause| {
            let errno = cause
                .downcast_ref::<Errno>()
                .copied()
                .or_else(|| Errno::from_io_error(cause.downcast_ref()?));
            errno.is_some_and(|errno| full.contains(&errno))
        });
    if is_full {
        RefusalCode::DiskFull
    } else {
        RefusalCode::System
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart() {
        let full: Result<(), Errno> = Err(Errno::NOSPC);
        let refusal = full.or_refuse(|| "failed to write".into()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::DiskFull);
        let wrapped: Result<(), std::io::Error> = Err(Errno::DQUOT.into());
        assert_eq!(
            wrapped.or_refuse(String::new).unwrap_err().code,
            RefusalCode::DiskFull
        );
        let other: Result<(), Errno> = Err(Errno::PERM);
        assert_eq!(
            other.or_refuse(String::new).unwrap_err().code,
            RefusalCode::System
        );
    }
}
