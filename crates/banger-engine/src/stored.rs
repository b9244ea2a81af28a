//! Operations as they are stored: all that a client sees, so that a later daemon can tell it again.

use std::time::Instant;

use banger_core::VmId;
use banger_store::OperationRow;
use serde::{Deserialize, Serialize};

use crate::operation::{Goal, OpKind, OpState, OperationView, StageStatus, StageView};
use crate::ports::Failure;

#[derive(Serialize, Deserialize)]
struct Stored {
    kind: OpKind,
    subject: String,
    vm: Option<VmId>,
    #[serde(default)]
    goal: Option<Goal>,
    state: State,
    stages: Vec<Stage>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Running,
    Succeeded,
    Failed(Failure),
    Cancelled,
}

#[derive(Serialize, Deserialize)]
struct Stage {
    key: String,
    title: String,
    status: StageStatus,
    elapsed_ms: u64,
    detail: Option<String>,
}

/// The row of an operation.
pub(crate) fn write(view: &OperationView) -> OperationRow {
    let stages = view.stages.iter().map(|stage| Stage {
        key: stage.key.clone(),
        title: stage.title.clone(),
        status: stage.status,
        elapsed_ms: stage.elapsed_ms(),
        detail: stage.detail.clone(),
    });
    let stored = Stored {
        kind: view.kind,
        subject: view.subject.clone(),
        vm: view.vm.clone(),
        goal: view.goal,
        state: match &view.state {
            OpState::Running => State::Running,
            OpState::Succeeded => State::Succeeded,
            OpState::Failed(failure) => State::Failed(failure.clone()),
            OpState::Cancelled => State::Cancelled,
        },
        stages: stages.collect(),
    };
    OperationRow {
        id: view.id.clone(),
        is_final: view.state != OpState::Running,
        view: serde_json::to_string(&stored).unwrap_or_default(),
    }
}

/// The operation of a row; None when an older banger has written less than a client must see.
pub(crate) fn read(row: &OperationRow) -> Option<OperationView> {
    let stored: Stored = serde_json::from_str(&row.view).ok()?;
    let stages = stored.stages.into_iter().map(|stage| StageView {
        key: stage.key,
        title: stage.title,
        status: stage.status,
        began: Instant::now(),
        took_ms: Some(stage.elapsed_ms),
        detail: stage.detail,
    });
    Some(OperationView {
        id: row.id.clone(),
        kind: stored.kind,
        subject: stored.subject,
        vm: stored.vm,
        goal: stored.goal,
        state: match stored.state {
            State::Running => OpState::Running,
            State::Succeeded => OpState::Succeeded,
            State::Failed(failure) => OpState::Failed(failure),
            State::Cancelled => OpState::Cancelled,
        },
        stages: stages.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::GuestState;
    use banger_core::{ErrorCode, OpId};
    use std::time::Duration;

    #[test]
    fn what_is_read_is_what_was_written() {
        let stage = |key: &str, status| StageView {
            key: key.into(),
            title: format!("the {key}"),
            status,
            began: Instant::now(),
            took_ms: Some(7),
            detail: Some("a line".into()),
        };
        let failure = Failure::new(ErrorCode::DiskFull, "no room").hint("make some");
        for state in [
            OpState::Running,
            OpState::Succeeded,
            OpState::Cancelled,
            OpState::Failed(failure),
        ] {
            let view = OperationView {
                id: OpId::from_entropy([1; 6]),
                kind: OpKind::CreateVm,
                subject: "demo".into(),
                vm: Some(VmId::from_entropy([2; 6])),
                goal: Some(Goal {
                    wait: Some(GuestState::Ready),
                    deadline: Duration::from_millis(1500),
                }),
                state,
                stages: vec![
                    stage("image", StageStatus::Done),
                    stage("kernel", StageStatus::Running),
                ],
            };
            let mut read = read(&write(&view)).unwrap();
            for (stage, original) in read.stages.iter_mut().zip(&view.stages) {
                stage.began = original.began;
            }
            assert_eq!(read, view);
        }
    }

    #[test]
    fn a_row_without_a_goal_is_read() {
        let view = r#"{"kind":"create_vm","subject":"x","vm":null,"state":"running","stages":[]}"#;
        let row = OperationRow {
            id: OpId::from_entropy([1; 6]),
            is_final: false,
            view: view.into(),
        };
        assert_eq!(read(&row).unwrap().goal, None);
    }

    #[test]
    fn rows_of_an_older_format_are_none() {
        let view = r#"{"id":"0","kind":"create_vm","subject":"x","vm":null,"state":"succeeded"}"#;
        let row = OperationRow {
            id: OpId::from_entropy([1; 6]),
            is_final: true,
            view: view.into(),
        };
        assert!(read(&row).is_none());
    }
}
