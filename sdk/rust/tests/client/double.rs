//! A node that fails as it is told to: a real gRPC server over the interface's own service, with answers from a script.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};
use vyr_client::v0::*;
use vyr_client::{Client, Code, Connect, RetryPolicy};
use vyr_proto::v0::control_server::{Control, ControlServer};

/// The answers to one kind of call, in their order; the last one stays.
#[derive(Debug)]
pub(crate) struct Script<T>(VecDeque<Result<T, Status>>);

impl<T> Default for Script<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Clone> Script<T> {
    fn next(&mut self) -> Result<T, Status> {
        let answer = if self.0.len() > 1 { self.0.pop_front() } else { self.0.front().cloned() };
        answer.unwrap_or_else(|| Err(Status::unimplemented("not in the script")))
    }
}

/// What it is asked and what it answers.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) submits: Vec<SubmitTaskRequest>,
    pub(crate) submit: Script<Task>,
    pub(crate) gets: Vec<GetTaskRequest>,
    pub(crate) get: Script<Task>,
    pub(crate) get_takes: Duration,
    pub(crate) creates: usize,
    pub(crate) create: Script<State>,
    pub(crate) get_state: Script<State>,
    pub(crate) deletes: usize,
    pub(crate) delete: Script<()>,
    pub(crate) puts: Vec<Vec<u8>>,
    pub(crate) put: Script<Artifact>,
    /// What each watch brings before it ends, with an error or without.
    pub(crate) watches: VecDeque<(Vec<Task>, Option<Status>)>,
    /// The offsets that were asked for.
    pub(crate) offsets: Vec<u64>,
    /// The whole output, a piece each; offsets are positions in it.
    pub(crate) pieces: Vec<Vec<LogEntry>>,
    /// How many pieces one stream brings, and how it ends if more would follow.
    pub(crate) pieces_a_stream: usize,
    pub(crate) cut: Option<Status>,
    /// Of the last call.
    pub(crate) traceparent: Option<String>,
    pub(crate) authorization: Option<String>,
}

/// A running one.
#[derive(Debug, Clone)]
pub(crate) struct Double {
    pub(crate) told: Arc<Mutex<Told>>,
    pub(crate) address: String,
}

/// A failure with the details that a node gives.
pub(crate) fn failure(code: Code, retry_after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(retry_after);
    Status::with_error_details(code, "as it was told", details)
}

pub(crate) fn script<T>(answers: impl IntoIterator<Item = Result<T, Status>>) -> Script<T> {
    Script(answers.into_iter().collect())
}

pub(crate) fn task(status: TaskStatus) -> Task {
    Task { id: "t".into(), status: status.into(), ..Task::default() }
}

impl Double {
    pub(crate) async fn start(told: Told) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let double = Self { told: Arc::new(Mutex::new(told)), address };
        let service = ControlServer::new(double.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        double
    }

    pub(crate) fn connect(&self) -> Connect {
        let quick = RetryPolicy::default().initial_backoff(Duration::from_millis(1));
        Client::connect().address(&self.address).retry(quick)
    }

    /// Looks at it, or changes it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.told.lock().unwrap())
    }

    fn note<T>(&self, request: &Request<T>) {
        let header = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        self.with(|told| (told.traceparent, told.authorization) = (header("traceparent"), header("authorization")));
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn ok<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

macro_rules! not_here {
    ($($method:ident: $request:ty => $response:ty,)*) => {
        // As `async_trait` would have written it; what is in a macro it doesn't see.
        $(fn $method<'s, 'a>(&'s self, _: Request<$request>) -> Pin<Box<dyn Future<Output = Answer<$response>> + Send + 'a>>
        where
            's: 'a,
            Self: 'a,
        {
            Box::pin(async { Err(Status::unimplemented("not in the script")) })
        })*
    };
}

#[tonic::async_trait]
impl Control for Double {
    async fn submit_task(&self, request: Request<SubmitTaskRequest>) -> Answer<SubmitTaskResponse> {
        self.note(&request);
        let task = self.with(|told| {
            told.submits.push(request.into_inner());
            told.submit.next()
        })?;
        ok(SubmitTaskResponse { task: Some(task), existing: false })
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Answer<GetTaskResponse> {
        self.note(&request);
        let (task, takes) = self.with(|told| {
            told.gets.push(request.into_inner());
            (told.get.next(), told.get_takes)
        });
        tokio::time::sleep(takes).await;
        ok(GetTaskResponse { task: Some(task?) })
    }

    type WatchTaskStream = Answers<WatchTaskResponse>;

    async fn watch_task(&self, request: Request<WatchTaskRequest>) -> Answer<Self::WatchTaskStream> {
        self.note(&request);
        let (tasks, end) = self.with(|told| told.watches.pop_front()).ok_or_else(|| Status::internal("no more"))?;
        let tasks = tasks.into_iter().map(|task| Ok(WatchTaskResponse { task: Some(task) }));
        ok(stream::iter(tasks.chain(end.map(Err))).boxed())
    }

    type StreamLogsStream = Answers<StreamLogsResponse>;

    async fn stream_logs(&self, request: Request<StreamLogsRequest>) -> Answer<Self::StreamLogsStream> {
        self.note(&request);
        let offset = request.into_inner().offset;
        let from = usize::try_from(offset).unwrap();
        self.with(|told| {
            told.offsets.push(offset);
            let to = told.pieces.len().min(from + told.pieces_a_stream);
            let cut = if to < told.pieces.len() { told.cut.clone() } else { None };
            let pieces: Vec<_> = (from..to)
                .map(|i| {
                    let next_offset = u64::try_from(i + 1).unwrap();
                    Ok(StreamLogsResponse { entries: told.pieces[i].clone(), next_offset, dropped_bytes: 3 })
                })
                .collect();
            ok(stream::iter(pieces.into_iter().chain(cut.map(Err))).boxed())
        })
    }

    async fn put_artifact(&self, request: Request<Streaming<PutArtifactRequest>>) -> Answer<PutArtifactResponse> {
        self.note(&request);
        let (mut parts, mut bytes) = (request.into_inner(), Vec::new());
        while let Some(part) = parts.message().await? {
            if let Some(put_artifact_request::Part::Chunk(chunk)) = part.part {
                bytes.extend_from_slice(&chunk.data);
            }
        }
        let artifact = self.with(|told| {
            told.puts.push(bytes);
            told.put.next()
        })?;
        ok(PutArtifactResponse { artifact: Some(artifact) })
    }

    async fn create_state(&self, request: Request<CreateStateRequest>) -> Answer<CreateStateResponse> {
        self.note(&request);
        let state = self.with(|told| {
            told.creates += 1;
            told.create.next()
        })?;
        ok(CreateStateResponse { state: Some(state) })
    }

    async fn get_state(&self, request: Request<GetStateRequest>) -> Answer<GetStateResponse> {
        self.note(&request);
        ok(GetStateResponse { state: Some(self.with(|told| told.get_state.next())?) })
    }

    async fn delete_state(&self, request: Request<DeleteStateRequest>) -> Answer<DeleteStateResponse> {
        self.note(&request);
        self.with(|told| {
            told.deletes += 1;
            told.delete.next()
        })?;
        ok(DeleteStateResponse {})
    }

    not_here! {
        get_artifact: GetArtifactRequest => GetArtifactResponse,
        list_artifacts: ListArtifactsRequest => ListArtifactsResponse,
        cancel_task: CancelTaskRequest => CancelTaskResponse,
        list_tasks: ListTasksRequest => ListTasksResponse,
        get_trace: GetTraceRequest => GetTraceResponse,
        get_receipt: GetReceiptRequest => GetReceiptResponse,
        bind_state: BindStateRequest => BindStateResponse,
        list_states: ListStatesRequest => ListStatesResponse,
        sync_state: SyncStateRequest => SyncStateResponse,
        get_node: GetNodeRequest => GetNodeResponse,
    }
}
