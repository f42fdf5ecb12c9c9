//! Owns span names and the exporter's set-up. Installed by `cli` only; without an endpoint and without `VYR_LOG`
//! nothing is installed, and a span costs one relaxed load.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::error::{Error, ErrorKind, Result};

/// The span names that VYR emits: `docs/telemetry.md` lists their fields, and a test emits each.
pub mod span {
    /// A whole `vyr run`.
    pub const RUN: &str = "run";
    /// A name becomes a digest.
    pub const RESOLVE: &str = "resolve";
    /// Content moves from a registry into the store.
    pub const PULL: &str = "pull";
    /// Signatures are held against the policy.
    pub const VERIFY: &str = "verify";
    /// Wasm becomes machine code.
    pub const COMPILE: &str = "compile";
    /// The guest is put together.
    pub const INSTANTIATE: &str = "instantiate";
    /// The guest runs.
    pub const EXECUTE: &str = "execute";
}

/// The instruments' names, as the node has them; Prometheus sees them with `_` for `.` and the unit at the end.
pub mod metric {
    /// Tasks that were acknowledged.
    pub const SUBMITTED: &str = "vyr.tasks.submitted";
    /// Tasks that ended, by `status`.
    pub const ENDED: &str = "vyr.tasks.ended";
    /// From a submit's arrival to the guest's entry point, by `tier`.
    pub const START: &str = "vyr.task.start.duration";
    /// Tasks that are prepared or run.
    pub const RUNNING: &str = "vyr.tasks.running";
    /// Tasks that wait.
    pub const QUEUED: &str = "vyr.tasks.queued";
    /// Linear memory that guests hold.
    pub const MEMORY: &str = "vyr.guests.memory";
}

/// Installs the instruments' reader; what they count is gathered from the registry that is returned.
///
/// # Errors
/// The exporter can't be set up.
pub fn install_metrics() -> Result<prometheus::Registry> {
    let registry = prometheus::Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, format!("the metrics can't be set up: {e}")))?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("vyr").build();
    let provider =
        opentelemetry_sdk::metrics::SdkMeterProvider::builder().with_reader(exporter).with_resource(resource).build();
    opentelemetry::global::set_meter_provider(provider);
    Ok(registry)
}

/// What to set up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// An OTLP endpoint is set in the environment; the exporter reads it there itself.
    pub otlp: bool,
    /// `grpc`, else HTTP with protobuf.
    pub grpc: bool,
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
        !self.otlp && self.log.is_none()
    }
}

/// Ends the export on [`Guard::shutdown`]: what was queued is sent, within a bound.
#[derive(Debug, Default)]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
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

    /// Sends what is queued. A collector that can't be reached costs its export timeout at most, and never the
    /// result of the run.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(e) = provider.shutdown_with_timeout(std::time::Duration::from_secs(3))
        {
            tracing::debug!(error = %e, "traces were not delivered");
        }
    }
}

/// Installs the subscriber. For gRPC the caller must be inside a Tokio runtime that goes on until shutdown.
///
/// # Errors
/// [`ErrorKind::Usage`] for a filter or an endpoint that can't be parsed.
pub fn install(settings: &Settings) -> Result<Guard> {
    if settings.is_off() {
        return Ok(Guard::default());
    }
    let provider = if settings.otlp { Some(provider(settings.grpc)?) } else { None };
    let export = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("vyr")));
    let lines = match &settings.log {
        Some(filter) => {
            let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|e| {
                Error::new(ErrorKind::Usage, format!("VYR_LOG is `{filter}`: {e}"))
                    .hint("write a level or target=level, as in VYR_LOG=debug")
            })?;
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(settings.color);
            Some(tracing_subscriber::Layer::with_filter(layer, filter))
        }
        None => None,
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(export)
        .try_init()
        .map_err(|e| Error::new(ErrorKind::Internal, format!("telemetry was installed twice: {e}")))?;
    let parent = settings.traceparent.as_ref().map(|value| {
        let carrier = HashMap::from([("traceparent".to_owned(), value.clone())]);
        TraceContextPropagator::new().extract(&carrier)
    });
    Ok(Guard { provider, parent })
}

/// The W3C `traceparent` of the current span, to hand on; `None` when nothing is exported.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut carrier);
    carrier.remove("traceparent")
}

fn provider(grpc: bool) -> Result<SdkTracerProvider> {
    let builder = opentelemetry_otlp::SpanExporter::builder();
    let exporter = if grpc {
        builder.with_tonic().build()
    } else {
        builder.with_http().with_protocol(Protocol::HttpBinary).build()
    };
    let exporter = exporter.map_err(|e| {
        Error::new(ErrorKind::Usage, format!("the OTLP exporter can't be set up: {e}"))
            .hint("check OTEL_EXPORTER_OTLP_ENDPOINT, as in http://localhost:4318")
    })?;
    let resource = opentelemetry_sdk::Resource::builder()
        .with_service_name("vyr")
        .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
