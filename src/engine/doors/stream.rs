//! Owns writes by stream: room is made in the state before each of them.

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::{Door, reserve};

/// A stream into a file of a state.
pub(super) struct CountedStream {
    inner: DynOutputStream,
    door: Door,
    inode: u64,
    /// Where the next byte goes; `None`: to the end.
    at: Option<u64>,
}

impl CountedStream {
    pub(super) fn new(inner: DynOutputStream, door: Door, inode: u64, at: Option<u64>) -> Self {
        Self { inner, door, inode, at }
    }

    fn make_room(&mut self, length: usize) -> StreamResult<super::Reserved> {
        let reserved = reserve(&self.door, self.inode, self.at, length as u64).map_err(|_| {
            // What the guest's `filesystem-error-code` makes insufficient-space of.
            StreamError::LastOperationFailed(std::io::Error::from(rustix::io::Errno::NOSPC).into())
        })?;
        self.at = self.at.map(|at| at.saturating_add(length as u64));
        Ok(reserved)
    }
}

#[async_trait]
impl Pollable for CountedStream {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl OutputStream for CountedStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let room = self.make_room(bytes.len())?;
        self.inner.write(bytes).inspect_err(|_| room.undo())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        let room = self.make_room(bytes.len())?;
        self.inner.blocking_write_and_flush(bytes).await.inspect_err(|_| room.undo())
    }

    async fn write_ready(&mut self) -> StreamResult<usize> {
        self.inner.write_ready().await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}
