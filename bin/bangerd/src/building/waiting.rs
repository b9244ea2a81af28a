//! Builds that wait for somebody to look into their builder.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use banger_core::{ErrorCode, ImageName};
use banger_engine::ports::Failure;
use tokio::sync::oneshot;

/// Builds, by the image that they build, one of each name; and how those that wait are told to go on.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    builds: Mutex<HashMap<ImageName, Option<oneshot::Sender<bool>>>>,
}

/// A build's name is its own while this lives.
#[derive(Debug)]
pub(super) struct Alone<'a> {
    waiting: &'a Waiting,
    name: ImageName,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.name);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<ImageName, Option<oneshot::Sender<bool>>>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a build, unless one of that name goes on.
    pub(super) fn begin(&self, name: &ImageName) -> Result<Alone<'_>, Failure> {
        let mut builds = self.lock();
        if builds.contains_key(name) {
            let what = format!("the image `{name}` is being built");
            return Err(Failure::new(ErrorCode::InUse, what).hint("wait until that is done"));
        }
        builds.insert(name.clone(), None);
        Ok(Alone {
            waiting: self,
            name: name.clone(),
        })
    }

    /// Waits to be told whether what is in the builder becomes the image.
    pub(super) fn wait(&self, name: &ImageName) -> oneshot::Receiver<bool> {
        let (send, receive) = oneshot::channel();
        self.lock().insert(name.clone(), Some(send));
        receive
    }

    /// Lets one go on.
    pub(crate) fn go_on(&self, name: &str, keep: bool) -> Result<(), Failure> {
        let known: Option<ImageName> = name.parse().ok();
        let waiting = known.and_then(|name| self.lock().get_mut(&name)?.take());
        let told = waiting.is_some_and(|waiting| waiting.send(keep).is_ok());
        if told {
            return Ok(());
        }
        let what = format!("no build of `{name}` waits for somebody");
        Err(Failure::new(ErrorCode::InvalidArgument, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_build_of_a_name_goes_on_and_is_told_once() {
        let waiting = Waiting::default();
        let name: ImageName = "app".parse().unwrap();
        let alone = waiting.begin(&name).unwrap();
        assert_eq!(waiting.begin(&name).unwrap_err().code, ErrorCode::InUse);
        assert!(waiting.go_on("app", true).is_err(), "it does not wait");
        let mut told = waiting.wait(&name);
        waiting.go_on("app", true).unwrap();
        assert_eq!(told.try_recv(), Ok(true));
        assert!(waiting.go_on("app", true).is_err());
        assert!(waiting.go_on("other", true).is_err());
        drop(alone);
        waiting.begin(&name).unwrap();
    }
}
