//! Catalogs in folders and on servers that behave, and on some that do not.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test are a test"
)]

#[allow(dead_code, reason = "pulls use more of it")]
#[path = "../../banger-oci/tests/common/server.rs"]
mod server;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use banger_catalog::{
    BlobError, Catalog, CatalogError, Draft, ImageFiles, Index, KernelFiles, Location, Packed,
    Settings, SigningKey, publish,
};
use banger_core::Digest;
use banger_oci::{Patience, PullError, RegistryError, Unwatched, Watch};
use banger_testkit::SmallDisk;
use server::{After, Answer, Request, Server};

/// Wants nothing any more after a first word.
struct Fickle(AtomicBool);

impl Watch for Fickle {
    fn step(&self, _: &str) {}
    fn line(&self, _: &str) {
        self.0.store(true, Ordering::Release);
    }
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A workshop: files, a catalog made of them, and its key.
struct Shop {
    dir: tempfile::TempDir,
    key: SigningKey,
}

fn digest(n: u8) -> Digest {
    Digest::of_sha256([n; 32])
}

impl Shop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::make(&dir.path().join("catalog.key")).unwrap();
        let shop = Self { dir, key };
        shop.write("rootfs", 12 << 20);
        shop.write("seed", 1 << 20);
        shop.write("vmlinux", 2 << 20);
        shop.write("segment", 1 << 10);
        shop.make();
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn folder(&self) -> PathBuf {
        self.path("catalog")
    }

    /// A file with holes, and bytes that do not compress in front and in the middle.
    fn write(&self, name: &str, size: u64) {
        let mut state = u32::try_from(name.len()).unwrap();
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(usize::try_from(size / 4).unwrap())
        .collect();
        let file = File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        file.write_all_at(&noise, 0).unwrap();
        file.write_all_at(b"middle", size / 2 + 1).unwrap();
    }

    fn image(&self, name: &str) -> ImageFiles {
        ImageFiles {
            name: name.parse().unwrap(),
            digest: digest(1),
            created_at: "2026-01-02T03:04:05Z".to_owned(),
            kernel: Some("6.1".parse().unwrap()),
            ready: vec!["ssh.service".to_owned()],
            contents: vec!["git 2.39".to_owned()],
            recipe_fingerprint: None,
            origin: None,
            rootfs: self.path("rootfs"),
            work_seed: Some(self.path("seed")),
        }
    }

    fn kernel(&self) -> KernelFiles {
        KernelFiles {
            name: "6.1".parse().unwrap(),
            release: "6.1.0-41-cloud-amd64".to_owned(),
            digest: digest(2),
            source: "a file".to_owned(),
            created_at: "2026-01-02T03:04:05Z".to_owned(),
            vmlinux: self.path("vmlinux"),
            segment: self.path("segment"),
            modules: None,
            initrd: None,
        }
    }

    fn make(&self) {
        let mut draft = Draft::open(&self.folder()).unwrap();
        draft.add_image(self.image("small"), &Unwatched).unwrap();
        draft.add_kernel(self.kernel(), &Unwatched).unwrap();
        draft.finish().unwrap();
        publish(&self.folder(), &self.key, None, &Unwatched).unwrap();
    }

    /// Changes the index and signs it again, as a maker by mistake or another banger would.
    fn rewrite(&self, change: impl FnOnce(&mut Index)) {
        let path = self.folder().join("index.json");
        let mut index = Index::parse(&fs::read(&path).unwrap()).unwrap();
        change(&mut index);
        self.sign(&serde_json::to_vec(&index).unwrap());
    }

    fn sign(&self, bytes: &[u8]) {
        // By the crate for signing itself, since `publish` would notice.
        let secret = fs::read_to_string(self.path("catalog.key")).unwrap();
        let secret = minisign::SecretKeyBox::from_string(&secret).unwrap();
        let secret = secret.into_unencrypted_secret_key().unwrap();
        let signature = minisign::sign(None, &secret, bytes, None, None).unwrap();
        fs::write(self.folder().join("index.json"), bytes).unwrap();
        let path = self.folder().join("index.json.minisig");
        fs::write(path, signature.into_string()).unwrap();
    }

    fn settings(&self, location: Location) -> Settings {
        Settings {
            location,
            key: self.key.public().clone(),
            certificates: vec![],
            patience: Patience {
                connect: Duration::from_secs(5),
                stall: Duration::from_secs(20),
                tries: 3,
                pause: Duration::from_millis(10),
            },
            folder: self.path("state"),
        }
    }

    fn here(&self) -> Settings {
        self.settings(Location::Folder(self.folder()))
    }

    fn at(&self, server: &Server) -> Settings {
        let url = format!("http://{}/c", server.host);
        self.settings(url.parse().unwrap())
    }

    /// Serves the folder; `wrong` may have something else to say.
    fn serve(
        &self,
        wrong: impl Fn(&Request, &Answer) -> Option<Answer> + Send + Sync + 'static,
    ) -> Server {
        let folder = self.folder();
        Server::start(move |request| {
            let path = request.path.strip_prefix("/c/").unwrap_or("nothing");
            let answer = match fs::read(folder.join(path)) {
                Ok(bytes) => Answer::ok(&bytes).ranged(request),
                Err(_) => Answer::status(404),
            };
            wrong(request, &answer).unwrap_or(answer)
        })
    }
}

fn is_blob(request: &Request) -> bool {
    request.path.contains("/blobs/")
}

/// Takes everything of the image `small`.
fn take(settings: Settings, to: &Path) -> Result<(), CatalogError> {
    let catalog = Catalog::open(settings, &Unwatched)?;
    let image = catalog.image(&"small".parse().unwrap()).unwrap();
    let files = [
        (&image.rootfs, to.join("rootfs")),
        (image.work_seed.as_ref().unwrap(), to.join("seed")),
    ];
    catalog.take(&files, &Unwatched)
}

/// Takes it into a new folder and compares.
fn taken(shop: &Shop, settings: Settings) -> Result<(), CatalogError> {
    let to = tempfile::tempdir().unwrap();
    take(settings, to.path())?;
    for name in ["rootfs", "seed"] {
        let (had, got) = (shop.path(name), to.path().join(name));
        assert!(fs::read(&had).unwrap() == fs::read(&got).unwrap(), "{name}");
        let got = fs::metadata(&got).unwrap();
        assert!(got.blocks() * 512 < got.len() / 2, "holes stay holes");
        assert_eq!(got.permissions().mode() & 0o777, 0o644);
    }
    Ok(())
}

fn refused(shop: &Shop, settings: Settings) -> CatalogError {
    taken(shop, settings).unwrap_err()
}

#[test]
fn what_was_put_in_comes_out_of_a_folder_and_of_a_server() {
    let shop = Shop::new();
    taken(&shop, shop.here()).unwrap();
    let server = shop.serve(|_, _| None);
    taken(&shop, shop.at(&server)).unwrap();
    assert_eq!(server.count("/c/blobs/"), 2);
    let left = fs::read_dir(shop.path("state/blobs")).unwrap().count();
    assert_eq!(left, 0, "what was unpacked is not kept twice");
    let catalog = Catalog::open(shop.at(&server), &Unwatched).unwrap();
    let image = catalog.image(&"small".parse().unwrap()).unwrap();
    assert_eq!(image.ready, ["ssh.service"]);
    assert_eq!(catalog.default_kernel().unwrap().name.as_str(), "6.1");
    let kernel = catalog.kernel(&"6.1".parse().unwrap()).unwrap();
    let to = tempfile::tempdir().unwrap();
    let file = to.path().join("vmlinux");
    let files = [(&kernel.vmlinux, file.clone())];
    catalog.take(&files, &Unwatched).unwrap();
    assert!(fs::read(file).unwrap() == fs::read(shop.path("vmlinux")).unwrap());
}

#[test]
fn nothing_is_read_that_the_configured_key_has_not_signed() {
    let shop = Shop::new();
    let index = shop.folder().join("index.json");
    let signature = shop.folder().join("index.json.minisig");
    let right = fs::read(&signature).unwrap();

    let mut other = shop.here();
    let stranger = SigningKey::make(&shop.path("other.key")).unwrap();
    other.key = stranger.public().clone();
    let error = refused(&shop, other);
    assert!(matches!(error, CatalogError::UnknownKey), "{error}");

    for wrong in [&b""[..], b"\xff", b"untrusted comment: x\nRW\n"] {
        fs::write(&signature, wrong).unwrap();
        let error = refused(&shop, shop.here());
        assert!(matches!(error, CatalogError::Signature(_)), "{error}");
    }
    fs::remove_file(&signature).unwrap();
    let server = shop.serve(|_, _| None);
    for settings in [shop.here(), shop.at(&server)] {
        let error = refused(&shop, settings);
        let is_it =
            matches!(&error, CatalogError::Missing { what, .. } if what.ends_with("minisig"));
        assert!(is_it, "{error}");
    }
    fs::write(&signature, right).unwrap();
    // Even what is no index at all is refused for its signature.
    fs::write(&index, b"\x00 not json").unwrap();
    for settings in [shop.here(), shop.at(&server)] {
        let error = refused(&shop, settings);
        assert!(matches!(error, CatalogError::Signature(_)), "{error}");
    }
    assert!(!shop.path("state").join("blobs").exists());
}

#[test]
fn signed_indexes_may_still_be_wrong_newer_or_older() {
    let shop = Shop::new();
    let first = fs::read(shop.folder().join("index.json")).unwrap();
    taken(&shop, shop.here()).unwrap();
    shop.rewrite(|index| index.serial += 1);
    taken(&shop, shop.here()).unwrap();
    shop.sign(&first);
    let error = refused(&shop, shop.here());
    assert!(matches!(error, CatalogError::Older { .. }), "{error}");
    shop.sign(b"{\"format\":2}");
    let error = refused(&shop, shop.here());
    assert!(matches!(error, CatalogError::NewerFormat(2)), "{error}");
    shop.sign(b"{\"format\":1}");
    let error = refused(&shop, shop.here());
    assert!(matches!(error, CatalogError::Malformed(_)), "{error}");
    let foreign = String::from_utf8(first).unwrap().replace("x86_64", "s390x");
    shop.sign(foreign.replace("\"serial\": 1", "\"serial\": 2").as_bytes());
    let catalog = Catalog::open(shop.here(), &Unwatched).unwrap();
    let others = catalog.image(&"small".parse().unwrap()).unwrap_err();
    assert_eq!(others, ["s390x"]);
    assert!(
        catalog
            .image(&"other".parse().unwrap())
            .unwrap_err()
            .is_empty()
    );
}

fn blob_error(error: CatalogError) -> BlobError {
    match error {
        CatalogError::Blob { source, .. } => source,
        error => panic!("{error:?}"),
    }
}

/// Puts bytes into the catalog as the image's root, as if they were what they should be.
fn smuggle(shop: &Shop, bytes: &[u8], size: u64) {
    use sha2::Digest as _;
    let blob = Digest::of_sha256(sha2::Sha256::digest(bytes).into());
    fs::write(shop.folder().join("blobs").join(blob.as_str()), bytes).unwrap();
    shop.rewrite(|index| {
        index.images[0].rootfs = Packed {
            blob,
            blob_size: bytes.len() as u64,
            size,
        };
    });
}

#[test]
fn bombs_cut_files_and_lies_in_the_index_are_refused() {
    let shop = Shop::new();
    let bomb = zstd::encode_all(std::io::repeat(0).take_of(64 << 20), 3).unwrap();
    smuggle(&shop, &bomb, 5 << 20);
    let server = shop.serve(|_, _| None);
    for settings in [shop.here(), shop.at(&server)] {
        let error = blob_error(refused(&shop, settings));
        assert!(matches!(error, BlobError::TooLong(_)), "{error}");
    }
    smuggle(&shop, &bomb, 65 << 20);
    let error = blob_error(refused(&shop, shop.here()));
    assert!(matches!(error, BlobError::TooShort { .. }), "{error}");
    for cut in [&bomb[..bomb.len() - 1], &bomb[..10], b"not zstd"] {
        smuggle(&shop, cut, 64 << 20);
        for settings in [shop.here(), shop.at(&server)] {
            let error = blob_error(refused(&shop, settings));
            assert!(matches!(error, BlobError::Compression(_)), "{error}");
        }
    }
    // One that asks for more memory than anything needs.
    let mut wide = zstd::Encoder::new(Vec::new(), 3).unwrap();
    wide.window_log(30).unwrap();
    std::io::copy(&mut std::io::repeat(0).take_of(1 << 20), &mut wide).unwrap();
    smuggle(&shop, &wide.finish().unwrap(), 1 << 20);
    let error = blob_error(refused(&shop, shop.here()));
    assert!(matches!(error, BlobError::Compression(_)), "{error}");
}

/// `Read::take`, for readers that are values.
trait TakeOf: std::io::Read + Sized {
    fn take_of(self, count: u64) -> std::io::Take<Self> {
        std::io::Read::take(self, count)
    }
}
impl<T: std::io::Read> TakeOf for T {}

#[test]
fn changed_and_missing_files_of_a_folder_are_refused() {
    let shop = Shop::new();
    let bytes = fs::read(shop.folder().join("index.json")).unwrap();
    let index = Index::parse(&bytes).unwrap();
    let path = shop
        .folder()
        .join("blobs")
        .join(index.images[0].rootfs.blob.as_str());
    let right = fs::read(&path).unwrap();
    let mut other = right.clone();
    other[1000] ^= 1;
    fs::write(&path, &other).unwrap();
    let error = blob_error(refused(&shop, shop.here()));
    assert!(matches!(error, BlobError::Digest(_)), "{error}");
    fs::write(&path, &right[1..]).unwrap();
    let error = blob_error(refused(&shop, shop.here()));
    assert!(matches!(error, BlobError::Size { .. }), "{error}");
    fs::remove_file(&path).unwrap();
    let error = blob_error(refused(&shop, shop.here()));
    assert!(matches!(error, BlobError::Missing), "{error}");
    let error = publish(&shop.folder(), &shop.key, None, &Unwatched).unwrap_err();
    assert!(matches!(blob_error(error), BlobError::Missing));
}

#[test]
fn a_broken_download_goes_on_and_a_busy_server_is_waited_for() {
    let shop = Shop::new();
    let count = AtomicUsize::new(0);
    let server = shop.serve(move |request, answer| {
        if !is_blob(request) {
            return None;
        }
        match count.fetch_add(1, Ordering::AcqRel) {
            0 => Some(Answer::status(503)),
            n @ 1..5 => {
                let half = answer.body.len() / 2;
                let after = if n % 2 == 0 {
                    After::Close
                } else {
                    After::Stall
                };
                Some(answer.clone().cut(half, after))
            }
            _ => None,
        }
    });
    let mut settings = shop.at(&server);
    settings.patience.stall = Duration::from_millis(400);
    taken(&shop, settings).unwrap();
    let seen = server.seen.lock().unwrap();
    assert!(
        seen.iter()
            .any(|request| request.headers.contains_key("range"))
    );
}

fn fetch_error(error: CatalogError) -> RegistryError {
    match error {
        CatalogError::Fetch(PullError::Registry(error)) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn servers_that_lie_or_say_no_are_told_of() {
    let shop = Shop::new();
    let other = shop
        .serve(|request, answer| is_blob(request).then(|| Answer::ok(&vec![0; answer.body.len()])));
    let error = fetch_error(refused(&shop, shop.at(&other)));
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
    let longer = shop.serve(|request, answer| {
        let body = [&answer.body[..], b"x"].concat();
        is_blob(request).then(|| Answer::ok(&body))
    });
    let error = fetch_error(refused(&shop, shop.at(&longer)));
    assert!(matches!(error, RegistryError::Size { .. }), "{error}");
    let gone = shop.serve(|request, _| is_blob(request).then(|| Answer::status(404)));
    let error = fetch_error(refused(&shop, shop.at(&gone)));
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    let busy = shop.serve(|_, _| Some(Answer::status(500)));
    let error = fetch_error(refused(&shop, shop.at(&busy)));
    assert!(matches!(error, RegistryError::Busy { .. }), "{error}");
    let closed = shop.serve(|_, _| Some(Answer::status(401)));
    let error = fetch_error(refused(&shop, shop.at(&closed)));
    assert!(matches!(error, RegistryError::Status { .. }), "{error}");
    let circle =
        shop.serve(|request, _| Some(Answer::status(302).header("location", &request.path)));
    let error = fetch_error(refused(&shop, shop.at(&circle)));
    assert!(matches!(error, RegistryError::Redirects { .. }), "{error}");
    let endless =
        shop.serve(|request, _| (!is_blob(request)).then(|| Answer::ok(&vec![b' '; 5 << 20])));
    let error = fetch_error(refused(&shop, shop.at(&endless)));
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
    let host = endless.host.clone();
    drop(endless);
    let nobody = shop.settings(format!("http://{host}/c").parse().unwrap());
    let error = refused(&shop, nobody);
    assert!(error.is_unreachable(), "{error}");
    let left: Vec<_> = fs::read_dir(shop.path("state/blobs")).unwrap().collect();
    let whole = left.iter().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        !name.to_string_lossy().ends_with(".partial")
    });
    assert!(whole.count() <= 1, "nothing that failed passes for whole");
}

#[test]
fn a_catalog_published_in_between_is_read_again() {
    let shop = Shop::new();
    let old = fs::read(shop.folder().join("index.json.minisig")).unwrap();
    shop.rewrite(|index| index.serial += 1);
    let first = AtomicBool::new(true);
    let server = shop.serve(move |request, _| {
        let is_signature = request.path.ends_with(".minisig");
        (is_signature && first.swap(false, Ordering::AcqRel)).then(|| Answer::ok(&old))
    });
    taken(&shop, shop.at(&server)).unwrap();
    assert_eq!(server.count("index.json.minisig"), 2);
}

#[test]
fn two_that_take_at_once_share_what_comes() {
    let shop = Shop::new();
    let server = shop.serve(|_, _| None);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| taken(&shop, shop.at(&server))))
            .collect();
        for one in all {
            one.join().unwrap().unwrap();
        }
    });
    // One that came when the others were through may have fetched anew.
    assert!(
        server.count("/c/blobs/") < 6,
        "{}",
        server.count("/c/blobs/")
    );
}

#[test]
fn what_nobody_wants_any_more_ends() {
    let shop = Shop::new();
    let server = shop.serve(|request, answer| {
        let half = answer.body.len() / 2;
        is_blob(request).then(|| answer.clone().cut(half, After::Stall))
    });
    let catalog = Catalog::open(shop.at(&server), &Unwatched).unwrap();
    let image = catalog.image(&"small".parse().unwrap()).unwrap();
    let to = tempfile::tempdir().unwrap();
    let files = [(&image.rootfs, to.path().join("rootfs"))];
    let error = catalog.take(&files, &Fickle(AtomicBool::default()));
    assert!(matches!(error, Err(CatalogError::Cancelled)), "{error:?}");
}

#[test]
fn a_full_file_system_is_told_of() {
    let disk = match SmallDisk::new(8) {
        Ok(disk) => disk,
        Err(why) => {
            println!("SKIPPED (loop mount): {why}");
            return;
        }
    };
    let shop = Shop::new();
    shop.write("rootfs", 48 << 20);
    shop.make();
    let server = shop.serve(|_, _| None);
    for settings in [shop.here(), shop.at(&server)] {
        let to = tempfile::tempdir_in(disk.path()).unwrap();
        let error = take(settings, to.path()).unwrap_err();
        assert!(error.is_disk_full(), "{error:?}");
    }
    // The compressed file has no room either.
    let mut settings = shop.at(&server);
    settings.folder = disk.path().join("state");
    let error = refused(&shop, settings);
    assert!(error.is_disk_full(), "{error:?}");
    let mut draft = Draft::open(&disk.path().join("catalog")).unwrap();
    let error = draft
        .add_image(shop.image("small"), &Unwatched)
        .unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    let blobs = fs::read_dir(disk.path().join("catalog/blobs")).unwrap();
    assert_eq!(blobs.count(), 0, "no half file is left");
}

#[test]
fn a_catalog_grows_and_forgets_what_it_does_not_name() {
    let shop = Shop::new();
    let names = |folder: &Path| fs::read_dir(folder.join("blobs")).unwrap().count();
    assert_eq!(names(&shop.folder()), 4);
    let served = shop.path("served");
    publish(&shop.folder(), &shop.key, Some(&served), &Unwatched).unwrap();
    taken(&shop, shop.settings(Location::Folder(served.clone()))).unwrap();
    // What an interrupted build has left.
    fs::write(shop.folder().join("blobs/.half-x"), b"x").unwrap();
    shop.write("rootfs", 8 << 20);
    let mut draft = Draft::open(&shop.folder()).unwrap();
    draft.add_image(shop.image("small"), &Unwatched).unwrap();
    draft.add_image(shop.image("twin"), &Unwatched).unwrap();
    let index = draft.finish().unwrap();
    assert_eq!((index.images.len(), index.kernels.len()), (2, 1));
    assert_eq!(
        names(&shop.folder()),
        4,
        "the old root is gone, twins share one"
    );
    let error = refused(&shop, shop.here());
    assert!(
        matches!(error, CatalogError::Missing { .. }),
        "not signed: {error}"
    );
    let published = publish(&shop.folder(), &shop.key, Some(&served), &Unwatched).unwrap();
    assert_eq!((published.images, published.kernels), (2, 1));
    assert_eq!(names(&served), 4);
    taken(&shop, shop.settings(Location::Folder(served))).unwrap();
}

#[test]
fn a_build_that_is_given_up_leaves_the_catalog_as_it_was() {
    let shop = Shop::new();
    let before = fs::read(shop.folder().join("index.json")).unwrap();
    shop.write("rootfs", 9 << 20);
    let mut draft = Draft::open(&shop.folder()).unwrap();
    let error = draft.add_image(shop.image("small"), &Fickle(AtomicBool::default()));
    assert!(matches!(error, Err(CatalogError::Cancelled)));
    let mut gone = shop.image("small");
    gone.rootfs = shop.path("nowhere");
    assert!(matches!(
        draft.add_image(gone, &Unwatched),
        Err(CatalogError::Io { .. })
    ));
    let mut odd = shop.kernel();
    odd.release = "../6".to_owned();
    draft.add_kernel(odd, &Unwatched).unwrap();
    assert!(matches!(draft.finish(), Err(CatalogError::Malformed(_))));
    assert_eq!(fs::read(shop.folder().join("index.json")).unwrap(), before);
    shop.write("rootfs", 12 << 20);
    taken(&shop, shop.here()).unwrap();
}

#[test]
fn keys_of_minisign_are_used_with_and_without_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k/catalog.key");
    let key = SigningKey::make(&path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(SigningKey::make(&path).is_err(), "never over another one");
    let none = || panic!("it has no password");
    let again = SigningKey::load(&path, none).unwrap();
    assert_eq!(again.public(), key.public());
    let beside = fs::read_to_string(dir.path().join("k/catalog.key.pub")).unwrap();
    assert!(beside.contains(key.public().as_str()));
    let pair = minisign::KeyPair::generate_encrypted_keypair(Some("word".into())).unwrap();
    let locked = dir.path().join("locked");
    fs::write(&locked, pair.sk.to_box(None).unwrap().into_string()).unwrap();
    assert!(SigningKey::load(&locked, || Ok("word".into())).is_ok());
    let error = SigningKey::load(&locked, || Ok("other".into())).unwrap_err();
    assert!(matches!(error, CatalogError::SecretKey { .. }));
    for bad in ["", "x\ny", "untrusted comment: x\nRWRTY0Iy"] {
        fs::write(&locked, bad).unwrap();
        assert!(
            SigningKey::load(&locked, || Ok(String::new())).is_err(),
            "{bad}"
        );
    }
    assert!(SigningKey::load(&dir.path().join("none"), none).is_err());
}
