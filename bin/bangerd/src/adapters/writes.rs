//! Being told of writes to files. There is one inotify(7) instance for all of them, since a user may have few (128,
//! where nobody changed that); and each watch tells once, so that a guest that writes much wakes nobody who has not
//! asked again.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::watched;

/// Whoever waits for a write, by watch.
type Waiting = HashMap<i32, Vec<oneshot::Sender<()>>>;

/// Tells of writes; nothing is opened before the first question.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    instance: Mutex<Option<Arc<Instance>>>,
}

#[derive(Debug)]
struct Instance {
    inotify: AsyncFd<OwnedFd>,
    waiting: Mutex<Waiting>,
}

/// A write that has not happened yet. Dropped, it is not waited for any more.
#[derive(Debug)]
pub(crate) struct NextWrite {
    instance: Arc<Instance>,
    watch: i32,
    heard: oneshot::Receiver<()>,
}

impl Writes {
    /// The next write to a file, from now on. Must be called within a runtime.
    ///
    /// # Errors
    /// The file is not there, or cannot be watched.
    pub(crate) fn next(&self, path: &Path) -> io::Result<NextWrite> {
        let instance = self.instance()?;
        let (told, heard) = oneshot::channel();
        let mut waiting = instance.waiting();
        let flags = WatchFlags::MODIFY | WatchFlags::ONESHOT | WatchFlags::DONT_FOLLOW;
        let watch = inotify::add_watch(instance.inotify.get_ref(), path, flags)?;
        // Two who wait for one file share its watch.
        waiting.entry(watch).or_default().push(told);
        drop(waiting);
        Ok(NextWrite {
            instance,
            watch,
            heard,
        })
    }

    fn instance(&self) -> io::Result<Arc<Instance>> {
        let mut instance = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(instance) = instance.as_ref() {
            return Ok(Arc::clone(instance));
        }
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let made = Arc::new(Instance {
            inotify: watched(inotify)?,
            waiting: Mutex::default(),
        });
        // Ends with the runtime.
        tokio::spawn(tell(Arc::clone(&made)));
        Ok(Arc::clone(instance.insert(made)))
    }
}

impl Instance {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of all that has happened.
    fn tell(&self) {
        let mut events = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(self.inotify.get_ref(), &mut events);
        while let Ok(event) = events.next() {
            let mut waiting = self.waiting();
            match event.wd() {
                // More happened than the kernel kept: anybody may be meant.
                -1 => waiting.clear(),
                watch => drop(waiting.remove(&watch)),
            }
        }
    }
}

async fn tell(instance: Arc<Instance>) {
    while let Ok(mut ready) = instance.inotify.readable().await {
        instance.tell();
        ready.clear_ready();
    }
}

impl NextWrite {
    /// Resolves when it has happened, or the file is gone.
    pub(crate) async fn happened(mut self) {
        // Told by the sender's end.
        let _ = (&mut self.heard).await;
    }
}

impl Drop for NextWrite {
    fn drop(&mut self) {
        self.heard.close();
        let mut waiting = self.instance.waiting();
        // After a write there is nothing left to remove; a watch's number is not given out again.
        if let Some(all) = waiting.get_mut(&self.watch) {
            all.retain(|told| !told.is_closed());
            if all.is_empty() {
                waiting.remove(&self.watch);
                let _ = inotify::remove_watch(self.instance.inotify.get_ref(), self.watch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn append(path: &Path) {
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(b"x").unwrap();
    }

    fn waited_for(writes: &Writes) -> usize {
        writes.instance().unwrap().waiting().len()
    }

    #[tokio::test]
    async fn each_is_told_of_the_next_write_to_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        for path in [&one, &other] {
            File::create(path).unwrap();
        }
        let writes = Writes::default();
        let (first, second) = (writes.next(&one).unwrap(), writes.next(&one).unwrap());
        let mut others = std::pin::pin!(writes.next(&other).unwrap().happened());
        append(&one);
        let both = async { tokio::join!(first.happened(), second.happened()) };
        tokio::time::timeout(SOON, both).await.unwrap();
        let told = tokio::time::timeout(Duration::from_millis(20), &mut others).await;
        assert!(told.is_err(), "of another's write");
        append(&other);
        tokio::time::timeout(SOON, others).await.unwrap();
        // Of what happened before it was asked nobody is told.
        let next = writes.next(&one).unwrap();
        let told = tokio::time::timeout(Duration::from_millis(20), next.happened()).await;
        assert!(told.is_err(), "of an earlier write");
    }

    #[tokio::test]
    async fn what_is_not_waited_for_any_more_is_not_watched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap();
        let writes = Writes::default();
        let (one, other) = (writes.next(&path).unwrap(), writes.next(&path).unwrap());
        drop(one);
        assert_eq!(waited_for(&writes), 1);
        append(&path);
        tokio::time::timeout(SOON, other.happened()).await.unwrap();
        drop(writes.next(&path).unwrap());
        assert_eq!(waited_for(&writes), 0);
    }

    #[tokio::test]
    async fn a_file_that_goes_away_is_told_of_and_watched_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap();
        let writes = Writes::default();
        let next = writes.next(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        tokio::time::timeout(SOON, next.happened()).await.unwrap();
        assert!(writes.next(&path).is_err());
    }
}
