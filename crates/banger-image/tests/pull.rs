//! Pulled images in the store.
#![expect(clippy::unwrap_used, reason = "helpers of a test are a test")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use banger_image::{BuildError, DeleteError, FileError, Image, ImageStore, PullRequest};
use banger_oci::{AuthFiles, PullError, Registries, Unwatched, Watch};
use banger_testkit::SmallDisk;
use sha2::{Digest as _, Sha256};

/// Cancels as soon as the layers come.
struct Impatient(AtomicBool);

impl Watch for Impatient {
    fn step(&self, title: &str) {
        self.0
            .fetch_or(title.starts_with("pulling"), Ordering::AcqRel);
    }
    fn line(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A layout of one image with one file, `/root/file`.
fn layout(dir: &Path, content: &[u8]) {
    layout_of(dir, content, "/file");
}

/// The same, of an image that wants to run this. Returns its only layer.
fn layout_of(dir: &Path, content: &[u8], command: &str) -> PathBuf {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |bytes: &[u8]| {
        fs::write(blobs.join(hex(bytes)), bytes).unwrap();
        format!(r#""digest":"sha256:{}","size":{}"#, hex(bytes), bytes.len())
    };
    let mut tar = vec![0; 512];
    tar[..9].copy_from_slice(b"root/file");
    tar[100..107].copy_from_slice(b"0000600");
    tar[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    tar[156] = b'0';
    tar[148..156].copy_from_slice(b"        ");
    let sum: u32 = tar.iter().map(|byte| u32::from(*byte)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["{command}"],"StopSignal":"SIGQUIT"}},"rootfs":{{"diff_ids":["sha256:{}"]}}}}"#,
        hex(&tar)
    );
    let path = blobs.join(hex(&tar));
    let (layer, config) = (add(&tar), add(config.as_bytes()));
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{{config}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar",{layer}}}]}}"#
    );
    let manifest = add(manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{{manifest}}}]}}"#);
    fs::write(dir.join("index.json"), index).unwrap();
    path
}

fn request(dir: &Path) -> PullRequest {
    PullRequest {
        reference: format!("oci:{}", dir.display()).parse().unwrap(),
        name: "pulled".parse().unwrap(),
        kernel: None,
        plain_http: false,
        auth: AuthFiles::at(vec![]),
        certificates: vec![],
        registries: Registries::default(),
    }
}

const LOCKS: [&str; 3] = [".blobs", ".turn", ".promoting"];

/// What is in the store's folder, locks and layers left out.
fn left(store: &Path) -> Vec<String> {
    let names = fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let mut left: Vec<String> = names
        .filter(|name| !LOCKS.contains(&name.as_str()) && !name.starts_with(".pull-"))
        .collect();
    left.sort();
    left
}

#[test]
fn an_image_is_made_once_and_replaced_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (at, root) = (dir.path().join("layout"), dir.path().join("store"));
    let store = ImageStore::open(&root).unwrap();
    layout(&at, b"first");
    let first = store.pull(&request(&at), &Unwatched).unwrap();
    assert!(first.rootfs().exists() && first.work_seed().is_some());
    let origin = first.record.origin.clone().unwrap();
    assert_eq!(
        (
            origin.config.cmd[0].as_str(),
            origin.config.stop_signal.as_str()
        ),
        ("/file", "SIGQUIT")
    );
    assert!(origin.manifest.is_some());
    let inode =
        |image: &Image| std::os::unix::fs::MetadataExt::ino(&fs::metadata(image.rootfs()).unwrap());
    let again = store.pull(&request(&at), &Unwatched).unwrap();
    assert_eq!(inode(&again), inode(&first), "it was made again");
    let mut with_kernel = request(&at);
    with_kernel.kernel = Some("6.1".parse().unwrap());
    store.pull(&with_kernel, &Unwatched).unwrap();
    let kept = store.get(&with_kernel.name).unwrap().record;
    assert_eq!(kept.kernel, with_kernel.kernel);
    layout(&at, b"second");
    let second = store.pull(&request(&at), &Unwatched).unwrap();
    assert_ne!(second.record.digest, first.record.digest);
    assert_eq!(
        store.get(&request(&at).name).unwrap().record.digest,
        second.record.digest
    );
    // VMs made from the first one keep it.
    assert!(
        store
            .artefact(&first.record.name, &first.record.digest)
            .is_some()
    );
    assert_eq!(left(&root), ["pulled"]);
}

#[test]
fn an_image_takes_the_layers_that_another_one_has() {
    let dir = tempfile::tempdir().unwrap();
    let (at, root) = (dir.path().join("layout"), dir.path().join("store"));
    let store = ImageStore::open(&root).unwrap();
    let content = [7; 100_000];
    layout(&at, &content);
    let first = store.pull(&request(&at), &Unwatched).unwrap();
    let mut other = request(&at);
    other.name = "other".parse().unwrap();
    let layer = layout_of(&at, &content, "/other");
    // What is in the layer is in the first image; nothing else has it.
    fs::write(&layer, b"gone").unwrap();
    let second = store.pull(&other, &Unwatched).unwrap();
    let found = |image: &Image| {
        // Contents stand at the beginning; the rest is a large hole.
        let mut start = vec![0; 32 << 20];
        let rootfs = fs::File::open(image.rootfs()).unwrap();
        rootfs.read_exact_at(&mut start, 0).unwrap();
        let found = start.chunks(4096).filter(|block| *block == [7; 4096]);
        found.count()
    };
    assert_eq!((found(&first), found(&second)), (24, 24));
    assert_ne!(first.record.digest, second.record.digest);
    // What a pull that goes on has is not taken, whole as it may look.
    let going = root.join(".pulling-other/image");
    fs::create_dir_all(&going).unwrap();
    for file in fs::read_dir(first.rootfs().parent().unwrap()).unwrap() {
        let file = file.unwrap();
        fs::hard_link(file.path(), going.join(file.file_name())).unwrap();
    }
    // An image is no donor any more when it is gone: the layer is looked at again.
    for name in [&other.name, &first.record.name] {
        store.delete(name, Vec::new).unwrap();
    }
    let error = store.pull(&other, &Unwatched).unwrap_err();
    assert!(matches!(error, PullError::Malformed { .. }), "{error:?}");
    assert_eq!(left(&root), [".pulling-other"]);
}

#[test]
fn a_pull_that_fails_or_is_cancelled_leaves_the_store_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (at, root) = (dir.path().join("layout"), dir.path().join("store"));
    let store = ImageStore::open(&root).unwrap();
    layout(&at, b"content");
    let cancelled = store.pull(&request(&at), &Impatient(AtomicBool::new(false)));
    assert!(
        matches!(cancelled, Err(PullError::Cancelled)),
        "{cancelled:?}"
    );
    assert_eq!(left(&root), Vec::<String>::new());
    let blobs = fs::read_dir(at.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let layer = blobs
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    bytes[520] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let failed = store.pull(&request(&at), &Unwatched);
    assert!(matches!(failed, Err(PullError::Flatten(_))), "{failed:?}");
    assert_eq!(left(&root), Vec::<String>::new());
    // What a killed pull has left goes when the store is opened the next time.
    fs::create_dir(root.join(".pulling-x")).unwrap();
    ImageStore::open(&root).unwrap();
    assert_eq!(left(&root), Vec::<String>::new());
}

#[test]
fn a_deleted_image_is_gone_with_its_layers_unless_somebody_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let (at, root) = (dir.path().join("layout"), dir.path().join("store"));
    let store = ImageStore::open(&root).unwrap();
    layout(&at, b"content");
    let image = store.pull(&request(&at), &Unwatched).unwrap();
    let name = &image.record.name;
    let layer = root.join(".blobs").join("0".repeat(64));
    fs::write(&layer, "a layer of nobody's").unwrap();
    let used = store.delete(name, || vec!["the VM `a`".to_owned()]);
    assert!(matches!(used, Err(DeleteError::InUse(_))), "{used:?}");
    assert!(store.get(name).is_some() && image.rootfs().exists());
    let freed = store.delete(name, Vec::new).unwrap();
    assert!(freed > 0 && store.get(name).is_none() && !layer.exists());
    assert_eq!(left(&root), Vec::<String>::new());
    let again = store.delete(name, Vec::new);
    assert!(matches!(again, Err(DeleteError::NotFound(_))), "{again:?}");
    // One that was cut short is finished when the store is opened the next time.
    store.pull(&request(&at), &Unwatched).unwrap();
    fs::rename(root.join("pulled"), root.join(".going-x")).unwrap();
    ImageStore::open(&root).unwrap();
    assert_eq!(left(&root), Vec::<String>::new());
}

/// Also when it is the very last step that finds no room: on a file system of its own, so that it is real.
#[test]
fn a_full_disk_is_told_as_one_and_leaves_nothing() {
    let disk = match SmallDisk::new(24) {
        Ok(disk) => disk,
        Err(why) => {
            println!("SKIPPED(a full disk in a pull): {why}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("layout");
    let content: Vec<u8> = (0..30_000_000_u32).map(|at| (at % 251) as u8).collect();
    layout(&at, &content);
    let store = ImageStore::open(disk.path()).unwrap();
    let failed = store.pull(&request(&at), &Unwatched).unwrap_err();
    assert!(failed.is_disk_full(), "{failed:?}");
    assert_eq!(left(disk.path()), Vec::<String>::new());
    // The same where the image itself finds room, and what is written last does not.
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let adopting = BuildError::Io(FileError {
        what: "write",
        path: disk.path().to_owned(),
        source: full,
    });
    let told = PullError::Io {
        what: "keep the image in",
        path: disk.path().to_owned(),
        source: adopting.into_io(),
    };
    assert!(told.is_disk_full());
}

#[test]
fn two_pulls_of_one_name_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (at, root) = (dir.path().join("layout"), dir.path().join("store"));
    let store = ImageStore::open(&root).unwrap();
    layout(&at, &[7; 100_000]);
    let digests: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| store.pull(&request(&at), &Unwatched).unwrap()))
            .collect();
        pulls
            .into_iter()
            .map(|pull| pull.join().unwrap().record.digest)
            .collect()
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    assert_eq!(left(&root), ["pulled"]);
}
