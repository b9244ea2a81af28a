//! Boot after boot with a client that dials before there is anything to dial. `scripts/boots` does the same
//! a hundred times.

use banger_e2e::{Banger, boots};

#[test]
fn a_client_that_dials_from_the_first_millisecond_is_answered() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--no-start", "--image", "debian-minimal", "--memory", "256"]);
    let boots = boots(&banger, &vm, 10);
    println!("{}", boots.summary());
    assert_eq!(boots.unanswered, Vec::<String>::new());
    assert_eq!(boots.answered.len(), 10);
}
