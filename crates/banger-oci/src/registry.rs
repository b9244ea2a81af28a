//! A client of the registry protocol (the distribution specification), as far as pulling needs it. Written here
//! because nothing of a registry is believed: see [`crate::download`].

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use banger_core::{DEFAULT_REGISTRY, RegistryRef};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use crate::auth::Credentials;
use crate::blobs::Partial;
use crate::challenge::Challenge;
use crate::download::{Ask, BodyError, Door, Downloads, Patience, body, check_digest};
use crate::error::{PullError, RegistryError};
use crate::hash;
use crate::manifest::{ACCEPTED, Descriptor};

const TOKEN_MAX: u64 = 1 << 20;

/// A registry, seen from one repository.
#[derive(Debug)]
pub(crate) struct Registry {
    downloads: Downloads,
    image: RegistryRef,
    base: String,
    credentials: Option<Credentials>,
    /// What goes into the `Authorization` header.
    authorization: Mutex<Option<String>>,
}

/// Certificates, and whether it may be plain.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    /// PEM of further authorities.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Plain HTTP was asked for.
    pub(crate) plain: bool,
    /// It may be plain; one that speaks TLS is believed to do so.
    pub(crate) may_be_plain: bool,
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
        let host = match image.host() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            host => host,
        };
        let mut registry = Self {
            downloads: Downloads::new(&trust.authorities, patience)?,
            image: image.clone(),
            base: format!("https://{host}"),
            credentials,
            authorization: Mutex::default(),
        };
        let plain = format!("http://{host}");
        if trust.plain {
            registry.base = plain;
        } else if trust.may_be_plain {
            let asked = registry
                .downloads
                .client
                .get(format!("{}/v2/", registry.base))
                .send()
                .await;
            if asked.is_err_and(|error| error.is_connect() && !is_about_a_certificate(&error)) {
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
        let ask = Ask {
            url: &url,
            accept: Some(ACCEPTED),
            what: &format!("{}:{reference}", self.image.repository()),
        };
        self.downloads.small(self, ask, max).await
    }

    /// A small blob.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let url = self.blob_url(blob);
        let ask = Ask {
            url: &url,
            accept: None,
            what: &format!("blob sha256:{}", blob.digest),
        };
        let bytes = self.downloads.small(self, ask, blob.size).await?;
        check_digest(url, &blob.digest, &hash::of(&bytes))?;
        Ok(bytes)
    }

    /// A large blob into a file, going on where an earlier try ended. What comes is counted.
    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        partial: &mut Partial,
        received: &AtomicU64,
    ) -> Result<(), PullError> {
        let url = self.blob_url(blob);
        self.downloads
            .blob(self, &url, blob, partial, received)
            .await
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
                    self.downloads.client.post(realm).form(&form)
                }
                Some(Credentials::Basic { user, password }) => self
                    .downloads
                    .client
                    .get(realm)
                    .query(&pairs)
                    .header(AUTHORIZATION, basic(user, password)),
                None => self.downloads.client.get(realm).query(&pairs),
            };
            match request.send().await {
                Ok(response)
                    if response.status().is_server_error()
                        && tries + 1 < self.downloads.patience.tries =>
                {
                    self.downloads.pause(&mut tries).await;
                }
                Ok(response) => break response,
                Err(error) => self.downloads.again(&mut tries, realm, error).await?,
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

impl Door for Registry {
    fn authorization(&self) -> Option<String> {
        let authorization = self.authorization.lock();
        authorization
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    async fn challenged(&self, headers: &HeaderMap) -> Result<(), RegistryError> {
        self.authorize(headers).await
    }

    fn closed(&self) -> RegistryError {
        self.unauthorized()
    }

    fn missing(&self, what: &str) -> RegistryError {
        RegistryError::NotFound {
            host: self.image.host().to_owned(),
            what: what.to_owned(),
        }
    }
}

/// Whether a connection failed because of what the server showed: it speaks TLS then.
fn is_about_a_certificate(error: &reqwest::Error) -> bool {
    let is = |mut error: &(dyn Error + 'static)| {
        // What an input error holds is no source of it.
        while let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            error = inner;
        }
        let tls = error.downcast_ref();
        matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
    };
    std::iter::successors(error.source(), |&cause| cause.source()).any(is)
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}
