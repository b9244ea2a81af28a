use super::*;
use crate::RegisterRequest;

fn store() -> (tempfile::TempDir, ImageStore, Below) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path().join("images")).unwrap();
    let rootfs = dir.path().join("root.ext4");
    let mut bytes = vec![0; 4096];
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    fs::write(&rootfs, bytes).unwrap();
    let image = store
        .register(&RegisterRequest {
            name: "base".parse().unwrap(),
            rootfs,
            work_seed: None,
            kernel: None,
            contents: vec![],
        })
        .unwrap();
    let below = Below {
        image: image.record.name,
        digest: image.record.digest,
        storage: RootStorage::Qcow2,
    };
    (dir, store, below)
}

fn vm(dir: &Path, content: u8) -> PathBuf {
    let vm = dir.join("vm");
    fs::create_dir_all(&vm).unwrap();
    fs::write(vm.join("root.qcow2"), vec![content; 100_000]).unwrap();
    fs::write(vm.join("work.ext4"), vec![content; 10]).unwrap();
    vm
}

#[test]
fn what_was_kept_is_put_into_a_vm_again() {
    let (dir, store, below) = store();
    let cache = store.build_cache().unwrap();
    assert!(cache.get("k1", &store).is_none());
    let vm_folder = vm(dir.path(), 1);
    cache.keep("k1", below.clone(), &vm_folder).unwrap();
    vm(dir.path(), 2);
    // Of two that make the same, the first counts.
    cache.keep("k1", below.clone(), &vm_folder).unwrap();
    let entry = cache.get("k1", &store).unwrap();
    assert_eq!(entry.below, below);
    entry.put_into(&vm_folder).unwrap();
    assert_eq!(
        fs::read(vm_folder.join("root.qcow2")).unwrap(),
        vec![1; 100_000]
    );
    assert_eq!(fs::read(vm_folder.join("work.ext4")).unwrap(), [1; 10]);
    assert_eq!(fs::read_dir(&vm_folder).unwrap().count(), 2);
    // Without what it lies over it is worth nothing.
    store.delete(&below.image, Vec::new).unwrap();
    assert!(cache.get("k1", &store).is_none());
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let (dir, store, below) = store();
    let cache = store.build_cache().unwrap();
    let vm = vm(dir.path(), 1);
    for (key, age) in [("a", 30), ("b", 20), ("c", 10)] {
        cache.keep(key, below.clone(), &vm).unwrap();
        let record = File::open(dir.path().join("images/.builds").join(key).join(RECORD));
        let then = SystemTime::now() - std::time::Duration::from_secs(age);
        record.unwrap().set_modified(then).unwrap();
    }
    assert_eq!(cache.prune(ByteSize(1 << 30), &[]).unwrap(), 0);
    cache.get("a", &store).unwrap();
    let freed = cache.prune(ByteSize(150_000), &["b".to_owned()]).unwrap();
    assert!(freed >= 200_000, "{freed}");
    let left = ["a", "b", "c"].map(|key| cache.get(key, &store).is_some());
    assert_eq!(left, [false, true, false], "the one to keep");
}

#[test]
fn a_build_that_was_killed_leaves_nothing() {
    let (dir, store, below) = store();
    let coming = dir.path().join("images/.builds/.coming-x");
    fs::create_dir_all(&coming).unwrap();
    fs::write(coming.join("root"), "half").unwrap();
    let cache = store.build_cache().unwrap();
    assert!(!coming.exists());
    let missing = dir.path().join("missing");
    cache.keep("k", below, &missing).unwrap_err();
    assert!(cache.get("k", &store).is_none());
    let left = fs::read_dir(dir.path().join("images/.builds"))
        .unwrap()
        .count();
    assert_eq!(left, 1, "the lock");
    // While another has it open, nothing of it is removed.
    fs::create_dir_all(&coming).unwrap();
    let _second = store.build_cache().unwrap();
    assert!(coming.exists());
}
