//! Getting files over HTTP. Nothing of a server is believed: sizes of everything are bounded, a stall or a broken
//! connection is waited out a few times and gone on from, and the address it leads to is looked at.

use std::future::Future;
use std::io::{Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use banger_core::Digest;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderMap, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::blobs::Partial;
use crate::error::{Context, PullError, RegistryError};
use crate::hash;
use crate::manifest::Descriptor;

const REDIRECTS_MAX: usize = 5;
/// A server that asks for longer waits is told of instead.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// How long a server is waited for.
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

/// What a server lets somebody have, and how it says no.
pub(crate) trait Door: Sync {
    /// What goes into the `Authorization` header.
    fn authorization(&self) -> Option<String>;

    /// Does what an answer of 401 asks for.
    fn challenged(
        &self,
        headers: &HeaderMap,
    ) -> impl Future<Output = Result<(), RegistryError>> + Send;

    /// Without (other) credentials it gives nothing.
    fn closed(&self) -> RegistryError;

    /// It has no such thing.
    fn missing(&self, what: &str) -> RegistryError;
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// Where.
    pub(crate) url: &'a str,
    /// Types that will do.
    pub(crate) accept: Option<&'a str>,
    /// What it is, for people.
    pub(crate) what: &'a str,
}

/// A client, and how patient it is.
#[derive(Debug)]
pub(crate) struct Downloads {
    pub(crate) client: Client,
    pub(crate) patience: Patience,
}

impl Downloads {
    /// With further authorities' certificates, in PEM.
    pub(crate) fn new(authorities: &[Vec<u8>], patience: Patience) -> Result<Self, RegistryError> {
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
        for pem in authorities {
            let certificates =
                reqwest::Certificate::from_pem_bundle(pem).map_err(RegistryError::Client)?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(RegistryError::Client)?;
        Ok(Self { client, patience })
    }

    /// Something small, as a whole.
    pub(crate) async fn small(
        &self,
        door: &impl Door,
        ask: Ask<'_>,
        max: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut tries = 0;
        loop {
            let mut response = self.get(door, ask, None).await?;
            match body(&mut response, ask.url, max).await {
                Err(BodyError::Broken(error)) => self.again(&mut tries, ask.url, error).await?,
                Err(BodyError::Refused(error)) => return Err(error),
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    /// A large blob into a file, going on where an earlier try ended. What comes is counted.
    pub(crate) async fn blob(
        &self,
        door: &impl Door,
        url: &str,
        blob: &Descriptor,
        partial: &mut Partial,
        received: &AtomicU64,
    ) -> Result<(), PullError> {
        let what = format!("blob sha256:{}", blob.digest);
        let ask = Ask {
            url,
            accept: None,
            what: &what,
        };
        let url = || url.to_owned();
        let path = || std::path::PathBuf::from(blob.digest.to_string());
        let (mut hash, mut at) = rehash(&mut partial.file, blob.size).context("read", path())?;
        received.fetch_add(at, Ordering::Relaxed);
        let mut tries = 0;
        while at < blob.size {
            let range = (at > 0).then(|| format!("bytes={at}-"));
            let mut response = self.get(door, ask, range.as_deref()).await?;
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
                    url: url(),
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
                            return Err(RegistryError::TooLarge { url: url(), limit }.into());
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
                url: url(),
                received: at,
                size: blob.size,
            };
            match error {
                None if tries + 1 >= self.patience.tries => return Err(truncated.into()),
                None => self.pause(&mut tries).await,
                Some(error) => self.again(&mut tries, ask.url, error).await?,
            }
        }
        Ok(check_digest(url(), &blob.digest, &hash::finish(hash))?)
    }

    /// Asks until there is an answer that is of use.
    pub(crate) async fn get(
        &self,
        door: &impl Door,
        ask: Ask<'_>,
        range: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let url = ask.url;
        let (mut tries, mut is_authorized) = (0, false);
        loop {
            let mut request = self.client.get(url);
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            if let Some(authorization) = door.authorization() {
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
                    door.challenged(response.headers()).await?;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(door.closed());
                }
                StatusCode::NOT_FOUND => {
                    return Err(door.missing(ask.what));
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

    /// Waits before another try, or says that there was one too many.
    pub(crate) async fn again(
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

    pub(crate) async fn pause(&self, tries: &mut u32) {
        tokio::time::sleep(self.patience.pause * 2_u32.saturating_pow(*tries).min(64)).await;
        *tries += 1;
    }
}

pub(crate) enum BodyError {
    /// Another try may help.
    Broken(reqwest::Error),
    Refused(RegistryError),
}

pub(crate) async fn body(
    response: &mut Response,
    url: &str,
    max: u64,
) -> Result<Vec<u8>, BodyError> {
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
