//! A real OpenTelemetry Collector: what it took stands in a file, in its own words.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::registry::free_port;
use super::tools::tool;

/// The Collector, ended with this value.
#[derive(Debug)]
pub(crate) struct Collector {
    folder: TempDir,
    http: u16,
    grpc: u16,
    process: Option<Child>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut collector = Self { folder, http: free_port(), grpc: free_port(), process: None };
        collector.again();
        collector
    }

    fn file(&self, signal: &str) -> PathBuf {
        self.folder.path().join(format!("{signal}.jsonl"))
    }

    /// Starts it at the same addresses.
    pub(crate) fn again(&mut self) {
        let exporter = |signal: &str| {
            format!(
                "  file/{signal}: {{ path: {}, append: true, flush_interval: 100ms }}\n",
                self.file(signal).display()
            )
        };
        let pipeline = |signal: &str| format!("    {signal}: {{ receivers: [otlp], exporters: [file/{signal}] }}\n");
        let all = ["traces", "metrics", "logs"];
        let config = format!(
            "receivers:\n  otlp:\n    protocols:\n      http: {{ endpoint: \"127.0.0.1:{}\" }}\n      grpc: {{ endpoint: \
             \"127.0.0.1:{}\" }}\nexporters:\n{}service:\n  telemetry:\n    metrics: {{ level: none }}\n  pipelines:\n{}",
            self.http,
            self.grpc,
            all.map(exporter).concat(),
            all.map(pipeline).concat(),
        );
        let path = self.folder.path().join("config.yaml");
        fs::write(&path, config).unwrap();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(tool("otelcol"));
        command.arg("--config").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.http)).is_err() {
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(20), "the collector did not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// As if its machine had died.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` has to be, by HTTP or by gRPC.
    pub(crate) fn endpoint(&self, grpc: bool) -> String {
        format!("http://127.0.0.1:{}", if grpc { self.grpc } else { self.http })
    }

    /// The documents of a signal that it has taken so far.
    pub(crate) fn took(&self, signal: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.file(signal)).unwrap_or_default();
        // The last line may not be whole yet.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Its spans of one trace.
    pub(crate) fn spans(&self, trace: &str) -> Vec<Value> {
        let mut found = Vec::new();
        for document in self.took("traces") {
            for spans in each(&document, &["resourceSpans", "scopeSpans", "spans"]) {
                if spans["traceId"] == trace {
                    found.push(spans.clone());
                }
            }
        }
        found
    }

    /// Its spans of one trace, once `enough` says so.
    #[track_caller]
    pub(crate) fn wait_for_spans(&self, trace: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let spans = self.spans(trace);
            if enough(&spans) {
                return spans;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "the collector has only {spans:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What lies at the end of a path of arrays.
pub(crate) fn each<'a>(value: &'a Value, path: &[&str]) -> Vec<&'a Value> {
    path.iter().fold(vec![value], |values, key| {
        values.into_iter().flat_map(|v| v[key].as_array().map(Vec::as_slice).unwrap_or_default()).collect()
    })
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
    }
}
