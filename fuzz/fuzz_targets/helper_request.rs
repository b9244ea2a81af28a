//! A datagram as the helper receives it from its owner: parsed or refused, never a panic; what was parsed
//! means the same when it is written and read again.
#![no_main]

use banger_root_proto::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = serde_json::from_slice::<Request>(bytes) else {
        return;
    };
    let again = serde_json::to_vec(&request).expect("a request renders as JSON");
    let parsed = serde_json::from_slice::<Request>(&again).expect("what was rendered parses");
    assert_eq!(parsed, request);
    if let Some(vm) = request.vm() {
        assert!(vm.as_str().bytes().all(|b| b.is_ascii_hexdigit()), "{vm}");
    }
    if let Request::LaunchVmm { spec, .. } = &request {
        if spec.check().is_ok() {
            assert!(spec.boot_args.bytes().all(|b| (0x20..0x7f).contains(&b)));
            assert!(spec.drive_fds() <= 2 * spec.drives.len());
        }
    }
});
