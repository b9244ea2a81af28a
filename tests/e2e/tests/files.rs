//! `vm cp` with real guests.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use banger_e2e::Banger;
use sha2::{Digest, Sha256};

fn digest(path: &Path) -> String {
    format!("{:x}", Sha256::digest(fs::read(path).expect("read")))
}

#[test]
fn files_go_in_and_out_as_they_are() {
    let banger = Banger::from_env();
    // Without git, without sshd: nothing of the image is needed.
    let vm = banger.vm(&["--wait", "reachable", "--image", "debian-minimal"]);
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/odd\nname"), "x").unwrap();
    let large: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect();
    fs::write(tree.join("large"), large).unwrap();
    symlink("large", tree.join("link")).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    drop(sparse);
    let in_guest = format!("{}:", vm.name);
    let (tree, out) = (tree.to_str().unwrap(), place.path().join("out"));

    banger.ok(&["vm", "cp", tree, &in_guest]);
    assert_eq!(vm.sh("cat /root/tree/a/b/odd*"), "x");
    assert_eq!(
        vm.sh("readlink /root/tree/link; stat -c %a /root/tree/large"),
        "large\n644"
    );
    let sum = vm.sh("sha256sum /root/tree/large");
    assert!(
        sum.starts_with(&digest(&Path::new(tree).join("large"))),
        "{sum}"
    );
    assert!(
        vm.sh("du -m /root/tree/sparse").starts_with('0'),
        "holes are kept"
    );
    let mtime = fs::metadata(Path::new(tree).join("large")).unwrap().mtime();
    assert_eq!(vm.sh("stat -c %Y /root/tree/large"), mtime.to_string());

    banger.ok(&[
        "vm",
        "cp",
        &format!("{in_guest}tree"),
        out.to_str().unwrap(),
    ]);
    assert_eq!(
        digest(&out.join("large")),
        digest(&Path::new(tree).join("large"))
    );
    assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("large"));
    let sparse = fs::metadata(out.join("sparse")).unwrap();
    assert_eq!((sparse.len(), sparse.blocks()), (1 << 30, 0));

    let piped = banger.run_with_stdin(
        &["vm", "cp", "-", &format!("{in_guest}/tmp/f")],
        b"by a pipe",
    );
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    assert_eq!(
        banger.ok(&["vm", "cp", &format!("{in_guest}/tmp/f"), "-"]),
        "by a pipe"
    );

    let none = banger.run(&["vm", "cp", &format!("{in_guest}none"), "-"]);
    none.assert_failed("nothing there", 4, &["/root/none", "file_not_found"]);
    let nowhere = banger.run(&["vm", "cp", "Cargo.toml", &format!("{in_guest}no/such")]);
    nowhere.assert_failed("no folder", 4, &["there is no folder `/root/no`"]);
    // Work disks are 8 GiB; a small file system of the guest's own is full sooner.
    vm.sh("mkdir /root/small && mount -t tmpfs -o size=1m tmpfs /root/small");
    let full = banger.run(&[
        "vm",
        "cp",
        &format!("{tree}/large"),
        &format!("{in_guest}small"),
    ]);
    full.assert_failed("full", 1, &["disk_full", "no room for `large`"]);
    assert_eq!(vm.sh("ls /root/small"), "", "no half a file");
}
