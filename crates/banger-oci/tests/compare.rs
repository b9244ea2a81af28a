//! Layers as file systems against what `umoci unpack` leaves as root, entry by entry.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test are a test"
)]

mod common;

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use banger_oci::{FlattenError, LayerError};
use common::stacks::{layers_of, meta, step};
use common::{Layer, Meta, Mounted, Packing, blob, differences, flattened, has, look, umoci};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

/// Compares; false when umoci itself refuses these layers.
fn agrees(layers: &[(Vec<u8>, Packing)]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let start = now();
    let blobs = layers
        .iter()
        .map(|(tar, packing)| blob(dir.path(), tar, *packing))
        .collect();
    let ours = flattened(dir.path(), blobs);
    let theirs = match umoci(dir.path(), layers) {
        Ok(rootfs) => look(&rootfs, start),
        Err(_) => return false,
    };
    let (root, _) = ours.expect("umoci can, and so must we");
    let mounted = Mounted::new(&root);
    let ours = look(&mounted.0, i64::MAX);
    let differences = differences(&ours, &theirs);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    true
}

#[test]
fn everything_that_images_are_known_to_have() {
    if !has("compare", &["umoci", "e2fsck", "mount"]) {
        return;
    }
    let capability = vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let with = |name: &str, value: &[u8]| Meta {
        xattrs: vec![(name.to_owned(), value.to_vec())],
        ..meta(0o755, 0, 0, "1500000000.123456789")
    };
    let long = "n".repeat(255);
    let deep = format!("{}/file", ["d"; 60].join("/"));
    let acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 5, 0, 0, 0, 4, 0, 4, 0, 255, 255,
        255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    let plain_acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0,
        255, 255, 255, 255,
    ];
    let nothing = (0, 0);
    let first = Layer::default()
        .entry(
            b"./",
            b'5',
            b"",
            &meta(0o755, 5, 6, "1400000000"),
            b"",
            nothing,
        )
        .directory("bin")
        .entry(
            b"bin/su",
            b'0',
            b"",
            &meta(0o4755, 0, 0, "1400000000.5"),
            b"setuid",
            nothing,
        )
        .entry(
            b"bin/ping",
            b'0',
            b"",
            &with("security.capability", &capability),
            b"cap",
            nothing,
        )
        .entry(
            b"bin/acl",
            b'0',
            b"",
            &with("system.posix_acl_access", &acl),
            b"",
            nothing,
        )
        .entry(
            b"bin/plain-acl",
            b'0',
            b"",
            &with("system.posix_acl_access", &plain_acl),
            b"",
            nothing,
        )
        .entry(
            b"bin/long-value",
            b'0',
            b"",
            &with("user.long", &[b'v'; 3000]),
            b"x",
            nothing,
        )
        .entry(
            b"bin/selinux",
            b'0',
            b"",
            &with("security.selinux", b"u:r:t:s0\0"),
            b"",
            nothing,
        )
        .entry(
            b"owned",
            b'0',
            b"",
            &meta(0o600, 4_000_000_000, 70_000, "-5"),
            b"odd",
            nothing,
        )
        .entry(b"dev/null", b'3', b"", &meta(0o666, 0, 0, "1"), b"", (1, 3))
        .entry(
            b"dev/disk",
            b'4',
            b"",
            &meta(0o660, 0, 6, "1"),
            b"",
            (259, 300),
        )
        .entry(
            b"run/pipe",
            b'6',
            b"",
            &meta(0o600, 0, 0, "1"),
            b"",
            nothing,
        )
        .entry(
            long.as_bytes(),
            b'0',
            b"",
            &Meta::default(),
            b"long name",
            nothing,
        )
        .entry(
            b"latin-\xe9\xff",
            b'0',
            b"",
            &Meta::default(),
            b"no UTF-8",
            nothing,
        )
        .file(&deep, b"deep")
        .file("zeros", &[0; 300_000])
        .symlink("lib", "usr/lib")
        .symlink("absolute", "/usr/share")
        .symlink("long-link", &"t".repeat(1000))
        .file("usr/lib/one", b"1")
        .link("usr/lib/two", "usr/lib/one")
        .link("link-to-link", "lib")
        .directory("var/cache")
        .file("var/cache/a", b"a")
        .file("var/cache/sub/b", b"b")
        .file("twice", b"first")
        .file("twice", b"second");
    let second = Layer::default()
        .file("lib/three", b"through a link")
        .link("usr/lib/four", "/lib/one")
        .file("usr/lib/one", b"replaced")
        .entry(b"absolute/x", b'0', b"", &Meta::default(), b"", nothing)
        .entry(
            b"bin",
            b'5',
            b"",
            &meta(0o700, 1, 1, "1450000000"),
            b"",
            nothing,
        )
        .file("var/cache/new", b"new")
        .file("var/cache/.wh..wh..opq", b"")
        .file(".wh.zeros", b"")
        .file(".wh.not-there", b"");
    let third = Layer::default()
        .file("../../escape", b"stays inside")
        .entry(b"bin/su", b'5', b"", &meta(0o755, 0, 0, "1"), b"", nothing)
        .file("dev/.wh.disk", b"")
        .file("d/d/.wh.d", b"")
        .symlink("owned", "bin/ping");
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let layers =
            [first.clone(), second.clone(), third.clone()].map(|layer| (layer.finish(), packing));
        // This umoci knows no zstd.
        let is_compared = agrees(&layers);
        assert!(is_compared || packing == Packing::Zstd);
    }
}

/// `umoci` takes a minute for it: only ours is looked at.
#[test]
fn a_hundred_thousand_entries_in_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut layer = Layer::default().directory("many");
    for n in 0..100_000 {
        layer = layer.file(&format!("many/entry-{n}"), b"");
    }
    let (root, made) = flattened(
        dir.path(),
        vec![blob(dir.path(), &layer.finish(), Packing::Gzip)],
    )
    .unwrap();
    assert_eq!(made.tree.nodes.len(), 100_002);
    if has("mount", &["mount"]) {
        let mounted = Mounted::new(&root);
        let names = std::fs::read_dir(mounted.0.join("many")).unwrap();
        assert_eq!(names.count(), 100_000);
    }
}

/// `BANGER_COMPARE_CASES` asks for more.
#[test]
fn random_layers_become_what_umoci_makes_of_them() {
    if !has("compare", &["umoci", "e2fsck", "mount"]) {
        return;
    }
    let cases = std::env::var("BANGER_COMPARE_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(40);
    let compared = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    });
    let result = runner.run(&proptest::collection::vec(step(), 1..14), |steps| {
        let same = std::panic::catch_unwind(|| agrees(&layers_of(&steps)));
        match same {
            Ok(is_compared) => compared.set(compared.get() + u32::from(is_compared)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                return Err(TestCaseError::fail(text));
            }
        }
        Ok(())
    });
    result.unwrap();
    println!(
        "{} of {cases} stacks compared; the others umoci refuses",
        compared.get()
    );
    assert!(
        compared.get() * 8 > cases,
        "too few stacks are such that umoci unpacks them"
    );
}

#[test]
fn the_same_layers_give_the_same_bytes_however_they_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let tar = Layer::default()
        .file("root/seed", b"work")
        .file("a", &[7; 100_000])
        .finish();
    let mut seen = Vec::new();
    for (n, packing) in [Packing::Plain, Packing::Gzip, Packing::Zstd]
        .into_iter()
        .enumerate()
    {
        let folder = dir.path().join(n.to_string());
        std::fs::create_dir(&folder).unwrap();
        let (root, _) = flattened(&folder, vec![blob(&folder, &tar, packing)]).unwrap();
        let digest = |path: &Path| common::fingerprint(path);
        seen.push((digest(&root), digest(&folder.join("seed.ext4"))));
    }
    assert!(seen.iter().all(|one| *one == seen[0]));
}

#[test]
fn layers_that_lie_or_are_damaged_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tar = Layer::default().file("a", &[7; 100_000]).finish();
    let refused = |change: &dyn Fn(&mut banger_oci::LayerBlob), packing| {
        let mut layer = blob(dir.path(), &tar, packing);
        change(&mut layer);
        match flattened(dir.path(), vec![layer]) {
            Err(FlattenError::Layer { number: 1, source }) => source,
            other => panic!("{other:?}"),
        }
    };
    let wrong = common::sha256(b"wrong");
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let error = refused(&|layer| layer.diff_id = wrong.clone(), packing);
        assert!(matches!(error, LayerError::DiffId { .. }), "{error:?}");
        let error = refused(&|layer| layer.digest = Some(wrong.clone()), packing);
        assert!(matches!(error, LayerError::Digest { .. }), "{error:?}");
        let error = refused(&|layer| layer.length /= 2, packing);
        assert!(
            matches!(
                error,
                LayerError::Tar(_) | LayerError::DiffId { .. } | LayerError::Digest { .. }
            ),
            "{error:?}"
        );
        let error = refused(&|layer| layer.length += 5, packing);
        assert!(matches!(error, LayerError::Size { .. }), "{error:?}");
    }
}

#[test]
fn a_bomb_is_not_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb");
    let file = std::fs::File::create(&path).unwrap();
    let mut encoder = zstd::Encoder::new(file, 1).unwrap();
    // A tar's header and more zeros than anybody has.
    let head = Layer::default().file("a", b"").tar;
    std::io::Write::write_all(&mut encoder, &head).unwrap();
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), (1 << 30) + (64 << 20)),
        &mut encoder,
    )
    .unwrap();
    encoder.finish().unwrap();
    let layer = banger_oci::LayerBlob {
        length: std::fs::metadata(&path).unwrap().len(),
        file: std::fs::File::open(&path).unwrap(),
        offset: 0,
        digest: None,
        diff_id: common::sha256(b"whatever"),
    };
    let error = flattened(dir.path(), vec![layer]).unwrap_err();
    assert!(
        matches!(
            error,
            FlattenError::Layer {
                source: LayerError::Bomb { .. },
                ..
            }
        ),
        "{error:?}"
    );
}
