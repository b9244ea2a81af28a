use proptest::prelude::*;

use super::*;

fn file(text: &str) -> Dockerfile {
    Dockerfile::parse(text).unwrap()
}

fn base(_: &str) -> Config {
    Config {
        env: vec![("PATH".into(), "/bin".into())],
        cmd: vec!["base-cmd".into()],
        ..Config::default()
    }
}

fn planned(text: &str) -> Plan {
    plan(&file(text), &PlanOptions::default(), &base).unwrap()
}

fn wrong_line(text: &str) -> (usize, String) {
    let error = plan(&file(text), &PlanOptions::default(), &base).unwrap_err();
    (error.line, error.what)
}

fn args(all: &[(&str, &str)]) -> PlanOptions {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    PlanOptions {
        args: all.iter().map(pair).collect(),
        target: None,
    }
}

fn run(stage: &Stage, at: usize) -> &RunStep {
    match &stage.steps[at].action {
        Action::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

fn copy(stage: &Stage, at: usize) -> &CopyStep {
    match &stage.steps[at].action {
        Action::Copy(copy) => copy,
        other => panic!("{other:?}"),
    }
}

#[test]
fn instructions_become_steps_and_a_configuration() {
    let plan = planned(
        "FROM debian-minimal\nARG V=1\nENV A=x B=\"$A y\" PATH=$PATH:/app\nWORKDIR /app\nWORKDIR src\nUSER daemon\nEXPOSE 80 53/UDP 80\nLABEL a.b=\"c d\"\nVOLUME /data\nSTOPSIGNAL SIGINT\nRUN echo $A\nRUN [\"/bin/true\", \"$A\"]\nENTRYPOINT [\"/app/run\"]\nCMD serve now\n",
    );
    let stage = &plan.stages[0];
    assert_eq!(stage.base, Base::Image("debian-minimal".into()));
    let config = &stage.config;
    assert_eq!(config.working_dir, "/app/src");
    assert_eq!(config.user, "daemon");
    assert_eq!(config.exposed_ports, ["80/tcp", "53/udp"]);
    assert_eq!(config.labels["a.b"], "c d");
    assert_eq!(config.volumes, ["/data"]);
    assert_eq!(config.stop_signal, "SIGINT");
    assert_eq!(config.entrypoint, ["/app/run"]);
    assert_eq!(config.cmd, ["/bin/sh", "-c", "serve now"]);
    let env = |name: &str| {
        config
            .env
            .iter()
            .find(|(n, _)| n == name)
            .unwrap()
            .1
            .clone()
    };
    // What one instruction sets counts from the next one on.
    assert_eq!((env("B"), env("PATH")), (" y".into(), "/bin:/app".into()));
    assert_eq!(stage.steps.len(), 4);
    assert_eq!(
        stage.steps[1].action,
        Action::Folder {
            path: "/app/src".into()
        }
    );
    let shell = run(stage, 2);
    assert_eq!(shell.argv, ["/bin/sh", "-c", "echo $A"]);
    assert_eq!(shell.cwd, "/app/src");
    assert_eq!(shell.user.as_deref(), Some("daemon"));
    assert!(shell.env.contains(&("V".into(), "1".into())));
    assert_eq!(run(stage, 3).argv, ["/bin/true", "$A"]);
    assert_eq!(stage.steps[2].line, Some(11));
    assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
}

#[test]
fn an_entry_point_forgets_the_bases_command() {
    assert!(
        planned("FROM a\nENTRYPOINT [\"x\"]").stages[0]
            .config
            .cmd
            .is_empty()
    );
    assert_eq!(planned("FROM a\nRUN x").stages[0].config.cmd, ["base-cmd"]);
    let both = planned("FROM a\nCMD [\"y\"]\nENTRYPOINT [\"x\"]");
    assert_eq!(both.stages[0].config.cmd, ["y"]);
}

#[test]
fn stages_that_nothing_needs_are_left_out() {
    let text = "FROM a AS one\nRUN 1\nFROM b AS unused\nRUN 2\nFROM one AS three\nCOPY --from=0 /x /y\nFROM c\nCOPY --from=three --chown=me:us --chmod=755 /x ./\nCOPY --from=tools /t /t\n";
    let plan = planned(text);
    let names: Vec<&str> = plan
        .stages
        .iter()
        .map(|stage| stage.name.as_str())
        .collect();
    assert_eq!(names, ["one", "three", "tools", "stage 4"]);
    assert_eq!(plan.stages[1].base, Base::Stage(0));
    let last = &plan.stages[3];
    assert_eq!(copy(last, 0).from, CopyFrom::Stage(1));
    assert_eq!(copy(last, 0).chown.as_deref(), Some("me:us"));
    assert_eq!(
        (copy(last, 0).chmod, copy(last, 0).dest.as_str()),
        (Some(0o755), "/")
    );
    assert_eq!(copy(last, 1).from, CopyFrom::Stage(2));
    let bases = bases(&file(text), &PlanOptions::default()).unwrap();
    assert_eq!(bases, ["a", "c", "tools"]);
    let target = PlanOptions {
        target: Some("unused".into()),
        ..PlanOptions::default()
    };
    let only = super::plan(&file(text), &target, &base).unwrap();
    assert_eq!(only.stages.len(), 1);
    let none = PlanOptions {
        target: Some("none".into()),
        ..PlanOptions::default()
    };
    let error = super::plan(&file(text), &none, &base).unwrap_err();
    assert!(error.hint.unwrap().contains("three"));
}

#[test]
fn build_args_reach_those_who_declare_them() {
    let text = "ARG BASE=a\nARG V=0\nFROM ${BASE}:1\nRUN before\nARG V\nARG W=w\nRUN after\n";
    let plan = super::plan(
        &file(text),
        &args(&[
            ("BASE", "b"),
            ("V", "2"),
            ("http_proxy", "p"),
            ("TYPO", "x"),
        ]),
        &base,
    )
    .unwrap();
    let stage = &plan.stages[0];
    assert_eq!(stage.base, Base::Image("b:1".into()));
    let names = |at| -> Vec<&str> {
        let env = run(stage, at).env.iter();
        env.map(|(name, _)| name.as_str()).collect()
    };
    assert_eq!(names(0), ["PATH"]);
    assert_eq!(names(1), ["V", "W", "PATH"]);
    assert_eq!(run(stage, 1).env[0].1, "2");
    assert_eq!(
        run(stage, 0).env_unkeyed,
        [("http_proxy".into(), "p".into())]
    );
    assert_eq!(plan.notes, ["no `ARG` takes --build-arg TYPO"]);
    let default = planned(text);
    assert_eq!(run(&default.stages[0], 1).env[0].1, "0", "the global one");
}

#[test]
fn files_may_stand_in_the_dockerfile() {
    let plan = planned(
        "FROM a\nENV N=me\nCOPY <<EOF /etc/motd\nhello \"$N\"\nEOF\nCOPY <<'EOF' /raw\n$N\nEOF\n",
    );
    assert_eq!(
        copy(&plan.stages[0], 0).inline,
        [("motd".to_owned(), "hello \"me\"\n".to_owned())]
    );
    assert_eq!(copy(&plan.stages[0], 1).inline[0].1, "$N\n");
}

#[test]
fn what_makes_no_sense_is_told_with_its_line() {
    for (text, line) in [
        ("FROM scratch\n", 1),
        ("FROM $NOTHING\n", 1),
        ("FROM a\nRUN --mount=type=cache,target=/x y\n", 2),
        ("FROM a\nCOPY --from=1 /x /y\n", 2),
        ("FROM a\nCOPY --frm=1 /x /y\n", 2),
        ("FROM a\nCOPY a b /c\n", 2),
        ("FROM a\nCOPY --chmod=9 a /c\n", 2),
        ("FROM a\nCOPY --chown=a:b:c a /c\n", 2),
        ("FROM a\nADD https://example.org/x /c\n", 2),
        ("FROM a\nEXPOSE 70000\n", 2),
        ("FROM a\nENV A\n", 2),
        ("FROM a\nENV A=1 B\n", 2),
        ("FROM a\nENV A='x\n", 2),
        ("FROM a\nUSER a:b\nRUN x\n", 3),
        ("FROM a\nSHELL []\n", 2),
    ] {
        let parsed = Dockerfile::parse(text);
        let error = parsed.and_then(|file| plan(&file, &PlanOptions::default(), &base));
        let error = error.expect_err(text);
        assert_eq!(error.line, line, "{text:?}: {error}");
    }
    assert!(wrong_line("FROM a\nCOPY a b /c\n").1.contains("no folder"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn nothing_panics(
        lines in proptest::collection::vec(
            "(FROM a|FROM a AS b|RUN|COPY --from=|COPY|ADD|ENV|ARG|LABEL|USER|CMD|SHELL|VOLUME|EXPOSE|WORKDIR) [\\PC\\\\\"\\[\\],<E=$\\{\\}:]{0,16}",
            1..8
        ),
        target in proptest::option::of("[ab0-9]{1,2}")
    ) {
        let text = format!("FROM a\n{}", lines.join("\n"));
        if let Ok(file) = Dockerfile::parse(&text) {
            let options = PlanOptions { target, ..PlanOptions::default() };
            if let Ok(plan) = plan(&file, &options, &base) {
                for (at, stage) in plan.stages.iter().enumerate() {
                    let earlier = |stage: usize| stage < at;
                    prop_assert!(!matches!(stage.base, Base::Stage(s) if !earlier(s)));
                    for step in &stage.steps {
                        if let Action::Copy(CopyStep { from: CopyFrom::Stage(s), .. }) = step.action {
                            prop_assert!(earlier(s));
                        }
                    }
                }
            }
        }
    }
}
