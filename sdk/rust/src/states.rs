//! Owns the calls about states.

use std::future::IntoFuture;
use std::time::Duration;

use vyr_proto::v0::{
    ArtifactBinding, BindStateRequest, CreateStateRequest, DeleteStateRequest, GetStateRequest, ListStatesRequest,
    State, StateClass, StateKind, SyncStateRequest,
};

use crate::client::{Client, Pending, proto};
use crate::error::{Error, ErrorKind, Result};

/// The most states that one answer has.
const PAGE: u32 = 1000;
/// How long a node is given to push what is pending.
const SYNC: Duration = Duration::from_secs(600);

impl Client {
    /// Makes a state: `client.create_state("cache", StateClass::Node).await?`.
    pub fn create_state(&self, name: impl Into<String>, class: StateClass) -> CreateState {
        let request = CreateStateRequest { name: name.into(), class: class.into(), ..CreateStateRequest::default() };
        CreateState { client: self.clone(), request }
    }

    /// Binds a state, by its name or id, to an artifact `host[:port]/repository[:tag][@digest]`: each of its tasks gets it,
    /// from the next one on. `client.bind_state("cache", "localhost:5000/app").await?`.
    pub fn bind_state(&self, state: impl Into<String>, artifact: impl Into<String>) -> BindState {
        let state = state.into();
        let binding = ArtifactBinding { artifact: artifact.into(), alias: state.clone(), read_only: false };
        BindState { client: self.clone(), state, binding }
    }

    /// One state, by its name or id.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), also when its time is over and nothing of it waits to be pushed, and those of any call.
    pub async fn get_state(&self, state: impl Into<String>) -> Result<State> {
        let request = GetStateRequest { state: state.into() };
        there(self.call(None, request, |mut c, r| async move { c.get_state(r).await }).await?.state)
    }

    /// The node's states, in the order of their names.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn list_states(&self) -> Result<Vec<State>> {
        let (mut states, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListStatesRequest { page_size: PAGE, page_token };
            let page = self.call(None, request, |mut c, r| async move { c.list_states(r).await }).await?;
            states.extend(page.states);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(states);
            }
        }
    }

    /// Removes a state, by its name or id, with its data.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict) while something has it bound; and those of any
    /// call.
    pub async fn delete_state(&self, state: impl Into<String>) -> Result<()> {
        let request = DeleteStateRequest { state: state.into() };
        let (mut tries, mut unsure) = (self.tries(), false);
        loop {
            match self.once(None, request.clone(), |mut c, r| async move { c.delete_state(r).await }).await {
                Ok(_) => return Ok(()),
                // By the try before, whose answer was lost.
                Err(error) if unsure && error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => {
                    unsure |= error.kind() == ErrorKind::Unavailable;
                    tries.again(error).await?;
                }
            }
        }
    }

    /// Pushes what a synced state, by its name or id, has pending, and answers when it is pushed: within ten minutes.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Unavailable`](ErrorKind::Unavailable) when the repository can't be reached; and
    /// those of any call.
    pub async fn sync_state(&self, state: impl Into<String>) -> Result<State> {
        let request = SyncStateRequest { state: state.into() };
        there(self.call(Some(SYNC), request, |mut c, r| async move { c.sync_state(r).await }).await?.state)
    }
}

fn there(state: Option<State>) -> Result<State> {
    state.ok_or_else(|| Error::lacks("state"))
}

/// A state in the making: [`Client::create_state`]. Await it for the [`State`].
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) with each wrong [field](Error::fields); [`Conflict`](ErrorKind::Conflict) for a name that is
/// taken; and those of any call.
#[derive(Debug, Clone)]
#[must_use = "nothing is made until it is awaited"]
pub struct CreateState {
    client: Client,
    request: CreateStateRequest,
}

impl CreateState {
    /// The most that it may hold, in bytes. Without it: 64 MiB.
    pub fn quota_bytes(mut self, bytes: u64) -> Self {
        self.request.quota_bytes = bytes;
        self
    }

    /// How long it lives. Without it: until it is deleted.
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.request.time_to_live = Some(proto(time));
        self
    }

    /// For [`StateClass::Synced`]: the repository `host[:port]/repository`.
    pub fn sync_target(mut self, repository: impl Into<String>) -> Self {
        self.request.sync_target = repository.into();
        self
    }

    /// What it holds. Without it: files.
    pub fn kind(mut self, kind: StateKind) -> Self {
        self.request.kind = kind.into();
        self
    }

    async fn send(self) -> Result<State> {
        let Self { client, request } = self;
        let (mut tries, mut unsure) = (client.tries(), false);
        loop {
            match client.once(None, request.clone(), |mut c, r| async move { c.create_state(r).await }).await {
                Ok(answer) => return there(answer.state),
                // Perhaps by the try before, whose answer was lost.
                Err(error) if unsure && error.kind() == ErrorKind::Conflict => {
                    let state = client.get_state(&request.name).await?;
                    return if is_asked(&state, &request) { Ok(state) } else { Err(error) };
                }
                Err(error) => {
                    unsure |= error.kind() == ErrorKind::Unavailable;
                    tries.again(error).await?;
                }
            }
        }
    }
}

impl IntoFuture for CreateState {
    type Output = Result<State>;
    type IntoFuture = Pending<State>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Whether a state is what a request asked for.
fn is_asked(state: &State, request: &CreateStateRequest) -> bool {
    let kind = |kind| if kind == StateKind::Unspecified { StateKind::Files } else { kind };
    state.class == request.class
        && kind(state.kind()) == kind(request.kind())
        && (request.quota_bytes == 0 || state.quota_bytes == request.quota_bytes)
        && state.sync_target == request.sync_target
        && state.expires_at.is_some() == request.time_to_live.is_some()
}

/// A binding in the making: [`Client::bind_state`]. Await it for the [`State`].
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`Usage`](ErrorKind::Usage) with each wrong [field](Error::fields); and those of any
/// call.
#[derive(Debug, Clone)]
#[must_use = "nothing is bound until it is awaited"]
pub struct BindState {
    client: Client,
    state: String,
    binding: ArtifactBinding,
}

impl BindState {
    /// The name of the folder under `/state`. Without it: what the state was called here.
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.binding.alias = alias.into();
        self
    }

    /// The guests may only read it.
    pub fn read_only(mut self) -> Self {
        self.binding.read_only = true;
        self
    }

    async fn send(self) -> Result<State> {
        let request = BindStateRequest { state: self.state, binding: Some(self.binding) };
        there(self.client.call(None, request, |mut c, r| async move { c.bind_state(r).await }).await?.state)
    }
}

impl IntoFuture for BindState {
    type Output = Result<State>;
    type IntoFuture = Pending<State>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
