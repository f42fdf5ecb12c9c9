//! Owns which uploads are open, whose turn it is at each, and how many there may be. The files are the truth; what is
//! kept here saves reading them again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

use super::blocking;
use super::refusal::{Code, Refusal};
use crate::store::{Layout, Progress};

/// How many uploads may be open.
const MOST: usize = 4096;
/// An upload that rested this long gives way to a new one when there are as many as may be.
const RESTED: Duration = Duration::from_secs(600);
/// How long a request waits for another one at the same upload: one whose client is gone ends by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often old uploads are looked for.
const SWEEP: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
struct Session {
    progress: Arc<tokio::sync::Mutex<Option<Progress>>>,
    touched: Instant,
}

impl Session {
    fn new(progress: Option<Progress>) -> Self {
        Self { progress: Arc::new(tokio::sync::Mutex::new(progress)), touched: Instant::now() }
    }
}

/// The right to write to an upload. It holds how far the upload is, where that is known.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) progress: OwnedMutexGuard<Option<Progress>>,
    /// How many bytes there are.
    pub(super) length: u64,
}

/// The open uploads.
#[derive(Debug, Clone)]
pub(super) struct Sessions {
    layout: Layout,
    open: Arc<Mutex<HashMap<Uuid, Session>>>,
}

impl Sessions {
    /// Those that an earlier process left, and from now on the new ones.
    ///
    /// # Errors
    /// The file system's own.
    pub(super) async fn resume(layout: Layout) -> Result<Self, Refusal> {
        let sessions = Self { layout, open: Arc::default() };
        sessions.expire().await?;
        let keeper = sessions.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                // It has been logged.
                let _ = keeper.expire().await;
            }
        });
        Ok(sessions)
    }

    async fn expire(&self) -> Result<(), Refusal> {
        let layout = self.layout.clone();
        // One that begins meanwhile may not be listed yet, and stays.
        let known: HashSet<Uuid> = self.open().keys().copied().collect();
        let left = blocking(move || layout.expire_uploads(SystemTime::now())).await?;
        let left: HashSet<Uuid> = left.into_iter().map(|upload| upload.id).collect();
        let mut open = self.open();
        open.retain(|id, session| left.contains(id) || !known.contains(id) || session.touched.elapsed() < RESTED);
        // One that ended meanwhile comes back with nothing behind it, until the next look.
        for id in left.difference(&known) {
            open.entry(*id).or_insert_with(|| Session::new(None));
        }
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`], or the file system's own.
    pub(super) async fn begin(&self, repository: &str, progress: Option<Progress>) -> Result<Uuid, Refusal> {
        let id = Uuid::now_v7();
        let gives_way = {
            let mut open = self.open();
            let mut gives_way = None;
            if open.len() >= MOST {
                let longest = open.iter().min_by_key(|(_, s)| s.touched).filter(|(_, s)| s.touched.elapsed() > RESTED);
                let Some((longest, _)) = longest else {
                    let why = format!("{MOST} uploads are open; end some of them, or try again later");
                    return Err(Refusal::new(Code::TooManyRequests, why).header(axum::http::header::RETRY_AFTER, "60"));
                };
                gives_way = Some(*longest);
            }
            if let Some(id) = gives_way {
                open.remove(&id);
            }
            open.insert(id, Session::new(progress));
            gives_way
        };
        let (layout, repository) = (self.layout.clone(), repository.to_owned());
        let begun = blocking(move || {
            if let Some(id) = gives_way {
                layout.end_upload(id)?;
            }
            layout.begin_upload(&repository, id)
        });
        if let Err(e) = begun.await {
            self.end(id);
            return Err(e);
        }
        Ok(id)
    }

    /// Waits for the turn at an upload.
    ///
    /// # Errors
    /// [`Code::BlobUploadUnknown`]; [`Code::BlobUploadInvalid`] when another request stays at it.
    pub(super) async fn turn(&self, repository: &str, id: Uuid) -> Result<Turn, Refusal> {
        let known = self.open().get(&id).map(|s| Arc::clone(&s.progress));
        let lock = known.unwrap_or_default();
        let Ok(progress) = tokio::time::timeout(PATIENCE, lock.lock_owned()).await else {
            return Err(Refusal::new(Code::BlobUploadInvalid, "another request writes to this upload").status(409));
        };
        let (layout, wanted) = (self.layout.clone(), repository.to_owned());
        let length = blocking(move || layout.upload_length(&wanted, id)).await?;
        let Some(length) = length else {
            return Err(Refusal::new(Code::BlobUploadUnknown, "no such upload"));
        };
        if let Some(session) = self.open().get_mut(&id) {
            session.touched = Instant::now();
        }
        Ok(Turn { progress, length })
    }

    /// An upload is over.
    pub(super) fn end(&self, id: Uuid) {
        self.open().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_that_begins_while_old_ones_are_looked_for_is_not_forgotten() {
        // With one thread for the disk, which the test holds, it is sure that the look isn't over yet.
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.max_blocking_threads(1).enable_all().build().unwrap().block_on(begins_meanwhile());
    }

    async fn begins_meanwhile() {
        let home = tempfile::tempdir().unwrap();
        let sessions = Sessions { layout: Layout::create(home.path()).unwrap(), open: Arc::default() };
        let there = sessions.begin("a", None).await.unwrap();
        let rested = || {
            let touched = Instant::now().checked_sub(2 * RESTED).expect("the clock counts from before");
            Session { touched, ..Session::new(None) }
        };
        let (over, begun) = (Uuid::now_v7(), Uuid::now_v7());
        sessions.open().insert(over, rested());
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let held = tokio::task::spawn_blocking(move || told.recv());
        let mut looking = std::pin::pin!(sessions.expire());
        // What stands in the folder is being read; this one's file was not there yet.
        tokio::select! {
            biased;
            _ = &mut looking => panic!("it waits for the disk"),
            () = std::future::ready(()) => {}
        }
        sessions.open().insert(begun, rested());
        go_on.send(()).unwrap();
        held.await.unwrap().unwrap();
        looking.await.unwrap();
        let mut open: Vec<Uuid> = sessions.open().keys().copied().collect();
        open.sort();
        let mut wanted = [there, begun];
        wanted.sort();
        assert_eq!(open, wanted, "the one without a file that was known before is over");
    }
}
