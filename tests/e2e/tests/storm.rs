//! Daemon and helper are killed while VMs are worked on. `scripts/kill-storm` does the same two hundred times.

use banger_e2e::{Banger, storm};

#[test]
fn nothing_is_lost_stuck_or_left_behind_when_daemons_are_killed_at_random() {
    let storm = storm(&Banger::from_env(), 15, 3, 1);
    println!("{}", storm.summary());
    assert_eq!(storm.problems, Vec::<String>::new());
}
