//! Images that are made with what another image has of their layers: byte for byte as without it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test are a test"
)]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use banger_core::Digest;
use banger_oci::{Donor, FlattenError, LayerError};
use common::stacks::{layers_of, step};
use common::{Layer, Packing, blob, fingerprint, flattened_with};
use proptest::prelude::*;

type Tar = (Vec<u8>, Packing);

/// What an image is: root file system, work seed and index.
fn made(folder: &Path) -> [Digest; 3] {
    ["root.ext4", "seed.ext4", "layers.index"].map(|name| fingerprint(&folder.join(name)))
}

/// Flattens these layers in a folder of `dir`, with what others there have. Returns which layers were unpacked.
fn image(
    dir: &Path,
    name: &str,
    layers: &[Tar],
    donors: &[&str],
) -> Result<Vec<usize>, FlattenError> {
    let folder = dir.join(name);
    fs::create_dir(&folder).unwrap();
    let blobs = layers
        .iter()
        .map(|(tar, packing)| blob(&folder, tar, *packing));
    let blobs = blobs.collect();
    let donors: Vec<_> = donors.iter().map(|donor| donor_of(dir, donor)).collect();
    flattened_with(&folder, blobs, &donors).map(|(_, _, asked)| asked)
}

fn try_donor(dir: &Path, name: &str) -> std::io::Result<Donor> {
    let folder = dir.join(name);
    Donor::open(
        name,
        &folder.join("layers.index"),
        &folder.join("root.ext4"),
    )
}

fn donor_of(dir: &Path, name: &str) -> Donor {
    try_donor(dir, name).unwrap()
}

fn layer(layer: Layer) -> Tar {
    (layer.finish(), Packing::Gzip)
}

fn base() -> Tar {
    layer(
        Layer::default()
            .file("etc/release", b"base")
            .file("root/.profile", b"in the work seed")
            .file("usr/lib/large", &[7; 300_000])
            .file("usr/lib/zeros", &[0; 300_000])
            .link("usr/lib/other-name", "usr/lib/large")
            .symlink("lib", "usr/lib"),
    )
}

#[test]
fn of_shared_layers_nothing_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let upper = layer(Layer::default().file("opt/one", &[1; 10_000]));
    let other = layer(Layer::default().file("opt/two", &[2; 20_000]));
    let asked = image(dir, "donor", &[base(), upper.clone()], &[]).unwrap();
    assert_eq!(asked, [0, 1]);
    // In another order, over another one, and as the whole image.
    for (name, layers, expected) in [
        ("upper", vec![base(), other.clone()], vec![1]),
        ("below", vec![other.clone(), base(), upper.clone()], vec![0]),
        ("same", vec![base(), upper.clone()], vec![]),
        ("twice", vec![base(), other, base(), upper], vec![1]),
    ] {
        let reused = format!("{name}-reused");
        image(dir, name, &layers, &[]).unwrap();
        let asked = image(dir, &reused, &layers, &["donor"]).unwrap();
        assert_eq!(asked, expected, "{name}");
        assert_eq!(made(&dir.join(name)), made(&dir.join(reused)), "{name}");
    }
}

#[test]
fn what_the_other_image_hides_is_unpacked_when_this_one_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let hiding = Layer::default()
        .file("usr/lib/large", b"replaced")
        .file("usr/lib/.wh.other-name", b"")
        .file("etc/release", b"newer");
    let hiding = layer(hiding);
    image(dir, "donor", &[base(), hiding.clone()], &[]).unwrap();
    image(dir, "alone", &[base()], &[]).unwrap();
    let asked = image(dir, "alone-reused", &[base()], &["donor"]).unwrap();
    assert_eq!(asked, [0]);
    assert_eq!(made(&dir.join("alone")), made(&dir.join("alone-reused")));
    // An image that hides the same needs none of it; one that has it all is asked first.
    let also = layer(Layer::default().file("new", b"new"));
    let layers = [base(), hiding, also];
    image(dir, "hides", &layers, &[]).unwrap();
    let asked = image(dir, "hides-reused", &layers, &["donor"]).unwrap();
    assert_eq!(asked, [2]);
    assert_eq!(made(&dir.join("hides")), made(&dir.join("hides-reused")));
    let asked = image(dir, "best", &[base()], &["donor", "alone"]).unwrap();
    assert!(asked.is_empty());
}

#[test]
fn a_layer_that_is_unpacked_for_its_rest_is_checked_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let hiding = layer(
        Layer::default()
            .file("usr/lib/large", b"")
            .file("usr/lib/.wh.other-name", b""),
    );
    image(dir, "donor", &[base(), hiding], &[]).unwrap();
    let folder = dir.join("new");
    fs::create_dir(&folder).unwrap();
    // Another layer's bytes under this one's name.
    let mut lying = blob(
        &folder,
        &layer(Layer::default().file("x", b"")).0,
        Packing::Gzip,
    );
    lying.diff_id = common::sha256(&base().0);
    let made = flattened_with(&folder, vec![lying], &[donor_of(dir, "donor")]);
    let error = made.unwrap_err();
    assert!(
        matches!(
            &error,
            FlattenError::Layer {
                number: 1,
                source: LayerError::DiffId { .. }
            }
        ),
        "{error:?}"
    );
}

#[test]
fn an_image_without_a_usable_index_is_no_donor() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    image(dir, "donor", &[base()], &[]).unwrap();
    let index = dir.join("donor/layers.index");
    let whole = fs::read(&index).unwrap();
    let open = || try_donor(dir, "donor");
    for length in [0, 1, 16, whole.len() / 2, whole.len() - 1] {
        fs::write(&index, &whole[..length]).unwrap();
        assert!(open().is_err(), "{length}");
    }
    // Damaged where only reading the entries can tell: it is unpacked then.
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    fs::write(&index, &damaged).unwrap();
    let asked = image(dir, "new", &[base()], &["donor"]).unwrap();
    assert_eq!(asked, [0]);
    fs::remove_file(&index).unwrap();
    assert!(open().is_err());
}

#[test]
fn of_an_image_that_cannot_be_read_nothing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let own = layer(Layer::default().file("own", b"own"));
    let layers = [base(), own];
    image(dir, "donor", &[base()], &[]).unwrap();
    image(dir, "plain", &layers, &[]).unwrap();
    let mut options = fs::File::options();
    let root = options.write(true).open(dir.join("donor/root.ext4"));
    let root = root.unwrap();
    let made_at = root.metadata().unwrap().modified().unwrap();
    root.set_len(20 << 12).unwrap();
    assert!(try_donor(dir, "donor").is_err(), "it was changed");
    root.set_modified(made_at).unwrap();
    let asked = image(dir, "new", &layers, &["donor"]).unwrap();
    assert_eq!(asked, [1, 0]);
    assert_eq!(made(&dir.join("plain")), made(&dir.join("new")));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]
    /// Two stacks of which one has some of the other's layers, in whatever order.
    #[test]
    fn random_stacks_are_the_same_with_another_image_and_without(
        steps in proptest::collection::vec(step(), 4..24),
        which in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>()), 1..5),
        own in proptest::collection::vec(step(), 0..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (lower, own) = (layers_of(&steps), layers_of(&own));
        let again = [lower.clone(), lower.clone()].concat();
        // Not every stack can be laid over each other.
        if image(dir, "donor", &lower, &[]).is_ok() && image(dir, "twice", &again, &[]).is_ok() {
            let taken = which.iter().filter(|(_, take)| *take);
            let mut layers: Vec<Tar> = taken.map(|(at, _)| at.get(&lower).clone()).collect();
            layers.extend(own);
            let plain = image(dir, "plain", &layers, &[]).is_ok();
            for donors in [&["donor"][..], &["twice"], &["twice", "donor"]] {
                let name = format!("out-of-{}", donors.join("-"));
                prop_assert_eq!(plain, image(dir, &name, &layers, donors).is_ok());
                if plain {
                    prop_assert_eq!(made(&dir.join("plain")), made(&dir.join(name)));
                }
            }
        }
    }
}

#[test]
fn where_blocks_can_be_shared_they_are() {
    if !common::has("reuse", &["mkfs.xfs", "mount"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("xfs");
    fs::File::create(&disk).unwrap().set_len(1 << 30).unwrap();
    let mut mkfs = std::process::Command::new("mkfs.xfs");
    let made_xfs = common::run(mkfs.args(["-q", "-m", "reflink=1"]).arg(&disk));
    assert!(made_xfs.status.success(), "{}", common::said(&made_xfs));
    let mounted = match common::Mounted::writable(&disk) {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("SKIPPED(reuse): XFS cannot be mounted: {why}");
            return;
        }
    };
    let large = layer(Layer::default().file("large", &[9; 100 << 20]));
    let free = || {
        rustix::fs::syncfs(fs::File::open(&mounted.0).unwrap()).unwrap();
        let stat = rustix::fs::statvfs(&mounted.0).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    image(&mounted.0, "donor", std::slice::from_ref(&large), &[]).unwrap();
    let before = free();
    let own = layer(Layer::default().file("own", b"own"));
    image(&mounted.0, "new", &[large, own], &["donor"]).unwrap();
    let root = mounted.0.join("new/root.ext4");
    assert!(fs::metadata(&root).unwrap().blocks() * 512 > 100 << 20);
    let mut first = [0; 1];
    let file = fs::File::open(&root).unwrap();
    file.read_exact_at(&mut first, 64 << 20).unwrap();
    assert_eq!(first, [9]);
    let taken = before - free();
    assert!(taken < 80 << 20, "{taken} bytes");
}
