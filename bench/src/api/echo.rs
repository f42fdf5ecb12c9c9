//! Owns the peer: a unary call on the same gRPC stack that answers with an empty message and does nothing else.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::path::Path;
use std::task::{Context, Poll};

use anyhow::Result;
use tonic::codegen::http::{self, uri::PathAndQuery};
use tonic::codegen::{Body, BoxFuture, Service, StdError};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use vyr_proto::v0::{GetNodeRequest, GetNodeResponse};

use super::client::connect;

#[derive(Debug, Clone)]
struct Echo;

impl UnaryService<GetNodeRequest> for Echo {
    type Response = GetNodeResponse;
    type Future = Ready<Result<Response<GetNodeResponse>, Status>>;

    fn call(&mut self, _request: Request<GetNodeRequest>) -> Self::Future {
        ready(Ok(Response::new(GetNodeResponse::default())))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl<B> Service<http::Request<B>> for Echo
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let codec: ProstCodec<GetNodeResponse, GetNodeRequest> = ProstCodec::default();
        Box::pin(async move { Ok(tonic::server::Grpc::new(codec).unary(Self, request).await) })
    }
}

/// Serves until the process is ended; the address goes to a file when it answers.
pub(crate) fn serve(address_file: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        std::fs::write(address_file, format!("{}\n", listener.local_addr()?))?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Ok(Server::builder().add_service(Echo).serve_with_incoming(incoming).await?)
    })
}

/// A client of it.
#[derive(Debug, Clone)]
pub(crate) struct EchoClient(tonic::client::Grpc<Channel>);

impl EchoClient {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self::over(connect(address).await?))
    }

    pub(crate) fn over(channel: Channel) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    pub(crate) async fn call(&mut self) -> Result<()> {
        self.0.ready().await?;
        let codec: ProstCodec<GetNodeRequest, GetNodeResponse> = ProstCodec::default();
        let path = PathAndQuery::from_static("/bench.Echo/Echo");
        self.0.unary(Request::new(GetNodeRequest {}), path, codec).await?;
        Ok(())
    }
}
