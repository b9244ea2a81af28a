//! What VMs use: looked at when somebody asks, never otherwise, so that an idle host sleeps. An answer may
//! be as old as the asker's interval allows; so however many ask, a guest is woken once in that time.

mod disks;
mod host;
mod metrics;
mod sampler;

pub(crate) use host::traffic;
pub(crate) use metrics::render;
pub(crate) use sampler::Sampler;

use banger_core::TimeSpan;
use std::time::Duration;

use crate::config::Config;

/// How old figures for `vm stats` may be where nobody says otherwise.
const STATS: Duration = Duration::from_secs(1);
/// The same for `/metrics`.
const METRICS: Duration = Duration::from_secs(15);

/// How old the answer to `vm stats` may be.
pub(crate) fn stats_age(config: &Config) -> Duration {
    age(config.stats_poll_interval, STATS)
}

/// How old the answer to a scrape may be.
pub(crate) fn metrics_age(config: &Config) -> Duration {
    age(config.metrics_poll_interval, METRICS)
}

/// Off: each question is a new look.
fn age(configured: Option<TimeSpan>, default: Duration) -> Duration {
    configured.map_or(default, |span| span.on().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_a_default_and_can_be_off() {
        let mut config = Config::default();
        assert_eq!((stats_age(&config), metrics_age(&config)), (STATS, METRICS));
        config.stats_poll_interval = Some(TimeSpan::seconds(0));
        config.metrics_poll_interval = Some(TimeSpan::seconds(60));
        assert_eq!(stats_age(&config), Duration::ZERO);
        assert_eq!(metrics_age(&config), Duration::from_secs(60));
    }
}
