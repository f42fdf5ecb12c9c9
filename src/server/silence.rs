//! Owns how long the body of a call may say nothing, once its headers are there.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

/// A body that fails when nothing of it comes for too long.
#[derive(Debug)]
pub(super) struct Silence<B> {
    body: B,
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    /// The service waits since the last piece came, which is when silence begins: it may have been busy with that.
    waits: bool,
}

impl<B> Silence<B> {
    pub(super) fn new(body: B, limit: Duration) -> Self {
        Self { body, limit, sleep: Box::pin(tokio::time::sleep(limit)), waits: false }
    }
}

impl<B> Body for Silence<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waits = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if !std::mem::replace(&mut this.waits, true) {
            this.sleep.as_mut().reset(Instant::now() + this.limit);
        }
        ready!(this.sleep.as_mut().poll(cx));
        // The service answers with it.
        let status = Status::deadline_exceeded(format!("nothing of the request came for {:?}", this.limit));
        Poll::Ready(Some(Err(status.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::body::{Body as Boxed, to_bytes};
    use futures_util::{StreamExt as _, stream};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_body_that_goes_on_is_read_and_one_that_stops_has_a_status() {
        // Together they take longer: only silence counts.
        let pieces = stream::iter(0..4).then(|n: u8| async move {
            tokio::time::sleep(LIMIT / 2).await;
            Ok::<_, std::io::Error>(Bytes::from(vec![n]))
        });
        let slow = Silence::new(Boxed::from_stream(pieces), LIMIT);
        assert_eq!(&to_bytes(Boxed::new(slow), 16).await.unwrap()[..], [0, 1, 2, 3]);

        let stops = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"a"))]).chain(stream::pending());
        let began = Instant::now();
        let error = to_bytes(Boxed::new(Silence::new(Boxed::from_stream(stops), LIMIT)), 16).await.unwrap_err();
        assert!(began.elapsed() >= LIMIT, "{:?}", began.elapsed());
        let status = Status::from_error(error.into_inner());
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
        assert!(status.message().contains("nothing of the request came"), "{status}");
    }
}
