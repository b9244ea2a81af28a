//! Names of images and kernels in paths.

use std::str::FromStr;

use banger_core::{ErrorCode, ParseNameError};
use banger_engine::ports::Failure;

/// The name, checked.
pub(super) fn parse<N: FromStr<Err = ParseNameError>>(name: &str) -> Result<N, Failure> {
    name.parse().map_err(|error: ParseNameError| {
        Failure::new(ErrorCode::InvalidArgument, error.to_string())
    })
}
