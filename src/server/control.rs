//! Owns the translation between Control API v0 and what the node does.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};
use vyr_proto::v0::control_server::{Control, ControlServer};
use vyr_proto::v0::*;

use super::access::Caller;
use super::put;
use super::states;
use super::status::{invalid, status};
use crate::db::Filter;
use crate::error::Error;
use crate::node::{Node, Submit, check};
use crate::oci::parse_digest;
use crate::ops::state;
use crate::task::TaskId;

/// The service's full name, as health checks use it.
pub(super) const SERVICE: &str = "vyr.control.v0.Control";
/// The largest request, in bytes: a manifest of 4 MiB with its signatures.
const REQUEST: usize = 9 << 20;
/// The most that a listing gives at once.
const PAGE: u32 = 1000;

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service over `node`.
pub(super) fn service(node: Node) -> ControlServer<Api> {
    ControlServer::new(Api { node }).max_decoding_message_size(REQUEST)
}

/// Control API v0 over one node.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) node: Node,
}

fn failed(error: Error) -> Status {
    status(&error)
}

fn task_id(id: &str) -> Result<TaskId, Status> {
    id.parse().map_err(|e: Error| invalid(vec![("id".into(), e.why().to_owned())]))
}

fn wait(duration: Option<prost_types::Duration>, field: &str) -> Result<Option<Duration>, Status> {
    duration
        .map(|d| Duration::try_from(d).map_err(|_| invalid(vec![(field.into(), "must not be negative".into())])))
        .transpose()
}

fn page_size(asked: u32) -> u32 {
    if asked == 0 { 100 } else { asked.min(PAGE) }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("nobody is known to be calling"))
}

#[tonic::async_trait]
impl Control for Api {
    async fn put_artifact(&self, request: Request<Streaming<PutArtifactRequest>>) -> Answer<PutArtifactResponse> {
        caller(&request)?;
        let artifact = put::put(self.node.vyr(), request.into_inner()).await?;
        if let Ok(digest) = parse_digest(&artifact.digest) {
            self.node.arrived(&digest, None);
        }
        Ok(Response::new(PutArtifactResponse { artifact: Some(artifact) }))
    }

    async fn get_artifact(&self, request: Request<GetArtifactRequest>) -> Answer<GetArtifactResponse> {
        let reference = request.into_inner().reference;
        let reference =
            reference.parse().map_err(|e: Error| invalid(vec![("reference".into(), e.why().to_owned())]))?;
        let (artifact, manifest) = put::get(self.node.vyr(), &reference).await.map_err(failed)?;
        Ok(Response::new(GetArtifactResponse { artifact: Some(artifact), manifest: manifest.into() }))
    }

    async fn list_artifacts(&self, request: Request<ListArtifactsRequest>) -> Answer<ListArtifactsResponse> {
        let ListArtifactsRequest { page_size: size, page_token } = request.into_inner();
        let after = match page_token.as_str() {
            "" => None,
            token => Some(parse_digest(token).map_err(|e| invalid(vec![("page_token".into(), e.why().to_owned())]))?),
        };
        let (artifacts, next) =
            put::list(self.node.vyr(), after.as_ref(), page_size(size) as usize).await.map_err(failed)?;
        Ok(Response::new(ListArtifactsResponse { artifacts, next_page_token: next.unwrap_or_default() }))
    }

    async fn submit_task(&self, request: Request<SubmitTaskRequest>) -> Answer<SubmitTaskResponse> {
        let Caller { name, share, .. } = caller(&request)?;
        let traceparent =
            request.metadata().get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let SubmitTaskRequest { spec, idempotency_key, wait: held } = request.into_inner();
        let mut spec = spec.unwrap_or_default();
        if let (true, Some(traceparent)) = (spec.traceparent.is_empty(), traceparent) {
            spec.traceparent = traceparent;
        }
        let wrong = check(&spec, &idempotency_key);
        if !wrong.is_empty() {
            return Err(invalid(wrong));
        }
        let wait = wait(held, "wait")?;
        let submit = Submit { spec, key: idempotency_key, submitter: name, share, wait };
        let submitted = self.node.submit(submit).await.map_err(failed)?;
        Ok(Response::new(SubmitTaskResponse { task: Some(submitted.task), existing: submitted.existing }))
    }

    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Answer<CancelTaskResponse> {
        let CancelTaskRequest { id, wait: held } = request.into_inner();
        let task = self.node.cancel(task_id(&id)?, wait(held, "wait")?).await.map_err(failed)?;
        Ok(Response::new(CancelTaskResponse { task: Some(task) }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Answer<GetTaskResponse> {
        let GetTaskRequest { id, wait: held } = request.into_inner();
        let task = self.node.get(task_id(&id)?, wait(held, "wait")?).await.map_err(failed)?;
        Ok(Response::new(GetTaskResponse { task: Some(task) }))
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        let ListTasksRequest { page_size: size, page_token, statuses, labels, submitter } = request.into_inner();
        let below =
            match page_token.as_str() {
                "" => None,
                token => Some(token.parse().map_err(|_| {
                    invalid(vec![("page_token".into(), "is not one that an earlier answer gave".into())])
                })?),
            };
        let statuses = statuses
            .iter()
            .map(|s| TaskStatus::try_from(*s))
            // Each once: they become text of a query.
            .collect::<Result<BTreeSet<_>, _>>()
            .map_err(|e| invalid(vec![("statuses".into(), e.to_string())]))?;
        let filter =
            Filter { statuses: statuses.into_iter().collect(), submitter: Some(submitter).filter(|s| !s.is_empty()) };
        let page = self.node.list(below, page_size(size), &filter, &labels).await.map_err(failed)?;
        Ok(Response::new(ListTasksResponse {
            tasks: page.tasks,
            next_page_token: page.next.map(|seq| seq.to_string()).unwrap_or_default(),
        }))
    }

    type WatchTaskStream = Answers<WatchTaskResponse>;

    async fn watch_task(&self, request: Request<WatchTaskRequest>) -> Answer<Self::WatchTaskStream> {
        let watch = self.node.watch(task_id(&request.into_inner().id)?).await.map_err(failed)?;
        // The next state is taken when the one before has gone out: a reader that doesn't read holds one.
        let changes = stream::unfold(watch, |mut watch| async {
            let task = watch.next().await?;
            Some((Ok(WatchTaskResponse { task: Some(task) }), watch))
        });
        Ok(Response::new(Box::pin(changes)))
    }

    type StreamLogsStream = Answers<StreamLogsResponse>;

    async fn stream_logs(&self, request: Request<StreamLogsRequest>) -> Answer<Self::StreamLogsStream> {
        let StreamLogsRequest { id, follow, stream: only, offset } = request.into_inner();
        let only = LogStream::try_from(only).map_err(|e| invalid(vec![("stream".into(), e.to_string())]))?;
        let logs = self.node.logs(task_id(&id)?, offset, only, follow).await.map_err(failed)?;
        let pieces = stream::unfold(Some(logs), |logs| async {
            let mut logs = logs?;
            match logs.next().await {
                Ok(Some(piece)) => {
                    let dropped_bytes = if piece.last { piece.dropped } else { 0 };
                    let response =
                        StreamLogsResponse { entries: piece.entries, next_offset: piece.next, dropped_bytes };
                    Some((Ok(response), Some(logs)))
                }
                Ok(None) => None,
                Err(e) => Some((Err(failed(e)), None)),
            }
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn get_trace(&self, request: Request<GetTraceRequest>) -> Answer<GetTraceResponse> {
        let trace = self.node.trace(task_id(&request.into_inner().id)?).await.map_err(failed)?;
        Ok(Response::new(GetTraceResponse { trace: Some(trace) }))
    }

    async fn get_receipt(&self, request: Request<GetReceiptRequest>) -> Answer<GetReceiptResponse> {
        let bundle = self.node.receipt(task_id(&request.into_inner().id)?).await.map_err(failed)?;
        Ok(Response::new(GetReceiptResponse { bundle: bundle.into() }))
    }

    async fn create_state(&self, request: Request<CreateStateRequest>) -> Answer<CreateStateResponse> {
        caller(&request)?;
        let state = states::create(self.node.vyr(), request.into_inner()).await?;
        Ok(Response::new(CreateStateResponse { state: Some(state) }))
    }

    async fn bind_state(&self, request: Request<BindStateRequest>) -> Answer<BindStateResponse> {
        caller(&request)?;
        let state = states::bind(self.node.vyr(), request.into_inner()).await?;
        Ok(Response::new(BindStateResponse { state: Some(state) }))
    }

    async fn get_state(&self, request: Request<GetStateRequest>) -> Answer<GetStateResponse> {
        let state = state::show(self.node.vyr(), &request.into_inner().state).await.map_err(failed)?;
        Ok(Response::new(GetStateResponse { state: Some(state) }))
    }

    async fn list_states(&self, request: Request<ListStatesRequest>) -> Answer<ListStatesResponse> {
        let ListStatesRequest { page_size: size, page_token } = request.into_inner();
        let (states, next) = state::list(self.node.vyr(), &page_token, page_size(size)).await.map_err(failed)?;
        Ok(Response::new(ListStatesResponse { states, next_page_token: next.unwrap_or_default() }))
    }

    async fn delete_state(&self, request: Request<DeleteStateRequest>) -> Answer<DeleteStateResponse> {
        caller(&request)?;
        state::remove(self.node.vyr(), &request.into_inner().state).await.map_err(failed)?;
        Ok(Response::new(DeleteStateResponse {}))
    }

    async fn sync_state(&self, request: Request<SyncStateRequest>) -> Answer<SyncStateResponse> {
        caller(&request)?;
        let name = request.into_inner().state;
        state::sync(self.node.vyr(), &name).await.map_err(failed)?;
        let state = state::show(self.node.vyr(), &name).await.map_err(failed)?;
        Ok(Response::new(SyncStateResponse { state: Some(state) }))
    }

    async fn get_node(&self, _request: Request<GetNodeRequest>) -> Answer<GetNodeResponse> {
        Ok(Response::new(GetNodeResponse { node: Some(self.node.describe()) }))
    }
}
