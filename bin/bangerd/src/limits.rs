//! How many files this process may have open: two for each VM that runs (its processes are watched), and one for each
//! client.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is enough for anything.
const ENOUGH: u64 = 65_536;
/// What a host with some VMs needs.
pub(crate) const LITTLE: u64 = 1024;

/// Raises the limit as far as this user may, and as far as it makes sense. What cannot be raised is told by doctor.
pub(crate) fn raise_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, raised(limit));
}

/// How many files may be open.
pub(crate) fn files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn raised(limit: Rlimit) -> Rlimit {
    let most = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    Rlimit {
        current: limit.current.map(|current| current.max(most)),
        maximum: limit.maximum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_raised_and_never_lowered() {
        let limit = |current, maximum| Rlimit { current, maximum };
        for (before, after) in [
            (
                limit(Some(1024), Some(524_288)),
                limit(Some(65_536), Some(524_288)),
            ),
            (limit(Some(1024), Some(4096)), limit(Some(4096), Some(4096))),
            (limit(Some(1024), None), limit(Some(65_536), None)),
            (limit(Some(100_000), None), limit(Some(100_000), None)),
            (limit(None, None), limit(None, None)),
        ] {
            assert_eq!(raised(before), after);
        }
    }
}
