//! Errors as clients see them.

use banger_core::ErrorCode;
use serde::{Deserialize, Serialize};

/// An error reply (HTTP 4xx or 5xx).
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, utoipa::ToSchema,
)]
#[error("{message}")]
pub struct ApiError {
    /// Stable code.
    #[schema(value_type = String)]
    pub code: ErrorCode,
    /// What failed.
    pub message: String,
    /// Why, outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do.
    #[serde(default)]
    pub hints: Vec<String>,
    /// What it is about: a VM's name, a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The operation it happened in (the log carries the same), or the one that stands in the way: of `name_taken`
    /// the create that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
}

impl ApiError {
    /// An error with a code and a message.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: vec![],
            hints: vec![],
            subject: None,
            op_id: None,
        }
    }

    /// The same, with something to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}
