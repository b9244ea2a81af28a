//! Branches that the guest has replaced by ones inside of them, and the other way round: git has not both.

use crate::place::{Place, git};

fn commit(place: &Place, what: &str) -> String {
    let guest = place.guest();
    git(&guest, &["commit", "-q", "--allow-empty", "-m", what]);
    git(&guest, &["rev-parse", "HEAD"])
}

/// The names here, each with its commit, and those that are kept.
fn here(place: &Place) -> (Vec<String>, Vec<String>) {
    let all = git(
        &place.host(),
        &[
            "for-each-ref",
            "--format=%(refname) %(objectname)",
            "refs/banger/demo/heads",
            "refs/banger/demo/kept",
        ],
    );
    let names = all
        .lines()
        .map(|line| line.trim_start_matches("refs/banger/demo/").to_owned());
    names.partition(|name| name.starts_with("heads/"))
}

#[test]
fn a_branch_becomes_a_folder_of_branches_and_a_branch_again() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    let main = git(&host, &["rev-parse", "main"]);
    let main_is = format!("heads/main {main}");
    git(&guest, &["switch", "-qc", "x"]);
    let first = commit(&place, "on x");
    place.pull(None);

    // It went on under another name: nothing is left behind.
    git(&guest, &["switch", "-q", "--detach"]);
    git(&guest, &["branch", "-qD", "x"]);
    git(&guest, &["switch", "-qc", "x/y"]);
    let second = commit(&place, "on x/y");
    assert!(
        place
            .pull(None)
            .contains(&"refs/banger/demo/heads/x/y".to_owned())
    );
    let (names, kept) = here(&place);
    assert_eq!(names, [main_is.clone(), format!("heads/x/y {second}")]);
    assert_eq!(kept, Vec::<String>::new());
    assert_eq!(
        place.pull(None),
        Vec::<String>::new(),
        "a second time nothing is new"
    );

    // Two of them become one that has neither's commits.
    git(&guest, &["switch", "-qc", "x/z", "main"]);
    let third = commit(&place, "on x/z");
    place.pull(None);
    git(&guest, &["switch", "-q", "main"]);
    git(&guest, &["branch", "-qD", "x/y", "x/z"]);
    git(&guest, &["switch", "-qc", "x", "main"]);
    let fourth = commit(&place, "x anew");
    place.pull(Some("mine"));
    let (names, kept) = here(&place);
    assert_eq!(names, [main_is.clone(), format!("heads/x {fourth}")]);
    let mut expected = [&second, &third].map(|id| format!("kept/{id} {id}"));
    expected.sort();
    assert_eq!(kept, expected);
    assert_eq!(place.pull(None), Vec::<String>::new());

    // And a folder again, from elsewhere.
    git(&guest, &["switch", "-q", "main"]);
    git(&guest, &["branch", "-qD", "x"]);
    git(&guest, &["branch", "x/y/z", "main"]);
    place.pull(None);
    let (names, kept) = here(&place);
    assert_eq!(names, [main_is, format!("heads/x/y/z {main}")]);
    for id in [&first, &second, &third, &fourth] {
        let led = git(
            &host,
            &[
                "for-each-ref",
                "--contains",
                id,
                "--format=%(refname)",
                "refs/banger",
            ],
        );
        assert!(!led.is_empty(), "{id} has no name: {kept:?}");
    }
    git(&host, &["fsck", "--strict", "--no-dangling"]);
    assert_eq!(git(&host, &["rev-parse", "mine"]), fourth);
}

#[test]
fn tags_and_packed_names_do_so_too() {
    let place = Place::filled();
    place.ok();
    let (host, guest) = (place.host(), place.guest());
    let first = commit(&place, "tagged");
    git(&guest, &["tag", "-am", "one", "v1"]);
    let tag = git(&guest, &["rev-parse", "v1"]);
    git(&guest, &["reset", "-q", "--hard", "HEAD~1"]);
    place.pull(None);
    git(&host, &["pack-refs", "--all"]);
    git(&guest, &["tag", "-d", "v1"]);
    git(&guest, &["tag", "v1/rc", "HEAD"]);
    place.pull(None);
    let names = git(
        &host,
        &["for-each-ref", "--format=%(refname)", "refs/banger/demo"],
    );
    assert!(names.contains("refs/banger/demo/tags/v1/rc"), "{names}");
    assert!(
        names.contains(&format!("refs/banger/demo/kept/{tag}")),
        "{names}"
    );
    assert_eq!(
        git(&host, &["rev-parse", &format!("{tag}^{{commit}}")]),
        first
    );
}
