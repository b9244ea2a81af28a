//! Requests and replies. Each request has a connection of its own: on a Unix socket that costs nothing.

use std::io;
use std::path::PathBuf;

use banger_api::{
    ApiError, BuildImageRequest, BuildOnRequest, CatalogView, ConfigView, CreateVmRequest,
    DaemonStatus, Deleted, Doctor, GoOnRequest, Image, ImageList, ImportKernelRequest, Kernel,
    KernelList, KillVmRequest, Operation, OperationEvent, PortList, PullFromCatalogRequest,
    PullImageRequest, Readiness, RegisterImageRequest, RestartVmRequest, SetVmRequest, SshAccess,
    SshTarget, StatsList, StopVmRequest, UnpulledList, Version, Vm, VmList, VmStats,
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::guest_fd;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no daemon listens on {}", socket.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// Why the connection failed.
        #[source]
        source: io::Error,
    },
    /// The daemon said no.
    #[error(transparent)]
    Api(ApiError),
    /// The connection broke.
    #[error("the connection to the daemon broke")]
    Broken(#[source] io::Error),
    /// The daemon's answer is not of this API.
    #[error("the daemon gave an answer that this client does not understand: {0}")]
    Protocol(String),
}

/// Whether nobody is there, so that a daemon may be started.
impl ClientError {
    /// Nobody listens on the socket.
    #[must_use]
    pub const fn is_no_daemon(&self) -> bool {
        matches!(self, Self::NoDaemon { .. })
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Broken(io::Error::other(error))
}

/// A client of the daemon behind a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client; nothing is connected yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let connected = UnixStream::connect(&self.socket).await;
        let stream = connected.map_err(|source| ClientError::NoDaemon {
            socket: self.socket.clone(),
            source,
        })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(broken)
    }

    fn request(
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "banger");
        builder.body(Full::new(body.into())).map_err(broken)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let response = self.send(Self::request(method, path, body)?).await?;
        let bytes = checked(response)
            .await?
            .into_body()
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|error| ClientError::Protocol(error.to_string()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, vec![]).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(broken)?;
        self.call(Method::POST, path, body).await
    }

    /// Builds of daemon and helper.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.get("/v1/version").await
    }

    /// The daemon's state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn daemon(&self) -> Result<DaemonStatus, ClientError> {
        self.get("/v1/daemon").await
    }

    /// Ends the daemon; VMs go on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop_daemon(&self) -> Result<(), ClientError> {
        self.call::<Option<()>>(Method::POST, "/v1/daemon/stop", vec![])
            .await
            .map(drop)
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn config(&self) -> Result<ConfigView, ClientError> {
        self.get("/v1/config").await
    }

    /// What the host has and lacks.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn doctor(&self) -> Result<Doctor, ClientError> {
        self.get("/v1/doctor").await
    }

    /// Every VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vms(&self) -> Result<VmList, ClientError> {
        self.get("/v1/vms").await
    }

    /// A VM by name, id or prefix.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vm(&self, reference: &str) -> Result<Vm, ClientError> {
        self.get(&format!("/v1/vms/{}", escape(reference))).await
    }

    /// Creates a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_vm(&self, request: &CreateVmRequest) -> Result<Operation, ClientError> {
        self.post("/v1/vms", request).await
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn start_vm(
        &self,
        reference: &str,
        wait: Readiness,
        timeout_s: Option<u32>,
    ) -> Result<Operation, ClientError> {
        let path = format!(
            "/v1/vms/{}/start{}",
            escape(reference),
            wait_query(wait, timeout_s)
        );
        self.call(Method::POST, &path, vec![]).await
    }

    /// Stops a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop_vm(
        &self,
        reference: &str,
        request: &StopVmRequest,
    ) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/vms/{}/stop", escape(reference)), request)
            .await
    }

    /// Stops a VM and starts it again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn restart_vm(
        &self,
        reference: &str,
        request: &RestartVmRequest,
    ) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/vms/{}/restart", escape(reference)), request)
            .await
    }

    /// Ends a VM's VMM by a signal.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kill_vm(
        &self,
        reference: &str,
        request: &KillVmRequest,
    ) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/vms/{}/kill", escape(reference)), request)
            .await
    }

    /// Changes a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn set_vm(
        &self,
        reference: &str,
        request: &SetVmRequest,
    ) -> Result<Operation, ClientError> {
        let body = serde_json::to_vec(request).map_err(broken)?;
        let path = format!("/v1/vms/{}", escape(reference));
        self.call(Method::PATCH, &path, body).await
    }

    /// Deletes a VM unless it runs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_stopped_vm(&self, reference: &str) -> Result<Operation, ClientError> {
        let path = format!("/v1/vms/{}?only_stopped=true", escape(reference));
        self.call(Method::DELETE, &path, vec![]).await
    }

    /// Deletes a VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete_vm(&self, reference: &str) -> Result<Operation, ClientError> {
        self.call(
            Method::DELETE,
            &format!("/v1/vms/{}", escape(reference)),
            vec![],
        )
        .await
    }

    /// What ssh needs to log in.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ssh_target(&self, reference: &str) -> Result<SshTarget, ClientError> {
        self.get(&format!("/v1/vms/{}/ssh", escape(reference)))
            .await
    }

    /// Who listens in a guest.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ports(&self, reference: &str) -> Result<PortList, ClientError> {
        self.get(&format!("/v1/vms/{}/ports", escape(reference)))
            .await
    }

    /// What a VM's workspaces hold that was never pulled.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unpulled(&self, reference: &str) -> Result<UnpulledList, ClientError> {
        self.get(&format!("/v1/vms/{}/unpulled", escape(reference)))
            .await
    }

    /// What every VM uses.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stats(&self) -> Result<StatsList, ClientError> {
        self.get("/v1/stats").await
    }

    /// What a VM uses.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn vm_stats(&self, reference: &str) -> Result<VmStats, ClientError> {
        self.get(&format!("/v1/vms/{}/stats", escape(reference)))
            .await
    }

    /// What ssh needs for any VM.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ssh_access(&self) -> Result<SshAccess, ClientError> {
        self.get("/v1/ssh").await
    }

    /// Every image.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn images(&self) -> Result<ImageList, ClientError> {
        self.get("/v1/images").await
    }

    /// An image.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn image(&self, name: &str) -> Result<Image, ClientError> {
        self.get(&format!("/v1/images/{}", escape(name))).await
    }

    /// What the catalog has.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn catalog(&self) -> Result<CatalogView, ClientError> {
        self.get("/v1/catalog").await
    }

    /// Takes an image from the catalog; one that only a recipe has is built.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pull_from_catalog(
        &self,
        name: &str,
        request: &PullFromCatalogRequest,
    ) -> Result<Operation, ClientError> {
        let path = format!("/v1/catalog/images/{}", escape(name));
        self.post(&path, request).await
    }

    /// Takes a kernel from the catalog.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pull_kernel(&self, name: &str) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/catalog/kernels/{}", escape(name)), &())
            .await
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pull_image(&self, request: &PullImageRequest) -> Result<Operation, ClientError> {
        self.post("/v1/images/pull", request).await
    }

    /// Registers files as an image.
    ///
    /// # Errors
    /// See [`Self::version`].
    pub async fn register_image(
        &self,
        request: &RegisterImageRequest,
    ) -> Result<Operation, ClientError> {
        self.post("/v1/images/register", request).await
    }

    /// Copies a registered image's files into the store.
    ///
    /// # Errors
    /// See [`Self::version`].
    pub async fn promote_image(&self, name: &str) -> Result<Operation, ClientError> {
        self.post(&format!("/v1/images/{}/promote", escape(name)), &())
            .await
    }

    /// Deletes an image.
    ///
    /// # Errors
    /// See [`Self::version`].
    pub async fn delete_image(&self, name: &str) -> Result<Deleted, ClientError> {
        let path = format!("/v1/images/{}", escape(name));
        self.call(Method::DELETE, &path, vec![]).await
    }

    /// Deletes a kernel.
    ///
    /// # Errors
    /// See [`Self::version`].
    pub async fn delete_kernel(&self, name: &str) -> Result<Deleted, ClientError> {
        let path = format!("/v1/kernels/{}", escape(name));
        self.call(Method::DELETE, &path, vec![]).await
    }

    /// Builds an image.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn build_image(&self, request: &BuildImageRequest) -> Result<Operation, ClientError> {
        self.post("/v1/images/build", request).await
    }

    /// Builds an image on top of another one.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn build_on(&self, request: &BuildOnRequest) -> Result<Operation, ClientError> {
        self.post("/v1/images/build-on", request).await
    }

    /// Lets a build that waits go on.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn go_on(&self, operation: &str, keep: bool) -> Result<Operation, ClientError> {
        let path = format!("/v1/operations/{}/go-on", escape(operation));
        self.post(&path, &GoOnRequest { keep }).await
    }

    /// Every kernel.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kernels(&self) -> Result<KernelList, ClientError> {
        self.get("/v1/kernels").await
    }

    /// A kernel.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kernel(&self, name: &str) -> Result<Kernel, ClientError> {
        self.get(&format!("/v1/kernels/{}", escape(name))).await
    }

    /// Imports a kernel.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn import_kernel(
        &self,
        request: &ImportKernelRequest,
    ) -> Result<Operation, ClientError> {
        self.post("/v1/kernels/import", request).await
    }

    /// Cancels an operation.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn cancel(&self, operation: &str) -> Result<Operation, ClientError> {
        self.call(
            Method::DELETE,
            &format!("/v1/operations/{}", escape(operation)),
            vec![],
        )
        .await
    }

    /// An operation's events, from the first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self, operation: &str) -> Result<EventStream, ClientError> {
        let path = format!("/v1/operations/{}/events", escape(operation));
        let response = self
            .send(Self::request(Method::GET, &path, vec![])?)
            .await?;
        Ok(EventStream {
            body: checked(response).await?.into_body(),
            pending: Vec::new(),
        })
    }

    /// A VM's console; chunk after chunk.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn logs(&self, reference: &str, follow: bool) -> Result<Incoming, ClientError> {
        let path = format!("/v1/vms/{}/logs?follow={follow}", escape(reference));
        let response = self
            .send(Self::request(Method::GET, &path, vec![])?)
            .await?;
        Ok(checked(response).await?.into_body())
    }

    /// A connection to the agent of a guest, on which nothing has been spoken. It outlives the daemon.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connect_guest(
        &self,
        reference: &str,
        wait: Readiness,
        timeout_s: Option<u32>,
    ) -> Result<std::os::unix::net::UnixStream, ClientError> {
        let query = wait_query(wait, timeout_s);
        self.connect(reference, &query).await
    }

    /// The same for a guest that is reachable, to put a workspace into it: from then on it is asked for work that
    /// was never pulled.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connect_workspace(
        &self,
        reference: &str,
    ) -> Result<std::os::unix::net::UnixStream, ClientError> {
        let query = wait_query(Readiness::Reachable, None) + "&workspace=true";
        self.connect(reference, &query).await
    }

    async fn connect(
        &self,
        reference: &str,
        query: &str,
    ) -> Result<std::os::unix::net::UnixStream, ClientError> {
        let path = format!("/v1/vms/{}/connect{query}", escape(reference));
        let mut request = Self::request(Method::POST, &path, vec![])?;
        let headers = request.headers_mut();
        headers.insert(
            http::header::CONNECTION,
            http::HeaderValue::from_static("upgrade"),
        );
        let protocol = http::HeaderValue::from_static(banger_api::CONNECT_PROTOCOL);
        headers.insert(http::header::UPGRADE, protocol);
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            checked(response).await?;
            return Err(ClientError::Protocol(
                "the connection was not upgraded".into(),
            ));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(broken)?;
        guest_fd::receive(upgraded)
            .await
            .map_err(ClientError::Broken)
    }
}

/// The reply, or the error that it is.
async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = response
        .into_body()
        .collect()
        .await
        .map_err(broken)?
        .to_bytes();
    match serde_json::from_slice(&bytes) {
        Ok(error) => Err(ClientError::Api(error)),
        Err(_) => Err(ClientError::Protocol(format!("status {status}"))),
    }
}

fn wait_query(wait: Readiness, timeout_s: Option<u32>) -> String {
    let word = match wait {
        Readiness::None => "none",
        Readiness::Reachable => "reachable",
        Readiness::Ready => "ready",
    };
    let timeout = timeout_s
        .map(|seconds| format!("&timeout_s={seconds}"))
        .unwrap_or_default();
    format!("?wait={word}{timeout}")
}

/// Percent-encodes a path segment (RFC 3986, section 2.1). Dots alone would be another path.
fn escape(segment: &str) -> String {
    let only_dots = segment.bytes().all(|byte| byte == b'.');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || (b"-._~".contains(&byte) && !only_dots);
    segment
        .bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Events, one after the other.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    pending: Vec<u8>,
}

impl EventStream {
    /// The next event; None when the operation has ended and all was told.
    ///
    /// # Errors
    /// The connection broke: the daemon has gone, and the operation may go on with the next one.
    pub async fn next(&mut self) -> Result<Option<OperationEvent>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let event = serde_json::from_slice(&line);
                return event
                    .map(Some)
                    .map_err(|error| ClientError::Protocol(error.to_string()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame.map_err(broken)?.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_cannot_leave_its_segment() {
        assert_eq!(escape("demo-1"), "demo-1");
        assert_eq!(escape("../x y"), "..%2Fx%20y");
        assert_eq!(escape(".."), "%2E%2E");
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_other_failures() {
        let error = Client::new("/nonexistent/socket")
            .version()
            .await
            .unwrap_err();
        assert!(error.is_no_daemon());
    }
}
