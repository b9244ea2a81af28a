use super::*;
use proptest::prelude::*;

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry {
        name: name.into(),
        kind,
        attributes: Attributes::default(),
    }
}

fn file(name: &str) -> Entry {
    entry(name, EntryKind::File)
}

fn link(name: &str, target: &str) -> Entry {
    entry(name, EntryKind::HardLink(target.into()))
}

fn symlink(name: &str, target: &str) -> Entry {
    entry(name, EntryKind::Symlink(target.into()))
}

/// What remains of layers: paths, with the number of the file that each leads to.
fn merged(layers: &[&[Entry]]) -> Result<Vec<(String, usize)>, MergeError> {
    let mut merger = Merger::new(1000);
    for layer in layers {
        merger.next_layer();
        for entry in *layer {
            merger.apply(entry.clone(), FileData::default())?;
        }
    }
    Ok(paths(&merger.finish()))
}

fn paths(tree: &Tree) -> Vec<(String, usize)> {
    let mut all = Vec::new();
    let mut open = vec![(String::new(), Tree::ROOT)];
    while let Some((path, id)) = open.pop() {
        if let Content::Directory(names) = &tree.node(id).content {
            for (name, id) in names {
                let path = format!("{path}/{}", String::from_utf8_lossy(name));
                all.push((path.clone(), id.0));
                open.push((path, *id));
            }
        }
    }
    all.sort();
    all
}

fn names(layers: &[&[Entry]]) -> Vec<String> {
    merged(layers)
        .unwrap()
        .into_iter()
        .map(|(path, _)| path)
        .collect()
}

#[test]
fn whiteouts_remove_what_is_below_and_nothing_of_their_own_layer() {
    let below = [file("a/one"), file("a/two"), file("b")];
    assert_eq!(
        names(&[&below, &[file("a/.wh.one")]]),
        ["/a", "/a/two", "/b"]
    );
    assert_eq!(names(&[&below, &[file(".wh.a")]]), ["/b"]);
    assert_eq!(
        names(&[&below, &[file("a/new"), file("a/.wh..wh..opq")]]),
        ["/a", "/a/new", "/b"]
    );
    assert_eq!(
        names(&[&below, &[file("a/.wh..wh..opq"), file("a/new")]]),
        ["/a", "/a/new", "/b"]
    );
    assert_eq!(
        names(&[&below, &[file("a/new"), file(".wh.a")]]),
        ["/a", "/a/new", "/b"]
    );
    assert_eq!(
        names(&[&below, &[file("x/.wh.y"), file("x/.wh..wh..opq")]]),
        ["/a", "/a/one", "/a/two", "/b"]
    );
}

#[test]
fn a_hard_link_is_to_what_its_target_was_then() {
    let layers: [&[Entry]; 3] = [&[file("a")], &[link("b", "a")], &[file("a")]];
    let all = merged(&layers).unwrap();
    assert_ne!(all[0].1, all[1].1, "a was replaced, b is what it was");
    let same = merged(&[&[file("a")], &[link("d/b", "/x/../a")]]).unwrap();
    assert_eq!(same[0].1, same[2].1);
    for bad in [
        link("b", "none"),
        link("a", "a"),
        link("b", "d"),
        link("b", "/"),
    ] {
        let result = merged(&[&[file("a"), entry("d", EntryKind::Directory)], &[bad]]);
        assert!(matches!(result, Err(MergeError::HardLink { .. })));
    }
}

#[test]
fn paths_go_through_links_and_never_out() {
    let links = [
        entry("usr/lib", EntryKind::Directory),
        symlink("lib", "usr/lib"),
        symlink("up", "/../../usr"),
    ];
    assert_eq!(
        names(&[&links, &[file("lib/x"), file("up/y"), file("../../z")]]),
        [
            "/lib",
            "/up",
            "/usr",
            "/usr/lib",
            "/usr/lib/x",
            "/usr/y",
            "/z"
        ]
    );
    let through = [symlink("a", "b"), symlink("b", "c/d"), file("a/x")];
    assert_eq!(names(&[&through]), ["/a", "/b", "/c", "/c/d", "/c/d/x"]);
    let circle = [symlink("a", "b"), symlink("b", "a"), file("a/x")];
    assert!(matches!(
        merged(&[&circle]),
        Err(MergeError::TooManyLinks(_))
    ));
    assert!(matches!(
        merged(&[&[file("a"), file("a/x")]]),
        Err(MergeError::NotADirectory(_))
    ));
}

#[test]
fn what_replaces_what() {
    let directory = || entry("a", EntryKind::Directory);
    assert_eq!(names(&[&[file("a/x")], &[directory()]]), ["/a", "/a/x"]);
    assert_eq!(names(&[&[file("a/x")], &[file("a")]]), ["/a"]);
    assert_eq!(
        names(&[&[file("b/x"), symlink("a", "b")], &[directory()]]),
        ["/a", "/b", "/b/x"]
    );
    assert_eq!(names(&[&[file("a"), file("a")]]), ["/a"]);
}

#[test]
fn malformed_entries_are_refused() {
    let long = "n".repeat(256);
    let is = |entry: Entry| merged(&[&[entry]]).unwrap_err();
    assert!(matches!(is(file(&long)), MergeError::NameTooLong(_)));
    assert!(matches!(is(file("/")), MergeError::Root(_)));
    for bad in [".wh.", ".wh..", ".wh..."] {
        assert!(matches!(is(file(bad)), MergeError::Whiteout(_)), "{bad}");
    }
    assert!(matches!(is(symlink("a", "")), MergeError::Symlink(_)));
    assert!(merged(&[&[file(&"n".repeat(255))]]).is_ok());
    let mut fat = file("fat");
    fat.attributes.xattrs = vec![(b"user.fat".to_vec(), vec![0; 200 << 20])];
    let heavy = merged(&[&[fat.clone(), fat.clone(), fat]]);
    assert!(matches!(heavy, Err(MergeError::TooMuchMetadata(_))));
    let many: Vec<Entry> = (0..1000).map(|n| file(&n.to_string())).collect();
    assert_eq!(merged(&[&many]), Err(MergeError::TooManyFiles(1000)));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let name = proptest::collection::vec("[ab]|\\.\\.|\\.wh\\.[ab]|\\.wh\\.\\.wh\\.\\.opq", 1..4)
        .prop_map(|parts| parts.join("/"));
    (name.clone(), name, 0..4).prop_map(|(name, target, kind)| {
        let kind = match kind {
            0 => EntryKind::File,
            1 => EntryKind::Directory,
            2 => EntryKind::Symlink(target.into()),
            _ => EntryKind::HardLink(target.into()),
        };
        entry(&name, kind)
    })
}

proptest! {
    /// Every directory has one name, and no name leads nowhere; applying never loses the root.
    #[test]
    fn the_result_is_always_a_tree(entries in proptest::collection::vec((any_entry(), any::<bool>()), 0..40)) {
        let mut merger = Merger::new(1000);
        for (entry, next) in entries {
            if next {
                merger.next_layer();
            }
            let _ = merger.apply(entry, FileData::default());
        }
        let tree = merger.finish();
        let mut seen = vec![0; tree.nodes.len()];
        for (_, id) in paths(&tree) {
            seen[id] += 1;
            let is_directory = matches!(tree.node(NodeId(id)).content, Content::Directory(_));
            prop_assert!(!is_directory || seen[id] == 1);
        }
        prop_assert_eq!(seen[0], 0);
    }
}
