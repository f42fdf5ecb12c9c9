//! Owns the way to a collector by OTLP: spans, metrics and log records. Nothing here waits for one: what there is no
//! room for is dropped and counted.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{LogExporter, MetricExporter, Protocol, SpanExporter as OtlpSpans, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, InstrumentKind, Stream};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, Span, SpanData, SpanExporter, SpanProcessor,
};

use crate::error::{Error, ErrorKind, Result};

/// How many spans of tasks a second are made for a collector at most, where `VYR_SPANS_PER_SECOND` doesn't say. To make and
/// send a short task's spans costs a quarter of what it costs to run it, and full load is thousands of tasks a second.
const RATE: u64 = 15_000;
/// How many spans wait for a collector at most, where `OTEL_BSP_MAX_QUEUE_SIZE` doesn't say.
const QUEUE: usize = 16_384;

/// Spans since the start of the process, by what became of them.
#[derive(Debug, Default)]
pub struct Counts {
    most: usize,
    rate: u64,
    /// The second that is under way, and how many spans were made in it.
    made: Mutex<Option<(Instant, u64)>>,
    waiting: AtomicUsize,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    fn new(most: usize, rate: u64) -> Self {
        Self { most, rate, ..Self::default() }
    }

    /// Whether some more spans may be made now. If not, they count as dropped: at full load it costs less not to make them
    /// than to throw them away.
    pub(super) fn has_room(&self, spans: u64) -> bool {
        let room = self.waiting.load(Ordering::Relaxed) < self.most && self.in_rate(spans);
        if !room {
            self.dropped.fetch_add(spans, Ordering::Relaxed);
        }
        room
    }

    fn in_rate(&self, spans: u64) -> bool {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *made {
            Some((since, count)) if since.elapsed() < Duration::from_secs(1) => {
                let fits = *count + spans <= self.rate;
                *count += if fits { spans } else { 0 };
                fits
            }
            over => {
                *over = Some((Instant::now(), spans));
                true
            }
        }
    }

    /// What the collector took, what it didn't take, and what found no room in the queue.
    #[must_use]
    pub fn read(&self) -> [(&'static str, u64); 3] {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        [("exported", read(&self.exported)), ("failed", read(&self.failed)), ("dropped", read(&self.dropped))]
    }
}

/// Says who is sending: what the environment says, else `vyr`.
pub(super) fn resource() -> Resource {
    let named = Resource::builder().build().get(&Key::from_static_str("service.name"));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    // The SDK's own word for a program that nobody has named.
    match named {
        Some(name) if !name.as_str().starts_with("unknown_service") => builder.build(),
        _ => builder.with_service_name("vyr").build(),
    }
}

fn unusable(error: &impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Usage, format!("the OTLP exporter can't be set up: {error}"))
        .hint("check OTEL_EXPORTER_OTLP_ENDPOINT, as in http://localhost:4318")
}

/// Spans by OTLP, behind a bounded queue.
pub(super) fn spans(grpc: bool, queue: Option<usize>, rate: Option<u64>) -> Result<(Bounded, Arc<Counts>)> {
    let most = queue.unwrap_or(QUEUE).max(1);
    let counts = Arc::new(Counts::new(most, rate.unwrap_or(RATE)));
    let builder = OtlpSpans::builder();
    let exporter = if grpc {
        builder.with_tonic().build()
    } else {
        builder.with_http().with_protocol(Protocol::HttpBinary).build()
    };
    let exporter = Counted { exporter: exporter.map_err(|e| unusable(&e))?, counts: Arc::clone(&counts) };
    let config = BatchConfigBuilder::default().with_max_queue_size(most).build();
    let mut inner = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    inner.set_resource(&resource());
    Ok((Bounded { inner: Arc::new(inner), counts: Arc::clone(&counts) }, counts))
}

/// Metrics by OTLP.
pub(super) fn metrics(grpc: bool) -> Result<MetricExporter> {
    let builder = MetricExporter::builder();
    let exporter = if grpc {
        builder.with_tonic().build()
    } else {
        builder.with_http().with_protocol(Protocol::HttpBinary).build()
    };
    exporter.map_err(|e| unusable(&e))
}

/// Histograms whose buckets follow what is measured (OpenTelemetry metrics data model, "ExponentialHistogram").
pub(super) fn exponential(instrument: &Instrument) -> Option<Stream> {
    if instrument.kind() != InstrumentKind::Histogram {
        return None;
    }
    let aggregation = Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 20, record_min_max: true };
    Stream::builder().with_aggregation(aggregation).build().ok()
}

/// Log records by OTLP.
pub(super) fn logs(grpc: bool) -> Result<SdkLoggerProvider> {
    let builder = LogExporter::builder();
    let exporter = if grpc {
        builder.with_tonic().build()
    } else {
        builder.with_http().with_protocol(Protocol::HttpBinary).build()
    };
    let exporter = exporter.map_err(|e| unusable(&e))?;
    Ok(SdkLoggerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

/// The sampler of `OTEL_TRACES_SAMPLER` and its argument (OpenTelemetry specification, "General SDK Configuration").
pub(super) fn sampler(name: Option<&str>, argument: Option<&str>) -> Sampler {
    let ratio = || Sampler::TraceIdRatioBased(argument.and_then(|ratio| ratio.parse().ok()).unwrap_or(1.0));
    match name {
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => ratio(),
        Some("parentbased_always_off") => Sampler::ParentBased(Box::new(Sampler::AlwaysOff)),
        Some("parentbased_traceidratio") => Sampler::ParentBased(Box::new(ratio())),
        _ => Sampler::ParentBased(Box::new(Sampler::AlwaysOn)),
    }
}

/// The SDK's batches, with a count of what they have no room for: the SDK's own queue drops in silence. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Bounded {
    inner: Arc<BatchSpanProcessor>,
    counts: Arc<Counts>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &opentelemetry::Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= self.counts.most {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }
}

/// Lets everything else go first on this thread, which does nothing but export: under full load tasks count more than their
/// spans.
fn stay_behind() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if !DONE.replace(true) {
        // Fails where that isn't allowed; then it goes on as it was.
        let _ = rustix::process::setpriority_process(None, 19);
    }
}

/// An exporter that says what became of its batches.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    counts: Arc<Counts>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        stay_behind();
        let count = batch.len();
        self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
        let done = self.exporter.export(batch).await;
        let became = if done.is_ok() { &self.counts.exported } else { &self.counts.failed };
        became.fetch_add(count as u64, Ordering::Relaxed);
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// A collector that takes nothing until it's told to.
    #[derive(Debug)]
    struct Slow(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl SpanExporter for Slow {
        async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
            let _ = self.0.lock().unwrap().recv();
            Ok(())
        }
    }

    #[test]
    fn a_collector_that_is_slow_costs_spans_and_they_are_counted() {
        let counts = Arc::new(Counts::new(100, RATE));
        let (go, wait) = std::sync::mpsc::channel();
        let exporter = Counted { exporter: Slow(std::sync::Mutex::new(wait)), counts: Arc::clone(&counts) };
        let config = BatchConfigBuilder::default().with_max_queue_size(100).with_max_export_batch_size(10).build();
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let bounded = Bounded { inner: Arc::new(inner), counts: Arc::clone(&counts) };
        let provider = SdkTracerProvider::builder().with_span_processor(bounded).build();
        let tracer = provider.tracer("test");
        for _ in 0..1000 {
            drop(tracer.start("one"));
        }
        let dropped = counts.dropped.load(Ordering::Relaxed);
        assert!((800..=900).contains(&dropped), "{dropped}");
        drop(go);
        provider.shutdown().unwrap();
        let [(_, exported), (_, failed), (_, dropped)] = counts.read();
        assert_eq!((exported + dropped, failed), (1000, 0));
    }

    #[test]
    fn no_more_than_so_many_are_made_in_a_second() {
        let counts = Counts::new(100, 12);
        let made = (0..5).filter(|_| counts.has_room(5)).count();
        assert_eq!((made, counts.dropped.load(Ordering::Relaxed)), (2, 15));
        std::thread::sleep(Duration::from_millis(1010));
        assert!(counts.has_room(5));
    }

    #[test]
    fn samplers_go_by_their_standard_names() {
        for (name, argument, shown) in [
            (None, None, "ParentBased(AlwaysOn)"),
            (Some("always_off"), None, "AlwaysOff"),
            (Some("traceidratio"), Some("0.25"), "TraceIdRatioBased(0.25)"),
            (Some("parentbased_traceidratio"), Some("x"), "ParentBased(TraceIdRatioBased(1.0))"),
            (Some("no such"), None, "ParentBased(AlwaysOn)"),
        ] {
            assert_eq!(format!("{:?}", sampler(name, argument)), shown);
        }
    }
}
