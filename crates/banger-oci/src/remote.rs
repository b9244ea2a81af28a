//! Files below an address that anybody may have: what catalogs are kept in.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use banger_core::Digest;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use crate::blobs::{BlobStore, Partial};
use crate::download::{Ask, Door, Downloads, Patience};
use crate::error::{Context, PullError, RegistryError};
use crate::fetch::{Fetching, From};
use crate::manifest::Descriptor;
use crate::pull::{authorities, cancelled, room_for};
use crate::watch::Watch;

/// A folder on a server.
#[derive(Debug)]
pub struct Remote {
    downloads: Downloads,
    /// Its address, without a slash at the end.
    base: String,
    host: String,
}

impl Remote {
    /// The folder at an address. `certificates` are folders with a folder per server, `HOST:PORT`, of its authorities'
    /// certificates (`*.crt`). Nothing is asked yet.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(
        base: &str,
        certificates: &[PathBuf],
        patience: Patience,
    ) -> Result<Self, PullError> {
        let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        let authorities = authorities(host, certificates)?;
        Ok(Self {
            downloads: Downloads::new(&authorities, patience)?,
            base: base.trim_end_matches('/').to_owned(),
            host: host.to_owned(),
        })
    }

    /// Small files, each as a whole and of at most so many bytes.
    ///
    /// # Errors
    /// See [`PullError`].
    pub fn small<const N: usize>(
        &self,
        files: [(&str, u64); N],
        watch: &dyn Watch,
    ) -> Result<[Vec<u8>; N], PullError> {
        let asked = async {
            let mut found = [const { Vec::new() }; N];
            for (slot, (path, max)) in found.iter_mut().zip(files) {
                let ask = Ask {
                    url: &format!("{}/{path}", self.base),
                    accept: None,
                    what: path,
                };
                *slot = self.downloads.small(self, ask, max).await?;
            }
            Ok::<_, PullError>(found)
        };
        runtime()?.block_on(async {
            tokio::select! {
                asked = asked => asked,
                () = cancelled(watch) => Err(PullError::Cancelled),
            }
        })
    }

    /// Begins to fetch blobs, which are at `blobs/SHA256`, into the content store.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn fetch(self, store: &BlobStore, blobs: Vec<Descriptor>) -> Result<Fetching, PullError> {
        room_for(&blobs, store)?;
        let from = From::Remote(self);
        Ok(Fetching::start(runtime()?, from, store.clone(), blobs))
    }

    pub(crate) async fn blob(
        &self,
        blob: &Descriptor,
        partial: &mut Partial,
        received: &AtomicU64,
    ) -> Result<(), PullError> {
        let url = self.url_of(&blob.digest);
        let downloads = &self.downloads;
        downloads.blob(self, &url, blob, partial, received).await
    }

    fn url_of(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.base)
    }
}

/// The event loop of one pull.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, PullError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("start", "the network's event loop")
}

impl Door for Remote {
    fn authorization(&self) -> Option<String> {
        None
    }

    async fn challenged(&self, _headers: &HeaderMap) -> Result<(), RegistryError> {
        Err(self.closed())
    }

    fn closed(&self) -> RegistryError {
        RegistryError::Status {
            url: self.base.clone(),
            status: StatusCode::FORBIDDEN.as_u16(),
        }
    }

    fn missing(&self, what: &str) -> RegistryError {
        RegistryError::NotFound {
            host: self.host.clone(),
            what: what.to_owned(),
        }
    }
}
