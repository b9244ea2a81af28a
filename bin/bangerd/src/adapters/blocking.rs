//! Work that blocks, on a thread that may.

use banger_core::ErrorCode;
use banger_engine::ports::Failure;

/// Runs `work`; a panic in it is a failure.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::because(
            ErrorCode::Internal,
            "a worker ended unexpectedly",
            &error,
        )),
    }
}
