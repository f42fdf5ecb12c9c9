//! `vyr state`: on the data folder, whether a node runs on it or not; on another node with --node.

mod pull;
mod sync;
mod view;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use vyr_proto::v0;

use super::Session;
use super::args::{duration, size};
use super::client::NodeArgs;
use super::print::{gone_or_failed, human};
use crate::error::Result;
use crate::ops::state::{self, CreateRequest, StateView};
use crate::state::{Bound, StateClass, StateKind};

/// How many states are asked for at once.
const PAGE: u32 = 1000;

/// A count of segments, for people.
fn segments(count: u64) -> String {
    format!("{count} segment{}", if count == 1 { "" } else { "s" })
}

#[derive(Debug, Subcommand)]
pub(super) enum State {
    /// Make a state; prints its name
    Create(Create),
    /// Give a state to every task of an artifact
    Bind(Bind),
    /// List the states
    Ls(Ls),
    /// Show one state, and its files
    Show(Show),
    /// Print a file or key of a state
    Get(Get),
    /// Copy a state's files into a folder
    Export(Export),
    /// Remove states with their data
    Rm(Rm),
    /// Push what is sealed of a synced state, now
    Sync(sync::Sync),
    /// Rebuild a state from its repository alone
    Pull(pull::Pull),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Class {
    /// A folder for each task, gone with it
    Task,
    /// Durable on this node, one writer at a time
    Node,
    /// As node, and its records are pushed to a repository when it can be reached
    Synced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Files and folders
    Files,
    /// Keys and values, for wasi:keyvalue too
    Kv,
}

impl From<Kind> for StateKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Files => Self::Files,
            Kind::Kv => Self::Kv,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name: lower-case letters, digits, - _ and .
    name: String,
    /// What it promises [default: node, or synced with --sync]
    #[arg(long, value_enum)]
    class: Option<Class>,
    /// What it holds
    #[arg(long, value_enum, default_value_t = Kind::Files)]
    kind: Kind,
    /// The most that it may hold [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    quota: Option<u64>,
    /// How long it lives [default: until it is removed]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    ttl: Option<Duration>,
    /// The repository that it is synced to
    #[arg(long, value_name = "REPOSITORY")]
    sync: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
pub(super) struct Bind {
    /// The state
    state: String,
    /// The artifact: a repository, or one tag or digest of it
    artifact: String,
    /// Its tasks see the state as /state/ALIAS [default: the state's name]
    #[arg(long = "as", value_name = "ALIAS")]
    alias: Option<String>,
    /// They may only read it
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The state
    state: String,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// The state
    state: String,
    /// The file within it, or the key
    path: String,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The state
    state: String,
    /// A folder that is empty or not there
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The states
    #[arg(required = true)]
    states: Vec<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Serialize)]
struct Exported {
    state: String,
    files: u64,
    bytes: u64,
}

impl State {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let what = match &self {
            Self::Sync(_) | Self::Pull(_) => None,
            verb => Some(verb.attempted()),
        };
        let done = match self {
            Self::Sync(verb) => return verb.execute(session).await,
            Self::Pull(verb) => return verb.execute(session).await,
            Self::Create(verb) => verb.execute(session).await,
            Self::Bind(verb) => verb.execute(session).await,
            Self::Ls(verb) => verb.execute(session).await,
            Self::Show(verb) => verb.execute(session).await,
            Self::Get(verb) => verb.execute(session).await,
            Self::Export(verb) => verb.execute(session).await,
            Self::Rm(verb) => verb.execute(session).await,
        };
        done.map(|()| 0).map_err(|e| e.attempted(what.unwrap_or_default()))
    }

    fn attempted(&self) -> String {
        match self {
            Self::Create(verb) => format!("create the state {}", verb.name),
            Self::Bind(verb) => format!("bind the state {} to {}", verb.state, verb.artifact),
            Self::Ls(_) => "list the states".into(),
            Self::Show(verb) => format!("show the state {}", verb.state),
            Self::Get(verb) => format!("read {} of the state {}", verb.path, verb.state),
            Self::Export(verb) => format!("export the state {}", verb.state),
            Self::Rm(verb) => format!("remove the states {}", verb.states.join(", ")),
            Self::Sync(_) | Self::Pull(_) => String::new(),
        }
    }
}

impl Create {
    async fn execute(self, session: &Session) -> Result<()> {
        let class = match (self.class, &self.sync) {
            (Some(Class::Task), _) => StateClass::Task,
            (Some(Class::Node), _) | (None, None) => StateClass::Node,
            (Some(Class::Synced), _) | (None, Some(_)) => StateClass::Synced,
        };
        let kind = self.kind.into();
        let made = if self.node.is_named() {
            let node = self.node.connect(session).await?;
            let create = node
                .create_state(self.name, state::class(class))
                .kind(state::kind(kind))
                .quota_bytes(self.quota.unwrap_or(0))
                .sync_target(self.sync.unwrap_or_default());
            match self.ttl {
                Some(ttl) => create.time_to_live(ttl).await?,
                None => create.await?,
            }
        } else {
            let request = CreateRequest {
                name: self.name,
                class,
                kind,
                quota_bytes: self.quota.unwrap_or(0),
                time_to_live: self.ttl,
                target: self.sync,
            };
            let made = state::create(&session.vyr, request).await?;
            state::show(&session.vyr, &made.name).await?
        };
        session.printer.result(&StateView::new(&made), || made.name.clone())
    }
}

impl Bind {
    async fn execute(self, session: &Session) -> Result<()> {
        let alias = self.alias.unwrap_or_else(|| self.state.clone());
        let shown = if self.node.is_named() {
            let node = self.node.connect(session).await?;
            let bind = node.bind_state(self.state, &self.artifact).alias(&alias);
            if self.read_only { bind.read_only().await? } else { bind.await? }
        } else {
            let bound = Bound { artifact: self.artifact.clone(), alias: alias.clone(), read_only: self.read_only };
            state::bind(&session.vyr, &self.state, &bound).await?;
            state::show(&session.vyr, &self.state).await?
        };
        let text = || format!("{} is /state/{alias} to every task of {}", shown.name, self.artifact);
        session.printer.result(&StateView::new(&shown), text)
    }
}

impl Ls {
    async fn execute(self, session: &Session) -> Result<()> {
        let states = if self.node.is_named() {
            self.node.connect(session).await?.list_states().await?
        } else {
            let (mut states, mut after) = (Vec::new(), Some(String::new()));
            while let Some(from) = after {
                let (page, next) = state::list(&session.vyr, &from, PAGE).await?;
                states.extend(page);
                after = next;
            }
            states
        };
        let all: Vec<StateView> = states.iter().map(StateView::new).collect();
        session.printer.list(&all, &["name", "class", "kind", "used", "quota", "expires", "pending"], view::cells)
    }
}

impl Show {
    async fn execute(self, session: &Session) -> Result<()> {
        let (shown, files) = if self.node.is_named() {
            (self.node.connect(session).await?.get_state(self.state).await?, None)
        } else {
            let shown = state::show(&session.vyr, &self.state).await?;
            let own = shown.class() != v0::StateClass::Task;
            (shown, if own { Some(state::files(&session.vyr, &self.state).await?) } else { None })
        };
        let shown = StateView { files, ..StateView::new(&shown) };
        session.printer.result(&shown, || view::page(&shown))
    }
}

impl Get {
    async fn execute(self, session: &Session) -> Result<()> {
        let mut file = state::open(&session.vyr, &self.state, &self.path).await?;
        match io::copy(&mut file, &mut io::stdout().lock()) {
            Ok(_) => Ok(()),
            Err(e) => gone_or_failed(&e).map(drop),
        }
    }
}

impl Export {
    async fn execute(self, session: &Session) -> Result<()> {
        let (files, bytes) = state::export(&session.vyr, &self.state, self.folder.clone()).await?;
        let exported = Exported { state: self.state, files, bytes };
        let text = || format!("{files} files, {}, in {}", human(bytes), self.folder.display());
        session.printer.result(&exported, text)
    }
}

impl Rm {
    async fn execute(self, session: &Session) -> Result<()> {
        let node = if self.node.is_named() { Some(self.node.connect(session).await?) } else { None };
        for name in &self.states {
            match &node {
                Some(node) => node.delete_state(name).await?,
                None => state::remove(&session.vyr, name).await?,
            }
        }
        Ok(())
    }
}
