use super::*;
use crate::{Below, RegisterRequest, make_root_disk};
use banger_core::RootStorage;

fn run(program: &str, args: &[&str], path: &Path) {
    let mut command = Command::new(program);
    succeeded(command.args(args).arg(path), &[0]).unwrap();
}

/// A small image, and the folder of a VM over it as a build leaves it.
fn builder(dir: &Path, storage: RootStorage) -> (ImageStore, BuildCache, Cached) {
    let store = ImageStore::open(dir.join("images")).unwrap();
    let rootfs = dir.join("base.ext4");
    File::create(&rootfs).unwrap().set_len(64 << 20).unwrap();
    run(
        "mke2fs",
        &["-q", "-t", "ext4", "-F", "-E", "lazy_journal_init=1"],
        &rootfs,
    );
    let image = store
        .register(&RegisterRequest {
            name: "base".parse().unwrap(),
            rootfs: rootfs.clone(),
            work_seed: None,
            kernel: None,
            contents: vec!["a 1".into()],
        })
        .unwrap();
    let vm = dir.join("vm");
    fs::create_dir(&vm).unwrap();
    make_root_disk(storage, &rootfs, &vm.join(storage.file_name())).unwrap();
    crate::make_work_disk(None, &vm.join("work.ext4"), ByteSize(1 << 30)).unwrap();
    let below = Below {
        image: "base".parse().unwrap(),
        digest: image.record.digest,
        storage,
    };
    let cache = store.build_cache().unwrap();
    let kept = cache.keep("end", below, &vm).unwrap();
    (store, cache, kept)
}

fn request(kept: &Cached, name: &str) -> FinishRequest {
    FinishRequest {
        name: name.parse().unwrap(),
        built: Built {
            base: kept.below.image.clone(),
            base_digest: kept.below.digest.clone(),
            key: "end".into(),
            config: ImageConfig::default(),
            labels: BTreeMap::new(),
            volumes: vec![],
        },
        size: None,
    }
}

#[test]
fn the_same_disks_make_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let (store, cache, kept) = builder(dir.path(), RootStorage::Qcow2);
    let one = store.finish(request(&kept, "one"), &cache, &kept).unwrap();
    // A second apart, so that no time that is written down can be the same by chance.
    let second = std::time::Duration::from_millis(1100);
    let before = std::time::Instant::now();
    while before.elapsed() < second {
        std::thread::park_timeout(second - before.elapsed());
    }
    let two = store.finish(request(&kept, "two"), &cache, &kept).unwrap();
    assert_eq!(one.record.digest, two.record.digest);
    assert_eq!(one.record.contents, ["a 1"]);
    assert_eq!(one.record.built.as_ref().unwrap().key, "end");
    let (total, free) = room(&one.rootfs()).unwrap();
    assert!(free > FREE - GIB / 2 && total < 10 * GIB, "{total} {free}");
    let seed = one.work_seed().unwrap();
    assert!(
        fs::metadata(&seed).unwrap().len() < 256 << 20,
        "it is copied for each VM"
    );
    for disk in [one.rootfs(), seed] {
        run("e2fsck", &["-fn"], &disk);
    }
    let large = FinishRequest {
        size: Some(ByteSize(20 * GIB)),
        ..request(&kept, "large")
    };
    let large = store.finish(large, &cache, &kept).unwrap();
    assert_eq!(room(&large.rootfs()).unwrap().0, 20 * GIB);
}

#[test]
fn what_is_no_file_system_becomes_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let (store, cache, kept) = builder(dir.path(), RootStorage::Copy);
    fs::write(kept.work(), vec![7; 1 << 20]).unwrap();
    let error = store
        .finish(request(&kept, "broken"), &cache, &kept)
        .unwrap_err();
    assert!(matches!(error, FinishError::Disk(_)), "{error}");
    assert!(store.get(&"broken".parse().unwrap()).is_none());
    store.delete(&"base".parse().unwrap(), Vec::new).unwrap();
    let error = store
        .finish(request(&kept, "broken"), &cache, &kept)
        .unwrap_err();
    assert!(matches!(error, FinishError::NoBase(_)), "{error}");
    let left = fs::read_dir(dir.path().join("images/.builds")).unwrap();
    assert_eq!(left.count(), 2, "the lock and an entry");
}
