//! Random things asked of real guests, against a model. `scripts/random-life` does the same for an hour.

use std::time::Duration;

use banger_e2e::{Banger, random};

#[test]
fn what_happens_to_vms_at_random_is_what_the_model_says() {
    let random = random(&Banger::from_env(), Duration::from_secs(45), 1);
    println!("{}", random.summary());
    assert_eq!(random.problems, Vec::<String>::new());
}
