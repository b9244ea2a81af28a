//! Importing real and bad kernels.

use std::path::PathBuf;

use banger_kernel::{ImportError, ImportRequest, KernelStore, Source, ensure_initrd};

fn request(source: Source) -> ImportRequest {
    ImportRequest {
        name: None,
        source,
        replace: false,
        initrd: None,
        of_image: None,
    }
}

fn file(path: impl Into<PathBuf>) -> ImportRequest {
    request(Source::File {
        path: path.into(),
        modules: None,
    })
}

#[test]
fn what_is_no_kernel_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::open(dir.path().join("kernels")).unwrap();
    let cut = dir.path().join("cut");
    std::fs::write(&cut, b"\x7fELF\x02\x01\x01").unwrap();
    for bad in [
        "/etc/passwd".into(),
        "/no/such/file".into(),
        cut,
        dir.path().to_owned(),
    ] {
        let error = store.import(&file(&bad), &|_| (), &|| false).unwrap_err();
        assert!(
            error.to_string().contains(&bad.display().to_string()),
            "{error}"
        );
    }
    assert_eq!(
        std::fs::read_dir(dir.path().join("kernels"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::open(dir.path()).unwrap();
    let result = store.import(&file("/etc/passwd"), &|_| (), &|| true);
    assert!(matches!(result, Err(ImportError::Cancelled)));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_debian_package_becomes_a_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::open(dir.path().join("kernels")).unwrap();
    let kernel = match store.import(&request(Source::Package(None)), &|_| (), &|| false) {
        Err(ImportError::Missing { program, .. }) if program.starts_with("apt") => {
            println!("SKIPPED (apt): this host has no {program}");
            return;
        }
        result => result.unwrap(),
    };
    assert!(kernel.record.pvh);
    assert!(kernel.record.release.contains("cloud"));
    let elf = std::fs::read(kernel.vmlinux()).unwrap();
    assert!(elf.starts_with(b"\x7fELF"));
    assert!(kernel.modules().unwrap().is_file());
    assert_eq!(store.default_kernel().unwrap().unwrap(), kernel);

    let cache = dir.path().join("initrd");
    let initrd =
        ensure_initrd(&cache, &kernel, std::env::current_exe().unwrap().as_path()).unwrap();
    let text = String::from_utf8_lossy(&std::fs::read(initrd).unwrap()).into_owned();
    let list = text.find("virtio_mmio.ko\n").unwrap();
    assert!(list < text.find("virtio_net.ko\n").unwrap());
}
