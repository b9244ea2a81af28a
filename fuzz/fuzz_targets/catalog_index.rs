//! A catalog's index. Its signature is checked first; a maker's mistakes and later formats must not do harm.
#![no_main]

use banger_catalog::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = Index::parse(bytes) {
        let again = serde_json::to_vec(&index).expect("plain data serialises");
        assert_eq!(Index::parse(&again).expect("it was an index"), index);
        for image in &index.images {
            assert!(!image.name.as_str().contains('/'));
            assert!(index.image(&image.name, &image.architecture).is_some());
        }
        let _ = (index.default_kernel("x86_64"), index.blobs());
    }
});
