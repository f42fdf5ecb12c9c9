//! Owns span and metric names and what they go to: a collector by OTLP, the process itself for a while, log lines.
//! Installed by `cli` only; without an endpoint and without `VYR_LOG` a command installs nothing, and a span costs one
//! relaxed load.

pub mod count;
mod export;
mod kept;
mod names;
mod spans;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use export::Counts;
pub use kept::Kept;
pub use names::{metric, span};
pub use spans::{InTrace, Spans, TaskSpan};

use crate::error::{Error, ErrorKind, Result};

/// How long the end of a process waits for a collector at most.
pub const GOODBYE: Duration = Duration::from_secs(3);

/// What a node's spans go to; see [`spans`].
static SPANS: OnceLock<Spans> = OnceLock::new();

/// What metrics are sent by, where they are.
static SENT: OnceLock<SdkMeterProvider> = OnceLock::new();

/// Where an instrument has to be made: for who scrapes, and for who is sent to. What the one takes for a histogram the other
/// doesn't know, so there are two.
#[must_use]
pub fn meters() -> Vec<Meter> {
    let scraped = opentelemetry::global::meter("vyr");
    std::iter::once(scraped).chain(SENT.get().map(|sent| sent.meter("vyr"))).collect()
}

/// Where a node's tasks leave their spans; `None` in any other process.
#[must_use]
pub fn spans() -> Option<&'static Spans> {
    SPANS.get()
}

/// Installs the instruments' readers: what they count is gathered from the registry that is returned, and with `settings`
/// for a collector sent there too, until the provider is shut down.
///
/// # Errors
/// An exporter can't be set up.
pub fn install_metrics(settings: &Settings) -> Result<(prometheus::Registry, Option<SdkMeterProvider>)> {
    let registry = prometheus::Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, format!("the metrics can't be set up: {e}")))?;
    let scraped = SdkMeterProvider::builder().with_reader(exporter).with_resource(export::resource()).build();
    opentelemetry::global::set_meter_provider(scraped);
    let sent = if settings.otlp { export::metrics(settings.grpc)? } else { return Ok((registry, None)) };
    let sent = SdkMeterProvider::builder()
        .with_reader(PeriodicReader::builder(sent).build())
        .with_view(export::exponential)
        .with_resource(export::resource())
        .build();
    drop(SENT.set(sent.clone()));
    Ok((registry, Some(sent)))
}

/// What to set up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// An OTLP endpoint is set in the environment; the exporters read it there themselves.
    pub otlp: bool,
    /// `grpc`, else HTTP with protobuf.
    pub grpc: bool,
    /// Spans that wait for the collector at most.
    pub queue: Option<usize>,
    /// Spans of tasks that are made for the collector in a second at most.
    pub rate: Option<u64>,
    /// `OTEL_TRACES_SAMPLER` and its argument.
    pub sampler: (Option<String>, Option<String>),
    /// This process is a node: spans are kept here, whether there is a collector or not.
    pub node: bool,
    /// The filter for log lines on stderr.
    pub log: Option<String>,
    /// Colour the log lines.
    pub color: bool,
    /// The trace context to join.
    pub traceparent: Option<String>,
}

impl Settings {
    /// Whether there is anything to install.
    #[must_use]
    pub fn is_off(&self) -> bool {
        !self.otlp && self.log.is_none() && !self.node
    }
}

/// Ends the export on [`Guard::shutdown`]: what was queued is sent, within a bound.
#[derive(Debug, Default)]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
    parent: Option<opentelemetry::Context>,
}

impl Guard {
    /// Makes `span` a child of the trace that the caller handed in, if it did.
    pub fn adopt(&self, span: &tracing::Span) {
        if let Some(parent) = &self.parent {
            // Fails only where no exporter's layer is installed: then there is nothing to join.
            drop(span.set_parent(parent.clone()));
        }
    }

    /// Sends what is queued. A collector that can't be reached costs some seconds at most, and never the result of the
    /// run.
    pub fn shutdown(self) {
        let undelivered =
            |what: &str, e: &dyn std::fmt::Display| tracing::debug!(error = %e, "{what} were not delivered");
        if let Some(Err(e)) = self.traces.map(|provider| provider.shutdown_with_timeout(GOODBYE)) {
            undelivered("traces", &e);
        }
        if let Some(Err(e)) = self.logs.map(|provider| provider.shutdown_with_timeout(GOODBYE)) {
            undelivered("logs", &e);
        }
    }
}

/// What `tracing`'s spans go to. Of a node also what its tasks' spans go to.
fn traces(settings: &Settings) -> Result<SdkTracerProvider> {
    let (name, argument) = &settings.sampler;
    let sampler = export::sampler(name.as_deref(), argument.as_deref());
    let collector =
        if settings.otlp { Some(export::spans(settings.grpc, settings.queue, settings.rate)?) } else { None };
    let builder = || SdkTracerProvider::builder().with_resource(export::resource()).with_sampler(sampler.clone());
    let mut provider = builder();
    if settings.node {
        let kept = Kept::default();
        provider = provider.with_span_processor(kept.clone());
        // Made again of what is on record whenever somebody looks, tasks' own spans need not be kept.
        let own = collector.as_ref().map(|(collector, counts)| {
            let provider =
                builder().with_id_generator(spans::GivenIds::default()).with_span_processor(collector.clone());
            (provider.build().tracer("vyr"), Arc::clone(counts))
        });
        drop(SPANS.set(Spans::new(sampler.clone(), kept, own)));
    }
    if let Some((collector, _)) = collector {
        provider = provider.with_span_processor(collector);
    }
    Ok(provider.build())
}

/// Only this program's own: its libraries' spans are theirs, and an exporter's about its exports would never end.
fn own(level: LevelFilter) -> Targets {
    Targets::new().with_target("vyr", level)
}

/// Installs the subscriber. For gRPC the caller must be inside a Tokio runtime that goes on until shutdown.
///
/// # Errors
/// [`ErrorKind::Usage`] for a filter or an endpoint that can't be parsed.
pub fn install(settings: &Settings) -> Result<Guard> {
    if settings.is_off() {
        return Ok(Guard::default());
    }
    let traces = if settings.otlp || settings.node { Some(traces(settings)?) } else { None };
    let export = traces.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("vyr"));
        // Where in the source a span is made says nothing to who operates a node.
        layer.with_location(false).with_threads(false).with_filter(own(LevelFilter::INFO))
    });
    let logs = if settings.otlp && settings.node { Some(export::logs(settings.grpc)?) } else { None };
    let records =
        logs.as_ref().map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(own(LevelFilter::INFO)));
    let lines = match &settings.log {
        Some(filter) => {
            let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|e| {
                Error::new(ErrorKind::Usage, format!("VYR_LOG is `{filter}`: {e}"))
                    .hint("write a level or target=level, as in VYR_LOG=debug")
            })?;
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(settings.color);
            Some(layer.with_filter(filter))
        }
        None => None,
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(export)
        .with(records)
        .try_init()
        .map_err(|e| Error::new(ErrorKind::Internal, format!("telemetry was installed twice: {e}")))?;
    let parent = settings.traceparent.as_ref().map(|value| context(value));
    Ok(Guard { traces, logs, parent })
}

/// The context that a W3C `traceparent` names; an empty one for one that is malformed.
pub(crate) fn context(traceparent: &str) -> opentelemetry::Context {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract(&carrier)
}

/// The W3C `traceparent` of the current span, to hand on; `None` when nothing is exported.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut carrier);
    carrier.remove("traceparent")
}
