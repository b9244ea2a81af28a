//! Imports the default kernel without a daemon: `cargo run -p banger-kernel --example import -- STORE`.
#![expect(clippy::print_stdout, reason = "an example shows its work")]

use banger_kernel::{ImportRequest, KernelStore, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = std::env::args().nth(1).ok_or("usage: import STORE")?;
    let store = KernelStore::open(std::path::absolute(store)?)?;
    let request = ImportRequest {
        name: None,
        source: Source::Package(None),
        replace: true,
        initrd: None,
        of_image: None,
    };
    let kernel = store.import(&request, &|line| println!("{line}"), &|| false)?;
    println!("{:?} {}", kernel.record, kernel.vmlinux().display());
    Ok(())
}
