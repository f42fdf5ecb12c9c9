//! Owns the way of a blob's bytes from the network to whoever keeps them.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Receives a blob's bytes in order. It verifies the digest itself, at its commit.
pub trait BlobSink: Send {
    /// How many bytes were taken so far; an interrupted download goes on from here.
    fn position(&self) -> u64;

    /// Takes the next bytes; resolves when there is room for more.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being kept. It ends the download.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>>;
}

/// Keeps a small blob in memory.
#[derive(Debug, Default)]
pub struct MemorySink(pub Vec<u8>);

impl BlobSink for MemorySink {
    fn position(&self) -> u64 {
        self.0.len() as u64
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.0.extend_from_slice(&bytes);
        std::future::ready(Ok(())).boxed()
    }
}

/// Small reads are gathered to this many bytes before they change threads.
const BATCH: usize = 256 << 10;
/// How many batches may wait. An HTTP read is at most 408 KiB, so at most some 3 MiB are in flight.
const QUEUE: usize = 4;

/// Hands the bytes to a writer on a thread of its own, so that hashing and writing a blob overlap with reading it.
/// The writer is a plain [`Write`] (of the store: it hashes and writes to a file) and comes back at the end.
#[derive(Debug)]
pub struct ThreadedSink<W> {
    position: u64,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    sender: Option<mpsc::Sender<Vec<Bytes>>>,
    worker: Option<JoinHandle<io::Result<W>>>,
}

impl<W: Write + Send + 'static> ThreadedSink<W> {
    /// A sink for `writer`, which already holds `position` bytes. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(mut writer: W, position: u64) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Vec<Bytes>>(QUEUE);
        let worker = tokio::task::spawn_blocking(move || {
            while let Some(batch) = receiver.blocking_recv() {
                for bytes in batch {
                    writer.write_all(&bytes)?;
                }
            }
            writer.flush()?;
            Ok(writer)
        });
        Self { position, batch: Vec::new(), batch_bytes: 0, sender: Some(sender), worker: Some(worker) }
    }

    /// Waits until everything is written and gives the writer back.
    ///
    /// # Errors
    /// The writer's first failure.
    pub async fn finish(mut self) -> io::Result<W> {
        // A failed hand-over is reported by the join, with the writer's own error.
        let _ = self.hand_over().await;
        self.join().await
    }

    async fn hand_over(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let sent = match &self.sender {
            Some(sender) => sender.send(batch).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(io::Error::other("the writer has stopped")) }
    }

    async fn join(&mut self) -> io::Result<W> {
        self.sender = None;
        match self.worker.take() {
            Some(worker) => worker.await.map_err(io::Error::other)?,
            None => Err(io::Error::other("the writer has failed before")),
        }
    }
}

impl<W: Write + Send + 'static> BlobSink for ThreadedSink<W> {
    fn position(&self) -> u64 {
        self.position
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        async move {
            self.position += bytes.len() as u64;
            self.batch_bytes += bytes.len();
            self.batch.push(bytes);
            if self.batch_bytes >= BATCH && self.hand_over().await.is_err() {
                return Err(match self.join().await {
                    Err(error) => error,
                    Ok(_) => io::Error::other("the writer has stopped"),
                });
            }
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 = self.0.saturating_sub(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn bytes_arrive_in_order_and_the_writer_comes_back() {
        let mut sink = ThreadedSink::new(Vec::new(), 0);
        let mut expected = Vec::new();
        for i in 0..2000_u32 {
            let part: Vec<u8> = (0..1000_u32).map(|j| u8::try_from((i + j) % 251).unwrap()).collect();
            expected.extend_from_slice(&part);
            sink.write(part.into()).await.unwrap();
        }
        assert_eq!(sink.position(), expected.len() as u64);
        assert!(sink.finish().await.unwrap() == expected);
    }

    #[tokio::test]
    async fn a_full_disk_is_reported_as_itself() {
        let mut sink = ThreadedSink::new(Full(1 << 20), 0);
        let mut failed = None;
        for _ in 0..100 {
            if let Err(error) = sink.write(vec![0; BATCH].into()).await {
                failed = Some(error.kind());
                break;
            }
        }
        assert_eq!(failed, Some(io::ErrorKind::StorageFull));
        let mut late = ThreadedSink::new(Full(0), 0);
        late.write(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(late.finish().await.err().map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    }
}
