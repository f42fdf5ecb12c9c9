//! Owns the way of a request's body into a blob: bounded memory, and no thread held for a client that is slow.

use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream, Bytes};
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::refusal::Refusal;
use crate::store::{BlobWriter, StoreError};

/// Bytes gathered before they are handed to a thread. Twice this is the most that one upload has in memory.
const BATCH: usize = 1 << 20;
/// How long a client may say nothing within a body.
const IDLE: Duration = Duration::from_secs(60);
/// The fewest bytes a second that a body may have on the whole. What is slower for longer than [`IDLE`] only holds a place.
const SLOWEST: u64 = 1 << 10;

/// How a body ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All of it came.
    Whole,
    /// It is longer than was said.
    TooLong,
    /// The connection broke, or the client fell silent.
    Cut(String),
}

/// Opens a writer, on a thread that may block.
pub(super) type Open = Box<dyn FnOnce() -> Result<BlobWriter, Refusal> + Send>;

enum Writer {
    Later(Open),
    Here(Box<BlobWriter>),
    Busy(JoinHandle<Result<BlobWriter, Refusal>>),
}

/// What came, the last of it not written yet.
pub(super) struct Received {
    writer: Writer,
    rest: Vec<Bytes>,
    /// The bytes that this body had.
    pub(super) bytes: u64,
    /// How it ended.
    pub(super) end: End,
}

fn write(open: Open, batch: Vec<Bytes>) -> Result<BlobWriter, Refusal> {
    let mut writer = open()?;
    for bytes in batch {
        writer.add(&bytes)?;
    }
    Ok(writer)
}

impl Writer {
    async fn opener(self) -> Result<Open, Refusal> {
        Ok(match self {
            Self::Later(open) => open,
            Self::Here(writer) => Box::new(move || Ok(*writer)),
            Self::Busy(handle) => {
                let writer = handle.await??;
                Box::new(move || Ok(writer))
            }
        })
    }
}

/// Takes a body, `most` bytes of it at most. The next batch is read while the last one is hashed and written.
///
/// # Errors
/// What the store fails with; the writer is gone then.
pub(super) async fn receive(body: Body, open: Open, most: Option<u64>) -> Result<Received, Refusal> {
    let mut pieces = Pieces::of(body);
    let mut writer = Writer::Later(open);
    let (mut batch, mut batched, mut bytes) = (Vec::new(), 0, 0_u64);
    let end = loop {
        let piece = match pieces.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break End::Whole,
            Err(why) => break End::Cut(why),
        };
        bytes += piece.len() as u64;
        if most.is_some_and(|most| bytes > most) {
            break End::TooLong;
        }
        batched += piece.len();
        batch.push(piece);
        if batched >= BATCH {
            batched = 0;
            let (open, batch) = (writer.opener().await?, std::mem::take(&mut batch));
            writer = Writer::Busy(tokio::task::spawn_blocking(move || write(open, batch)));
        }
    };
    if let Writer::Busy(handle) = writer {
        writer = Writer::Here(Box::new(handle.await??));
    }
    Ok(Received { writer, rest: batch, bytes, end })
}

/// The pieces of a body, as long as they come.
pub(super) struct Pieces {
    stream: BodyDataStream,
    bytes: u64,
    /// Spent waiting for the client; what the disk takes isn't the client's.
    waited: Duration,
}

impl Pieces {
    pub(super) fn of(body: Body) -> Self {
        Self { stream: body.into_data_stream(), bytes: 0, waited: Duration::ZERO }
    }

    /// The next piece.
    ///
    /// # Errors
    /// Why there is none: the connection broke, or the client fell silent, or as good as that.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let began = Instant::now();
        let next = tokio::time::timeout(patience(self.bytes, self.waited), self.stream.next()).await;
        self.waited += began.elapsed();
        match next {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => {
                self.bytes += piece.len() as u64;
                Ok(Some(piece))
            }
            Ok(Some(Err(e))) => Err(format!("the body broke off: {e}")),
            Err(_) => Err(format!("too little came in {} s", self.waited.as_secs())),
        }
    }
}

/// How long a client is waited for that has sent so many bytes in so much time.
fn patience(bytes: u64, waited: Duration) -> Duration {
    (IDLE + Duration::from_secs(bytes / SLOWEST)).saturating_sub(waited).min(IDLE)
}

impl Received {
    /// Writes what is left, and ends with `work`, on a thread that may block.
    ///
    /// # Errors
    /// What the store or `work` fails with.
    pub(super) async fn finish<T: Send + 'static>(
        self,
        work: impl FnOnce(BlobWriter) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (open, rest) = (self.writer.opener().await?, self.rest);
        tokio::task::spawn_blocking(move || Ok(work(write(open, rest)?)?)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_rest_and_not_drip() {
        let seconds = Duration::from_secs;
        for (bytes, waited, left) in [
            (0, 0, 60),
            (0, 60, 0),
            (59, 59, 1),
            (10 << 20, 0, 60),
            // Ten minutes of rests in a body that is fast otherwise.
            (1 << 20, 600, 60),
            (1 << 20, 1070, 14),
            (1 << 20, 2000, 0),
        ] {
            assert_eq!(patience(bytes, seconds(waited)), seconds(left), "{bytes} bytes in {waited} s");
        }
    }
}
