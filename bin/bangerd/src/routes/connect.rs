//! Handing out a connection to the guest: dialled and authorised here, spoken over by the client. It
//! outlives the daemon.

use std::os::fd::AsFd;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::response::{IntoResponse, Response};
use banger_api::{ApiError, CONNECT_PROTOCOL, Readiness};
use banger_core::{ErrorCode, VmId};
use banger_engine::ports::Failure;
use banger_guest::GuestAddress;
use hyper_util::rt::TokioIo;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use super::Problem;
use super::problem::Query;
use super::vms::goal;
use crate::adapters::is_stopped;
use crate::state::Shared;
use crate::unpulled;

/// Deadline where nobody sets one.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// How long an agent that has answered before may take to do so again.
pub(super) const ANSWER: Duration = Duration::from_secs(20);

/// How long to wait for what, and what for.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectQuery {
    /// How far the guest must be.
    wait: Option<Readiness>,
    /// Deadline in seconds.
    timeout_s: Option<u32>,
    /// A workspace is put into the guest: from now on it is asked for work that was never pulled.
    #[serde(default)]
    workspace: bool,
}

/// Upgrades to a connection to the guest's agent (see `CONNECT_PROTOCOL`).
#[utoipa::path(post, path = "/v1/vms/{ref}/connect", params(("ref" = String, Path,), ConnectQuery), responses((status = 101)))]
pub(crate) async fn connect(
    State(state): State<Shared>,
    Path(reference): Path<String>,
    Query(query): Query<ConnectQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|value| value == CONNECT_PROTOCOL);
    if !asked {
        let what = format!("this route upgrades to `{CONNECT_PROTOCOL}` and to nothing else");
        return Err(Problem(ApiError::new(ErrorCode::InvalidArgument, what)));
    }
    let view = state.engine.resolve(&reference)?;
    state.staleness.used(&view);
    let vm = view.id;
    let deadline = query
        .timeout_s
        .map_or(PATIENCE, |seconds| Duration::from_secs(seconds.into()));
    let guest = reach(
        &state,
        &vm,
        query.wait.unwrap_or(Readiness::Reachable),
        deadline,
    )
    .await?;
    if query.workspace {
        unpulled::expect(&state.vm_folder(&vm)).map_err(|error| {
            let what = "that the VM has a workspace could not be noted";
            Failure::because(ErrorCode::Internal, what, &error)
        })?;
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let handed = match upgrade.await {
            Ok(upgraded) => hand_over(upgraded, guest).await,
            Err(error) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = handed {
            tracing::warn!(%error, "a connection to a guest was not taken");
        }
    });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, CONNECT_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// A stream to the agent of a guest that is as far as it has to be.
pub(super) async fn reach(
    state: &Shared,
    vm: &VmId,
    wait: Readiness,
    deadline: Duration,
) -> Result<UnixStream, Failure> {
    if let Some(goal) = goal(wait) {
        state.engine.wait_guest(vm, goal, deadline).await?;
    }
    let view = state.engine.get(vm).ok_or_else(|| {
        let what = format!("there is no VM {vm}");
        Failure::new(ErrorCode::VmNotFound, what)
    })?;
    view.is_awake()?;
    // One that somebody else has stopped a moment ago.
    if view.vmm_pid.is_some_and(is_stopped) {
        return Err(view.stands_still());
    }
    // An agent that was reachable answers at once, or not at all: then the connection is parked for good.
    let patience = if wait == Readiness::None {
        deadline
    } else {
        deadline.min(ANSWER)
    };
    dial(&state.guest_address(vm), patience).await
}

/// A stream to an agent that answers within that time.
async fn dial(address: &GuestAddress, patience: Duration) -> Result<UnixStream, Failure> {
    let unreachable = |error: &(dyn std::error::Error + 'static)| {
        Failure::because(
            ErrorCode::AgentUnreachable,
            "the guest's agent cannot be reached",
            error,
        )
    };
    let failure = match tokio::time::timeout(patience, address.dial()).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => unreachable(&error),
        Err(error) => unreachable(&error),
    };
    Err(failure.hint(
        "`banger vm logs` shows the console; stopping and starting the VM brings the agent back",
    ))
}

/// Waits for the client's byte, so that it reads nothing ahead, and sends one back with the descriptor.
async fn hand_over(upgraded: hyper::upgrade::Upgraded, guest: UnixStream) -> std::io::Result<()> {
    let wrong = || std::io::Error::other("the connection is no Unix socket");
    let parts = upgraded
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| wrong())?;
    let mut client = parts.io.into_inner();
    if parts.read_buf.is_empty() {
        client.read_u8().await?;
    }
    let guest = guest.into_std()?;
    // The client's side blocks: it is a plain stream for it.
    guest.set_nonblocking(false)?;
    client
        .async_io(Interest::WRITABLE, || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [guest.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let byte = std::io::IoSlice::new(b"\0");
            Ok(sendmsg(
                &client,
                &[byte],
                &mut control,
                SendFlags::NOSIGNAL,
            )?)
        })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    use super::*;

    /// What stands at a VM's vsock socket when the guest's agent is gone.
    #[derive(Debug, Clone, Copy)]
    enum Vmm {
        /// Nobody: the VMM's backend is gone as well.
        Gone,
        /// Firecracker: it closes what no port of the guest takes.
        Refuses,
        /// banger's backend of QEMU: it holds the connection until the port is there.
        Parks,
        /// An agent that is there, for the difference.
        Connects,
    }

    async fn dialled(vmm: Vmm, patience: Duration) -> Result<UnixStream, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("v");
        let address = GuestAddress::new(&socket);
        let listener = match vmm {
            Vmm::Gone => return dial(&address, patience).await,
            _ => UnixListener::bind(&socket).unwrap(),
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            let _ = stream.read(&mut request).await.unwrap();
            match vmm {
                Vmm::Gone | Vmm::Refuses => drop(stream),
                Vmm::Parks => std::future::pending().await,
                Vmm::Connects => stream.write_all(b"OK 5\n").await.unwrap(),
            }
            std::future::pending().await
        };
        tokio::select! {
            stream = dial(&address, patience) => stream,
            () = serve => unreachable!("it serves for good"),
        }
    }

    #[tokio::test]
    async fn an_agent_that_is_gone_is_told_in_time_with_what_to_do() {
        let long = Duration::from_secs(3600);
        assert!(dialled(Vmm::Connects, long).await.is_ok());
        let short = Duration::from_millis(50);
        for (vmm, patience) in [
            (Vmm::Refuses, long),
            (Vmm::Gone, short),
            (Vmm::Parks, short),
        ] {
            let dialled = dialled(vmm, patience);
            let answer = tokio::time::timeout(Duration::from_secs(20), dialled).await;
            let failure = answer.expect("in time").unwrap_err();
            assert_eq!(failure.code, ErrorCode::AgentUnreachable, "{vmm:?}");
            assert!(!failure.causes.is_empty(), "{vmm:?}");
            assert!(failure.hints[0].contains("banger vm logs"), "{failure:?}");
        }
    }
}
