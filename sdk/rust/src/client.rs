//! Owns the client: what goes with each call, how long its answer may take, and that it is tried again.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use vyr_proto::v0::control_client::ControlClient;
use vyr_proto::v0::{GetNodeRequest, Node};

use crate::connect::Connect;
use crate::context;
use crate::error::{Error, Result};
use crate::retry::{RetryPolicy, Tries};

/// How long a node is asked to hold back one answer.
pub(crate) const ONE_WAIT: Duration = Duration::from_secs(60);

/// An answer to come.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A node's service, as the generated code calls it.
pub(crate) type Control = ControlClient<Channel>;

/// A client of one node. Clones are cheap and share the connection, which opens itself again when it broke.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    retry: RetryPolicy,
    traceparent: Option<MetadataValue<Ascii>>,
}

struct Shared {
    control: Control,
    address: String,
    bearer: Option<MetadataValue<Ascii>>,
    limit: Duration,
    /// The node has answered something: it is one.
    heard: AtomicBool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.shared.address).field("retry", &self.retry).finish()
    }
}

impl Client {
    /// Connects to a node: `Client::connect().await?` to the one that `vyr` would find, or with what [`Connect`] can be
    /// told.
    pub fn connect() -> Connect {
        Connect::default()
    }

    pub(crate) fn new(
        control: Control,
        address: String,
        bearer: Option<MetadataValue<Ascii>>,
        limit: Duration,
        retry: RetryPolicy,
        traceparent: Option<MetadataValue<Ascii>>,
    ) -> Self {
        let heard = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { control, address, bearer, limit, heard }), retry, traceparent }
    }

    /// Lets go of the connection, which ends with the last clone that does. The same as dropping it.
    pub fn close(self) {}

    /// The node's address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The same connection, whose calls are tried again as `policy` says.
    #[must_use]
    pub fn with_retry(&self, policy: RetryPolicy) -> Self {
        Self { retry: policy, ..self.clone() }
    }

    /// The same connection, whose calls carry this W3C trace context.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for what is none.
    pub fn with_traceparent(&self, context: &str) -> Result<Self> {
        Ok(Self { traceparent: Some(context::given(context)?), ..self.clone() })
    }

    /// What the node is and how busy.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn get_node(&self) -> Result<Node> {
        let answer = self.call(None, GetNodeRequest {}, |mut c, r| async move { c.get_node(r).await }).await?;
        answer.node.ok_or_else(|| Error::lacks("node"))
    }

    pub(crate) fn policy(&self) -> RetryPolicy {
        self.retry
    }

    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.retry)
    }

    /// A message with what goes with each call.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        if let Some(bearer) = &self.shared.bearer {
            metadata.insert("authorization", bearer.clone());
        }
        if let Some(traceparent) = self.traceparent.clone().or_else(context::current) {
            metadata.insert(context::TRACEPARENT, traceparent);
        }
        request
    }

    pub(crate) fn control(&self) -> Control {
        self.shared.control.clone()
    }

    /// What a status says.
    pub(crate) fn error(&self, status: &Status) -> Error {
        let error = Error::of_status(status, &self.shared.address, !self.shared.heard.load(Ordering::Relaxed));
        if error.code().is_some() {
            self.shared.heard.store(true, Ordering::Relaxed);
        }
        error
    }

    /// One try of a call whose answer the node is asked to hold back for `held`.
    pub(crate) async fn once<M, R, F, C>(&self, held: Option<Duration>, message: M, call: F) -> Result<R>
    where
        F: FnOnce(Control, Request<M>) -> C,
        C: Future<Output = Result<Response<R>, Status>>,
    {
        let limit = self.shared.limit.saturating_add(held.unwrap_or_default());
        match tokio::time::timeout(limit, call(self.control(), self.request(message))).await {
            Ok(Ok(answer)) => {
                self.shared.heard.store(true, Ordering::Relaxed);
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(Error::silent(&self.shared.address, limit)),
        }
    }

    /// The same, tried again as the policy says.
    pub(crate) async fn call<M, R, F, C>(&self, held: Option<Duration>, message: M, call: F) -> Result<R>
    where
        M: Clone,
        F: Fn(Control, Request<M>) -> C,
        C: Future<Output = Result<Response<R>, Status>>,
    {
        let mut tries = self.tries();
        loop {
            match self.once(held, message.clone(), &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.again(error).await?,
            }
        }
    }
}

/// As the interface has it; what is longer than it can say is as long as it can.
pub(crate) fn proto(duration: Duration) -> prost_types::Duration {
    // The bound of google.protobuf.Duration: 10,000 years.
    const MOST: Duration = Duration::from_secs(315_576_000_000);
    duration.min(MOST).try_into().unwrap_or_default()
}
