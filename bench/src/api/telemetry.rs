//! Owns what telemetry costs at full load: durable cycles of a node that sends everything to a live collector, beside those
//! of one that sends nothing.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::client::Client;
use super::measured::{Measured, values};
use super::server::Server;
use super::throughput::{count, seconds_of};
use super::{guests, home, keep};
use crate::stage::Stage;

const NOTE: &str = "32 clients over 32 connections, each submitting the hello module with wait, for 10 s after 1 s that doesn't \
    count; each value is one second's count; a new node each time, in turns without telemetry and with traces, metrics and \
    logs by OTLP over HTTP to a real OpenTelemetry Collector on the same two cores, which reads all that it is sent and passes \
    it on to nobody";

pub(crate) async fn measure(stage: &Stage) -> Result<()> {
    let (rounds, seconds) = if stage.quick { (1, 1) } else { (5, 10) };
    let hello = guests::hello()?;
    let mut samples = Vec::new();
    for round in 0..rounds {
        for sends in [false, true] {
            let name = format!("telemetry-{sends}-{round}");
            let filled = home::fill(stage, &name, [hello.clone()]).await?;
            let reference = filled.first().context("nothing was put")?;
            let collector = if sends { Some(Collector::start(stage.folder.path())?) } else { None };
            let endpoint = collector.as_ref().map(|c| ("OTEL_EXPORTER_OTLP_ENDPOINT", c.endpoint.as_str()));
            rustix::fs::sync();
            let node = Server::node_with(stage, &name, &[], endpoint)?;
            Client::connect(node.address).await?.run(reference).await?;
            let counts = count(node.address, Some(reference), 32, seconds).await?;
            node.stop()?;
            drop(collector);
            let case = if sends { "cycles, all sent to a collector" } else { "cycles, telemetry off" };
            samples.extend(seconds_of(&format!("telemetry: {case}"), round, &counts));
            std::fs::remove_dir_all(stage.folder.path().join(&name))?;
        }
    }
    keep(stage, "telemetry", NOTE, &samples)
}

/// The share of the cycles that is left with telemetry, by the means of all seconds.
pub(super) fn share(samples: &[Measured]) -> f64 {
    let mean = |case: &str| {
        let values = values(samples, case);
        values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX))
    };
    mean("telemetry: cycles, all sent to a collector") / mean("telemetry: cycles, telemetry off")
}

/// A real collector, ended with this value.
struct Collector {
    process: Child,
    endpoint: String,
}

impl Collector {
    fn start(folder: &Path) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = folder.join("collector.yaml");
        let text = format!(
            "receivers: {{ otlp: {{ protocols: {{ http: {{ endpoint: \"127.0.0.1:{port}\" }} }} }} }}\n\
             exporters: {{ nop: }}\n\
             service:\n  telemetry: {{ metrics: {{ level: none }} }}\n  pipelines:\n    traces: {{ receivers: [otlp], exporters: [nop] }}\n    \
             metrics: {{ receivers: [otlp], exporters: [nop] }}\n    logs: {{ receivers: [otlp], exporters: [nop] }}\n"
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(Stage::tool("otelcol")?);
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let collector = Self { process: command.spawn()?, endpoint: format!("http://127.0.0.1:{port}") };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(20), "the collector doesn't answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(collector)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
