use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn script_of(step: &Step) -> &str {
    match &step.action {
        Action::Run(run) => run.script.as_deref().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Runs a script with programs of the test's own on its PATH, each of which says how it was called.
fn ran(text: &str, programs: &[&str]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for name in programs {
        let path = dir.path().join(name);
        let said = format!(
            "#!/bin/sh\necho \"$(basename $0) $*\" >>{}\n",
            log.display()
        );
        std::fs::write(&path, said).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for name in ["sh", "basename", "rm", "cat", "mkdir"] {
        let real = ["/usr/bin", "/bin"].map(|dir| format!("{dir}/{name}"));
        let real = real.iter().find(|path| std::path::Path::new(path).exists());
        let path = dir.path().join(name);
        if !path.exists() {
            std::os::unix::fs::symlink(real.unwrap(), path).unwrap();
        }
    }
    let output = Command::new("/bin/sh")
        .arg("-c")
        .arg(text)
        .env_clear()
        .env("PATH", dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut said = std::fs::read_to_string(&log).unwrap_or_default();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

fn packages(names: &[&str]) -> Vec<Step> {
    let provision = Provision {
        packages: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Provision::default()
    };
    provision.steps()
}

#[test]
fn the_images_own_package_manager_is_used() {
    let steps = packages(&["jq", "git", "jq"]);
    assert_eq!(steps[0].title, "packages git jq");
    // What removes lists would remove this machine's.
    let text = script_of(&steps[0]).replace("rm -rf", "echo");
    let (done, said) = ran(&text, &["apt-get"]);
    assert!(done, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "apt-get update",
            "apt-get install -y --no-install-recommends git jq",
            "apt-get clean"
        ]
    );
    let (done, said) = ran(&text, &["apk"]);
    assert!(done && said.contains("apk add git jq"), "{said}");
    let (done, said) = ran(&text, &[]);
    assert!(!done && said.contains("no package manager"), "{said}");
}

#[test]
fn every_script_is_one_that_a_shell_can_read() {
    let provision = Provision {
        packages: vec!["jq".parse().unwrap()],
        tools: Tool::ALL.to_vec(),
        script: None,
    };
    let steps = provision.steps();
    assert_eq!(steps.len(), 7);
    for step in &steps {
        let text = script_of(step);
        assert!(text.starts_with("#!/bin/sh\n"));
        let checked = Command::new("sh")
            .args(["-n", "-c", text])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{}: {said}", step.title);
    }
}

#[test]
fn tools_come_once_and_in_one_order_and_the_script_last() {
    let provision = Provision {
        packages: vec![],
        tools: ["pi", "docker", "pi"].map(|t| t.parse().unwrap()).to_vec(),
        script: Some(("setup.sh".into(), "true\n".into())),
    };
    let titles: Vec<String> = provision.steps().into_iter().map(|s| s.title).collect();
    assert_eq!(titles, ["with docker", "with pi", "script setup.sh"]);
    let error = "dokcer".parse::<Tool>().unwrap_err().to_string();
    assert!(error.contains("did you mean `docker`"), "{error}");
}

proptest! {
    /// Whatever is taken for a package's name is one word of a shell, and no option.
    #[test]
    fn a_package_is_a_word(text in "\\PC{0,20}") {
        if let Ok(package) = text.parse::<Package>() {
            let echoed = Command::new("sh")
                .args(["-c", &format!("printf '%s|' {}", package.as_str())])
                .output()
                .unwrap();
            prop_assert_eq!(String::from_utf8_lossy(&echoed.stdout), format!("{}|", text));
            prop_assert!(!text.starts_with('-'));
        }
    }
}
