//! A config drive's bytes: what the guest's first process reads before anything else.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = banger_guest_proto::decode(bytes) {
        let again = banger_guest_proto::encode(&config);
        let decoded = banger_guest_proto::decode(&again).expect("what was encoded decodes");
        assert_eq!(format!("{decoded:?}"), format!("{config:?}"));
    }
});
