//! Owns this process's stdout and stderr as a guest writes to them: without blocking the thread that runs it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::AsyncWrite;
use tokio::io::unix::AsyncFd;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// A descriptor that polls as writable takes this much without blocking: PIPE_BUF, pipe(7).
const PERMIT: usize = 4096;

#[derive(Debug, Clone, Copy)]
pub(super) enum Inherited {
    Stdout,
    Stderr,
}

impl Inherited {
    fn with<T>(self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match self {
            Self::Stdout => f(io::stdout().as_fd()),
            Self::Stderr => f(io::stderr().as_fd()),
        }
    }

    /// What waits for this descriptor in the runtime's own way; `None` where it can't be waited for so.
    #[expect(deprecated, reason = "its successor is `unsafe` for descriptors that lie; an `OwnedFd` doesn't")]
    fn waiter(self) -> Option<AsyncFd<OwnedFd>> {
        let fd = self.with(|fd| fd.try_clone_to_owned()).ok()?;
        AsyncFd::with_interest(fd, tokio::io::Interest::WRITABLE).ok()
    }

    /// Whether a write of [`PERMIT`] bytes goes through now. An error of the descriptor counts as ready: the
    /// write then reports it.
    fn writable(self) -> bool {
        self.with(|fd| {
            let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
            !matches!(rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
        })
    }
}

impl IsTerminal for Inherited {
    fn is_terminal(&self) -> bool {
        self.with(|fd| std::io::IsTerminal::is_terminal(&fd))
    }
}

impl StdoutStream for Inherited {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Stream { target: *self, rest: bytes::Bytes::new(), waiter: None })
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        match self {
            Self::Stdout => Box::new(tokio::io::stdout()),
            Self::Stderr => Box::new(tokio::io::stderr()),
        }
    }
}

struct Stream {
    target: Inherited,
    /// What a descriptor in non-blocking mode didn't take.
    rest: bytes::Bytes,
    /// Made when it has to be waited for the first time; a file can't be waited for, and needn't.
    waiter: Option<Option<AsyncFd<OwnedFd>>>,
}

impl Stream {
    /// Writes what is left, as far as it goes.
    fn drain(&mut self) -> StreamResult<()> {
        while !self.rest.is_empty() {
            match self.target.with(|fd| rustix::io::write(fd, &self.rest)) {
                Ok(written) => drop(self.rest.split_to(written)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::PIPE) => {
                    self.rest.clear();
                    return Err(StreamError::Closed);
                }
                Err(errno) => {
                    self.rest.clear();
                    return Err(StreamError::LastOperationFailed(io::Error::from(errno).into()));
                }
            }
        }
        Ok(())
    }
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        if self.rest.is_empty() {
            self.rest = bytes;
        } else {
            return Err(StreamError::trap("write without a permit"));
        }
        self.drain()
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.drain()?;
        Ok(if self.rest.is_empty() && self.target.writable() { PERMIT } else { 0 })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {
        while !self.target.writable() {
            let target = self.target;
            let waiter = self.waiter.get_or_insert_with(|| target.waiter());
            match waiter {
                Some(fd) => {
                    if let Ok(mut guard) = fd.writable().await
                        && !target.writable()
                    {
                        guard.clear_ready();
                    }
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}
