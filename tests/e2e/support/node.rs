//! A real `vyr serve` of one home, and a client of its API.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use vyr_proto::v0::control_client::ControlClient;
use vyr_proto::v0::*;

use super::{Home, Registry};

/// A running node; killed when dropped.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) child: Child,
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    log: PathBuf,
}

impl Node {
    /// Starts one that listens on a free port, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(home: &Home, arguments: &[&str]) -> Self {
        Self::start_with(home, arguments, &[])
    }

    /// The same, with these variables.
    #[track_caller]
    pub(crate) fn start_with(home: &Home, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = home.vyr_command(["serve"]);
        command.envs(variables.iter().copied());
        Self::start_by(home, command, arguments)
    }

    /// The same, by a command that ends with `serve`.
    #[track_caller]
    pub(crate) fn start_by(home: &Home, mut command: Command, arguments: &[&str]) -> Self {
        let (file, log) = (home.work().join("address"), home.work().join("serve.log"));
        let _ = fs::remove_file(&file);
        command.arg("--address-file").arg(&file).args(arguments);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let output = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut child =
            command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let began = Instant::now();
        loop {
            if let Ok(address) = fs::read_to_string(&file) {
                return Self { child, address: address.trim().to_owned(), log };
            }
            let ended = child.try_wait().unwrap();
            let slow = began.elapsed() > Duration::from_secs(60);
            assert!(ended.is_none() && !slow, "{ended:?}: {}", fs::read_to_string(&log).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `localhost:PORT`: its registry, under the one name for which oras speaks plain HTTP without being told.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.address.rsplit(':').next().unwrap())
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Client {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap();
        Client(ControlClient::new(channel))
    }

    /// Kills it as a power cut would end its process.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Its exit code.
    pub(crate) fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// A figure of `/proc/PID/status`, in KiB.
    pub(crate) fn kib(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client.
#[derive(Debug, Clone)]
pub(crate) struct Client(pub(crate) ControlClient<Channel>);

/// A submit of `reference`.
pub(crate) fn spec(reference: &str, args: &[&str]) -> TaskSpec {
    TaskSpec {
        reference: reference.to_owned(),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        ..TaskSpec::default()
    }
}

pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

impl Client {
    /// Submits, and answers at once.
    pub(crate) async fn submit(&mut self, spec: TaskSpec) -> Task {
        self.try_submit(spec).await.unwrap()
    }

    pub(crate) async fn try_submit(&mut self, spec: TaskSpec) -> Result<Task, tonic::Status> {
        let request = SubmitTaskRequest { spec: Some(spec), ..SubmitTaskRequest::default() };
        Ok(self.0.submit_task(request).await?.into_inner().task.unwrap())
    }

    /// Submits, and answers when it has ended.
    pub(crate) async fn run(&mut self, spec: TaskSpec) -> Task {
        let request = SubmitTaskRequest { spec: Some(spec), wait: seconds(60), ..SubmitTaskRequest::default() };
        let task = self.0.submit_task(request).await.unwrap().into_inner().task.unwrap();
        assert!(task.ended_at.is_some(), "{task:?}");
        task
    }

    pub(crate) async fn get(&mut self, id: &str) -> Task {
        let request = GetTaskRequest { id: id.to_owned(), wait: None };
        self.0.get_task(request).await.unwrap().into_inner().task.unwrap()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self, id: &str) -> Task {
        let request = GetTaskRequest { id: id.to_owned(), wait: seconds(60) };
        let task = self.0.get_task(request).await.unwrap().into_inner().task.unwrap();
        assert!(task.ended_at.is_some(), "{task:?}");
        task
    }

    /// Waits until it has one of these.
    pub(crate) async fn until(&mut self, id: &str, status: TaskStatus) -> Task {
        let mut changes = self.0.watch_task(WatchTaskRequest { id: id.to_owned() }).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while let Some(change) = changes.message().await.unwrap() {
            let task = change.task.unwrap();
            if task.status() == status {
                return task;
            }
            seen.push(task.status());
        }
        panic!("{id} was never {status:?}, but {seen:?}");
    }

    pub(crate) async fn cancel(&mut self, id: &str) -> Task {
        let request = CancelTaskRequest { id: id.to_owned(), wait: seconds(30) };
        self.0.cancel_task(request).await.unwrap().into_inner().task.unwrap()
    }

    /// All that it wrote to one of its outputs, and what was dropped.
    pub(crate) async fn output(&mut self, id: &str, stream: LogStream, follow: bool) -> (Vec<u8>, u64) {
        let request = StreamLogsRequest { id: id.to_owned(), follow, stream: stream.into(), offset: 0 };
        let mut pieces = self.0.stream_logs(request).await.unwrap().into_inner();
        let (mut bytes, mut dropped) = (Vec::new(), 0);
        while let Some(piece) = pieces.message().await.unwrap() {
            piece.entries.iter().for_each(|e| bytes.extend_from_slice(&e.data));
            dropped = piece.dropped_bytes;
        }
        (bytes, dropped)
    }

    pub(crate) async fn stdout(&mut self, id: &str) -> String {
        String::from_utf8(self.output(id, LogStream::Stdout, true).await.0).unwrap()
    }
}

/// Pushes a guest, signed with this home's machine key, which its policy trusts; the reference with its digest.
#[track_caller]
pub(crate) fn pushed(home: &Home, registry: &Registry, name: &str) -> String {
    let wasm = vyr_guests::guest(name);
    let reference = registry.reference(&name.replace("-p1", ""), "v1");
    home.vyr(["push", &reference, wasm.to_str().unwrap()]).expect(0).stdout.trim().to_owned()
}
