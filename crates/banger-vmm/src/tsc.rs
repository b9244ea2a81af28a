//! The host's real TSC frequency. Under emulation the guest's counter is the host's, and a guest that
//! has to find its frequency by itself often fails for many seconds.

use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use crate::sys::rdtsc;

/// Measures for as long as `over` takes: 20 ms give about 1 in 100,000.
#[must_use]
pub fn measure_tsc_khz(over: Duration) -> u32 {
    let now = || {
        let time = clock_gettime(ClockId::MonotonicRaw);
        (
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec),
            rdtsc(),
        )
    };
    let (start_ns, start_tsc) = now();
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: i64::try_from(over.as_nanos()).unwrap_or(20_000_000),
    };
    // An interrupted pause is a shorter measurement, not a wrong one.
    let _ = poll(&mut [], Some(&pause));
    let (end_ns, end_tsc) = now();
    let elapsed = (end_ns - start_ns).max(1);
    let ticks = i128::from(end_tsc.wrapping_sub(start_tsc));
    u32::try_from(ticks * 1_000_000 / elapsed).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let measure = || f64::from(measure_tsc_khz(Duration::from_millis(50)));
        let ratio = measure() / measure();
        assert!((0.999..1.001).contains(&ratio), "{ratio}");
    }
}
