//! A client of the registry protocol (the distribution specification), as far as pulling needs it. Written here
//! because nothing of a registry is believed: sizes of everything are bounded, a stall or a broken connection is
//! waited out a few times and gone on from, and the address it leads to is looked at.

use std::io::{Seek, SeekFrom, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use banger_core::{DEFAULT_REGISTRY, Digest, RegistryRef};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::auth::Credentials;
use crate::blobs::Partial;
use crate::challenge::Challenge;
use crate::error::{Context, PullError, RegistryError};
use crate::hash;
use crate::manifest::{ACCEPTED, Descriptor};

const REDIRECTS_MAX: usize = 5;
const TOKEN_MAX: u64 = 1 << 20;
/// A registry that asks for longer waits is told of instead.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// How long a registry is waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes.
    pub stall: Duration,
    /// How often something is tried that brought nothing.
    pub tries: u32,
    /// What is waited before the second try; it doubles with each.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            tries: 5,
            pause: Duration::from_millis(500),
        }
    }
}

/// A registry, seen from one repository.
#[derive(Debug)]
pub(crate) struct Registry {
    client: Client,
    image: RegistryRef,
    base: String,
    credentials: Option<Credentials>,
    /// What goes into the `Authorization` header.
    authorization: Mutex<Option<String>>,
    patience: Patience,
}

/// Certificates, and whether it may be plain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// PEM of further authorities.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Plain HTTP was asked for.
    pub(crate) plain: bool,
}

#[derive(Deserialize)]
struct TokenReply {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    /// Connects: finds out how it speaks.
    pub(crate) async fn connect(
        image: &RegistryRef,
        credentials: Option<Credentials>,
        trust: &Trust,
        patience: Patience,
    ) -> Result<Self, RegistryError> {
        // Another one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .connect_timeout(patience.connect)
            .read_timeout(patience.stall)
            .redirect(reqwest::redirect::Policy::custom(|attempt| {
                let was_encrypted = attempt
                    .previous()
                    .last()
                    .is_some_and(|url| url.scheme() == "https");
                if attempt.previous().len() > REDIRECTS_MAX
                    || (was_encrypted && attempt.url().scheme() != "https")
                {
                    attempt.error("redirected once too often")
                } else {
                    attempt.follow()
                }
            }))
            .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")));
        for pem in &trust.authorities {
            let certificates =
                reqwest::Certificate::from_pem_bundle(pem).map_err(RegistryError::Client)?;
            builder = builder.tls_certs_merge(certificates);
        }
        let host = match image.host() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            host => host,
        };
        let mut registry = Self {
            client: builder.build().map_err(RegistryError::Client)?,
            image: image.clone(),
            base: format!("https://{host}"),
            credentials,
            authorization: Mutex::default(),
            patience,
        };
        let plain = format!("http://{host}");
        if trust.plain {
            registry.base = plain;
        } else if image.is_loopback() {
            // On this machine a registry may be plain; one that speaks TLS is believed to do so.
            let asked = registry
                .client
                .get(format!("{}/v2/", registry.base))
                .send()
                .await;
            if asked.is_err_and(|error| error.is_connect()) {
                registry.base = plain;
            }
        }
        Ok(registry)
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.base, self.image.repository())
    }

    fn blob_url(&self, blob: &Descriptor) -> String {
        self.url(&format!("blobs/sha256:{}", blob.digest))
    }

    fn unauthorized(&self) -> RegistryError {
        RegistryError::Unauthorized {
            host: self.image.host().to_owned(),
            repository: self.image.repository().to_owned(),
        }
    }

    /// A manifest or index, by tag or digest.
    pub(crate) async fn manifest(
        &self,
        reference: &str,
        max: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let url = self.url(&format!("manifests/{reference}"));
        let what = || format!("{}:{reference}", self.image.repository());
        self.small(&url, Some(ACCEPTED), max, &what).await
    }

    /// A small blob.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let url = self.blob_url(blob);
        let what = || format!("blob sha256:{}", blob.digest);
        let bytes = self.small(&url, None, blob.size, &what).await?;
        check_digest(url, &blob.digest, &hash::of(&bytes))?;
        Ok(bytes)
    }

    async fn small(
        &self,
        url: &str,
        accept: Option<&str>,
        max: u64,
        what: &(dyn Fn() -> String + Sync),
    ) -> Result<Vec<u8>, RegistryError> {
        let mut tries = 0;
        loop {
            let mut response = self.get(url, accept, None, what).await?;
            match body(&mut response, url, max).await {
                Err(BodyError::Broken(error)) => self.again(&mut tries, url, error).await?,
                Err(BodyError::Refused(error)) => return Err(error),
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    /// A large blob into a file, going on where an earlier try ended. What comes is counted.
    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        partial: &mut Partial,
        received: &AtomicU64,
    ) -> Result<(), PullError> {
        let url = self.blob_url(blob);
        let what = || format!("blob sha256:{}", blob.digest);
        let path = || std::path::PathBuf::from(blob.digest.to_string());
        let (mut hash, mut at) = rehash(&mut partial.file, blob.size).context("read", path())?;
        received.fetch_add(at, Ordering::Relaxed);
        let mut tries = 0;
        while at < blob.size {
            let range = (at > 0).then(|| format!("bytes={at}-"));
            let mut response = self.get(&url, None, range.as_deref(), &what).await?;
            if at > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
                // It does not know ranges: from the beginning.
                received.fetch_sub(at, Ordering::Relaxed);
                (hash, at) = (Sha256::new(), 0);
                partial.file.set_len(0).context("write", path())?;
                partial
                    .file
                    .seek(SeekFrom::Start(0))
                    .context("write", path())?;
            }
            if let Some(length) = content_length(&response)
                && length != blob.size - at
            {
                let (expected, actual) = (blob.size, at.saturating_add(length));
                return Err(RegistryError::Size {
                    url,
                    expected,
                    actual,
                }
                .into());
            }
            let before = at;
            let error = loop {
                match response.chunk().await {
                    Ok(Some(bytes)) => {
                        if bytes.len() as u64 > blob.size - at {
                            let limit = blob.size;
                            return Err(RegistryError::TooLarge { url, limit }.into());
                        }
                        partial.file.write_all(&bytes).context("write", path())?;
                        hash.update(&bytes);
                        at += bytes.len() as u64;
                        received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            if at == blob.size {
                break;
            }
            if at > before {
                tries = 0;
            }
            let truncated = RegistryError::Truncated {
                url: url.clone(),
                received: at,
                size: blob.size,
            };
            match error {
                None if tries + 1 >= self.patience.tries => return Err(truncated.into()),
                None => self.pause(&mut tries).await,
                Some(error) => self.again(&mut tries, &url, error).await?,
            }
        }
        Ok(check_digest(url, &blob.digest, &hash::finish(hash))?)
    }

    /// Asks until there is an answer that is of use.
    async fn get(
        &self,
        url: &str,
        accept: Option<&str>,
        range: Option<&str>,
        what: &(dyn Fn() -> String + Sync),
    ) -> Result<Response, RegistryError> {
        let (mut tries, mut is_authorized) = (0, false);
        loop {
            let mut request = self.client.get(url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            if let Some(authorization) = self.authorization() {
                request = request.header(AUTHORIZATION, authorization);
            }
            let response = match request.send().await {
                Ok(response) => response,
                Err(error) if error.is_redirect() => {
                    return Err(RegistryError::Redirects {
                        url: url.to_owned(),
                    });
                }
                Err(error) => {
                    self.again(&mut tries, url, error).await?;
                    continue;
                }
            };
            let status = response.status();
            match status {
                _ if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if !is_authorized => {
                    is_authorized = true;
                    self.authorize(response.headers()).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(self.unauthorized());
                }
                StatusCode::NOT_FOUND => {
                    return Err(RegistryError::NotFound {
                        host: self.image.host().to_owned(),
                        what: what(),
                    });
                }
                _ if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                    let url = url.to_owned();
                    let status = status.as_u16();
                    let asked = retry_after(response.headers());
                    if tries + 1 >= self.patience.tries
                        || asked.is_some_and(|wait| wait > PATIENCE_MAX)
                    {
                        return Err(RegistryError::Busy { url, status });
                    }
                    if let Some(wait) = asked {
                        tokio::time::sleep(wait).await;
                    }
                    self.pause(&mut tries).await;
                }
                _ => {
                    let url = url.to_owned();
                    let status = status.as_u16();
                    return Err(RegistryError::Status { url, status });
                }
            }
        }
    }

    fn authorization(&self) -> Option<String> {
        let authorization = self.authorization.lock();
        authorization
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Waits before another try, or says that there was one too many.
    async fn again(
        &self,
        tries: &mut u32,
        url: &str,
        error: reqwest::Error,
    ) -> Result<(), RegistryError> {
        if *tries + 1 >= self.patience.tries {
            let url = url.to_owned();
            return Err(if error.is_timeout() && !error.is_connect() {
                let after = self.patience.stall;
                RegistryError::Stalled { url, after }
            } else {
                let source = error.without_url();
                RegistryError::Unreachable { url, source }
            });
        }
        self.pause(tries).await;
        Ok(())
    }

    async fn pause(&self, tries: &mut u32) {
        tokio::time::sleep(self.patience.pause * 2_u32.saturating_pow(*tries).min(64)).await;
        *tries += 1;
    }

    /// Does what the registry's challenge asks for.
    async fn authorize(&self, headers: &HeaderMap) -> Result<(), RegistryError> {
        let refused = |why| RegistryError::Challenge {
            host: self.image.host().to_owned(),
            why,
        };
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
        let mut challenges = challenges.filter_map(|value| Challenge::parse(value.to_str().ok()?));
        let authorization = match challenges.next() {
            None => return Err(refused("it does not say how")),
            Some(Challenge::Basic) => match &self.credentials {
                Some(Credentials::Basic { user, password }) => basic(user, password),
                _ => return Err(self.unauthorized()),
            },
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let is_plain = self.base.starts_with("http:");
                let is_safe =
                    realm.starts_with("https://") || (is_plain && realm.starts_with("http://"));
                if !is_safe {
                    return Err(refused("tokens would come from a plain address"));
                }
                let scope =
                    scope.unwrap_or_else(|| format!("repository:{}:pull", self.image.repository()));
                format!(
                    "Bearer {}",
                    self.token(&realm, service.as_deref(), &scope).await?
                )
            }
        };
        let mut slot = self
            .authorization
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *slot = Some(authorization);
        Ok(())
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<String, RegistryError> {
        let mut pairs = vec![("scope", scope)];
        pairs.extend(service.map(|service| ("service", service)));
        let mut tries = 0;
        let mut response = loop {
            let request = match &self.credentials {
                Some(Credentials::Refresh(token)) => {
                    let mut form = pairs.clone();
                    form.extend([
                        ("grant_type", "refresh_token"),
                        ("client_id", "banger"),
                        ("refresh_token", token),
                    ]);
                    self.client.post(realm).form(&form)
                }
                Some(Credentials::Basic { user, password }) => self
                    .client
                    .get(realm)
                    .query(&pairs)
                    .header(AUTHORIZATION, basic(user, password)),
                None => self.client.get(realm).query(&pairs),
            };
            match request.send().await {
                Ok(response)
                    if response.status().is_server_error() && tries + 1 < self.patience.tries =>
                {
                    self.pause(&mut tries).await;
                }
                Ok(response) => break response,
                Err(error) => self.again(&mut tries, realm, error).await?,
            }
        };
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.unauthorized());
        }
        if !status.is_success() {
            let url = realm.to_owned();
            return Err(RegistryError::Status {
                url,
                status: status.as_u16(),
            });
        }
        let bytes = match body(&mut response, realm, TOKEN_MAX).await {
            Ok(bytes) => bytes,
            Err(BodyError::Refused(error)) => return Err(error),
            Err(BodyError::Broken(source)) => {
                let url = realm.to_owned();
                return Err(RegistryError::Unreachable { url, source });
            }
        };
        let reply: Option<TokenReply> = serde_json::from_slice(&bytes).ok();
        let token = reply.and_then(|reply| reply.token.or(reply.access_token));
        token
            .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or(RegistryError::Challenge {
                host: self.image.host().to_owned(),
                why: "there is no token in the answer",
            })
    }
}

enum BodyError {
    /// Another try may help.
    Broken(reqwest::Error),
    Refused(RegistryError),
}

async fn body(response: &mut Response, url: &str, max: u64) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if (bytes.len() + chunk.len()) as u64 > max {
            let url = url.to_owned();
            return Err(BodyError::Refused(RegistryError::TooLarge {
                url,
                limit: max,
            }));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

fn content_length(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Only seconds; a date is not worth it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What an earlier try has left of a blob, as far as it can be of use.
fn rehash(file: &mut std::fs::File, size: u64) -> std::io::Result<(Sha256, u64)> {
    if file.metadata()?.len() > size {
        file.set_len(0)?;
    }
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let at = std::io::copy(file, &mut hash)?;
    Ok((hash, at))
}

/// Refuses what is not what was asked for.
pub(crate) fn check_digest(
    url: String,
    expected: &Digest,
    actual: &Digest,
) -> Result<(), RegistryError> {
    if expected == actual {
        return Ok(());
    }
    Err(RegistryError::Digest {
        url,
        expected: expected.clone(),
        actual: actual.clone(),
    })
}
