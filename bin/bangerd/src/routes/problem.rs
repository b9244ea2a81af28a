//! Errors as replies.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use banger_api::ApiError;
use banger_core::{ErrorCode, ExitCode};
use banger_engine::ports::Failure;
use serde::de::DeserializeOwned;

use crate::convert;

/// An error reply.
#[derive(Debug)]
pub(crate) struct Problem(pub(crate) ApiError);

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self(convert::error(&failure))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.0.code.exit_code() {
            ExitCode::Usage => StatusCode::BAD_REQUEST,
            ExitCode::NotFound => StatusCode::NOT_FOUND,
            ExitCode::Conflict => StatusCode::CONFLICT,
            ExitCode::HostNotReady => StatusCode::SERVICE_UNAVAILABLE,
            ExitCode::Ok | ExitCode::Failed | ExitCode::OwnFailure => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, Json(self.0)).into_response()
    }
}

/// No such route, or not with that method.
pub(crate) async fn no_route(request: Request) -> Response {
    let what = format!("there is no {} {}", request.method(), request.uri().path());
    let error = ApiError::new(ErrorCode::InvalidArgument, what)
        .hint("GET /v1/openapi.json lists what there is");
    (StatusCode::NOT_FOUND, Json(error)).into_response()
}

/// A JSON body; a malformed one is an [`ApiError`] too. An empty one is `{}`.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let invalid = |why: String| {
            Problem(ApiError::new(
                ErrorCode::InvalidArgument,
                format!("the request's body is not valid: {why}"),
            ))
        };
        let bytes = bytes::Bytes::from_request(request, state)
            .await
            .map_err(|error| invalid(error.to_string()))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| invalid(error.to_string()))
    }
}

/// A query string.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|error| {
            Problem(ApiError::new(
                ErrorCode::InvalidArgument,
                format!("the query is not valid: {error}"),
            ))
        })
    }
}
