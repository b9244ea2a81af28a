//! Who signed an index.

use std::str::FromStr;

use minisign_verify::{Error, PublicKey, Signature};
use serde::Deserialize;

use crate::error::CatalogError;

/// The key that an index must be signed with: minisign's, 56 characters that begin with `RW`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TrustedKey(String);

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no minisign public key: write the line of 56 characters that begins with `RW`")]
pub struct ParseKeyError;

impl FromStr for TrustedKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        match PublicKey::from_base64(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(ParseKeyError),
        }
    }
}

impl TryFrom<String> for TrustedKey {
    type Error = ParseKeyError;

    fn try_from(text: String) -> Result<Self, ParseKeyError> {
        text.parse()
    }
}

impl TrustedKey {
    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks that `signature` is this key's over `bytes`.
    pub(crate) fn check(&self, bytes: &[u8], signature: &[u8]) -> Result<(), CatalogError> {
        let wrong = CatalogError::Signature;
        let signature = std::str::from_utf8(signature).map_err(|_| wrong("it is no text"))?;
        let signature =
            Signature::decode(signature).map_err(|_| wrong("it is no minisign signature"))?;
        let key = PublicKey::from_base64(&self.0).map_err(|_| CatalogError::UnknownKey)?;
        key.verify(bytes, &signature, false)
            .map_err(|error| match error {
                Error::UnexpectedKeyId => CatalogError::UnknownKey,
                Error::UnexpectedAlgorithm | Error::UnsupportedLegacyMode => {
                    wrong("it is of minisign's old kind, which is not used")
                }
                _ => wrong("the index is not what was signed"),
            })
    }
}
