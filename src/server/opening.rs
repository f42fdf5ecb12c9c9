//! Owns how long a connection may take to say which HTTP it speaks. The limits of either begin only after that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that fails to be read when its first bytes take too long.
#[derive(Debug)]
pub(super) struct Opening<S> {
    stream: S,
    /// Until it's clear what is spoken: the end of the time for it, and how much of the preface was read.
    open: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Opening<S> {
    pub(super) fn new(stream: S, within: Duration) -> Self {
        Self { stream, open: Some((Box::pin(tokio::time::sleep(within)), 0)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some((sleep, read)) = &mut this.open else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came that HTTP begins with")));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if result.is_ready() {
            let came = buffer.filled().get(before..).unwrap_or_default();
            let wanted = PREFACE.get(*read..).unwrap_or_default();
            let both = came.len().min(wanted.len());
            *read += both;
            if came.is_empty() || came.get(..both) != wanted.get(..both) || *read == PREFACE.len() {
                this.open = None;
            }
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn who_does_not_say_what_it_speaks_is_ended_and_who_does_has_time() {
        for (begin, ends) in [
            (&b""[..], true),
            (b"P", true),
            (b"PRI * HTTP/2.0\r\n", true),
            (b"G", false),
            (b"PO", false),
            (PREFACE, false),
        ] {
            let (mut client, server) = tokio::io::duplex(1024);
            let mut server = Opening::new(server, SOON);
            client.write_all(begin).await.unwrap();
            let reading = tokio::spawn(async move {
                let mut all = Vec::new();
                let ended = server.read_to_end(&mut all).await;
                (ended, all)
            });
            tokio::time::sleep(SOON * 2).await;
            let _ = client.write_all(b"rest").await;
            drop(client);
            let (ended, all) = reading.await.unwrap();
            assert_eq!(ended.is_err_and(|e| e.kind() == io::ErrorKind::TimedOut), ends, "{begin:?}");
            assert!(ends || all == [begin, b"rest"].concat(), "{begin:?}");
        }
    }

    #[tokio::test]
    async fn a_preface_in_pieces_is_put_together() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Opening::new(server, SOON);
        let mut all = vec![0; PREFACE.len() + 1];
        for byte in PREFACE {
            client.write_all(&[*byte]).await.unwrap();
            assert_eq!(server.read(&mut all).await.unwrap(), 1);
        }
        assert!(server.open.is_none());
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Opening::new(server, SOON);
        client.write_all(b"P").await.unwrap();
        server.read_exact(&mut all[..1]).await.unwrap();
        assert!(server.open.is_some());
        client.write_all(b"U").await.unwrap();
        server.read_exact(&mut all[..1]).await.unwrap();
        assert!(server.open.is_none(), "it is a PUT");
    }
}
