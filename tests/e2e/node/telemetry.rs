//! What a node tells of its tasks: to a real OpenTelemetry Collector, and to who asks it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use vyr_proto::v0::*;

use crate::support::{Collector, Home, Node, Registry, each, pushed, seconds, spec};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn names(spans: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = spans.iter().map(|s| s["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

fn span<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    spans.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {spans:#?}"))
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let found = each(span, &["attributes"]).into_iter().find(|a| a["key"] == key);
    let value = found.unwrap_or_else(|| panic!("no {key} in {span:#?}"))["value"].as_object().unwrap();
    value.values().next().unwrap()
}

fn has(names: &[&str], wanted: &[&str]) -> bool {
    wanted.iter().all(|w| names.contains(w))
}

/// By HTTP and by gRPC: everything of a submit, from the client's own span on, is one trace in the collector.
#[test]
fn a_submit_is_one_trace_in_the_collector_from_the_client_to_the_guest() {
    let collector = Collector::start();
    for grpc in [false, true] {
        let (registry, home) = (Registry::start(), Home::new());
        let reference = pushed(&home, &registry, "echo-env");
        let endpoint = collector.endpoint(grpc);
        let protocol = if grpc { "grpc" } else { "http/protobuf" };
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ];
        let node = Node::start_with(&home, &["--no-socket"], &variables);
        // A trace of its own for each protocol.
        let trace = if grpc { TRACE.replace('4', "5") } else { TRACE.to_owned() };
        let mut submit =
            home.vyr_command(["submit", "--logs", "--node", &format!("http://{}", node.address), &reference]);
        submit.envs(variables).env("TRACEPARENT", format!("00-{trace}-{PARENT}-01"));
        let ran = crate::support::run(submit, b"").expect(0);
        let wanted = [
            "vyr",
            "submit",
            "task",
            "queue",
            "prepare",
            "resolve",
            "verify",
            "compile",
            "persist",
            "instantiate",
            "execute",
            "complete",
        ];
        let spans = collector.wait_for_spans(&trace, |spans| has(&names(spans), &wanted));
        // One tree, whose root is the caller's.
        let ids: BTreeMap<&str, &str> =
            spans.iter().map(|s| (s["spanId"].as_str().unwrap(), s["name"].as_str().unwrap())).collect();
        assert_eq!(ids.len(), spans.len());
        for once in ["task", "prepare", "execute"] {
            assert_eq!(names(&spans).iter().filter(|n| **n == once).count(), 1, "{once}");
        }
        for each in &spans {
            let parent = each["parentSpanId"].as_str().unwrap();
            assert!(parent == PARENT || ids.contains_key(parent), "{each:#?} hangs in the air");
        }
        let parent_of = |name: &str| ids.get(span(&spans, name)["parentSpanId"].as_str().unwrap()).copied();
        assert_eq!(parent_of("vyr"), None);
        assert_eq!(parent_of("task"), Some("submit"));
        for step in ["queue", "prepare", "persist", "instantiate", "execute", "complete"] {
            assert_eq!(parent_of(step), Some("task"), "{step}");
        }
        assert_eq!(parent_of("resolve"), Some("prepare"));
        let task = span(&spans, "task");
        assert_eq!(attribute(task, "rpc.method"), "SubmitTask");
        assert_eq!(attribute(task, "vyr.task.status"), "succeeded");
        assert_eq!(attribute(task, "vyr.path"), "wasm");
        assert!(reference.ends_with(attribute(task, "oci.manifest.digest").as_str().unwrap()));
        // The guest's own telemetry would join.
        let execute = span(&spans, "execute")["spanId"].as_str().unwrap();
        assert!(ran.has_line(&format!("env TRACEPARENT=00-{trace}-{execute}-01")), "{}", ran.stdout);

        // The same instruments by OTLP, and who sends them.
        let began = Instant::now();
        let submitted = |document: &Value| {
            let metrics = each(document, &["resourceMetrics", "scopeMetrics", "metrics"]);
            let named = |name: &str| metrics.iter().find(|m| m["name"] == name);
            named("vyr.tasks.submitted").is_some()
                && named("vyr.task.start.duration").is_some_and(|m| !m["exponentialHistogram"].is_null())
        };
        while !collector.took("metrics").iter().any(submitted) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:#?}", collector.took("metrics"));
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = collector.took("traces");
        let resource = each(&said[0], &["resourceSpans"])[0]["resource"].clone();
        assert_eq!(attribute(&resource, "service.name"), "vyr");
        assert_eq!(attribute(&resource, "deployment.environment.name"), "test");
    }
}

#[tokio::test]
async fn what_fails_says_why_in_its_trace_and_in_the_log_records() {
    let collector = Collector::start();
    let (registry, home, other) = (Registry::start(), Home::new(), Home::new());
    let unsigned = other.oras_push(&registry.reference("unsigned", "v1"), &vyr_guests::guest("hello-p1"));
    let trap = pushed(&home, &registry, "trap-p1");
    let endpoint = collector.endpoint(false);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
    ];
    let node = Node::start_with(&home, &[], &variables);
    let mut client = node.connect().await;

    let task = client.run(spec(&registry.by_digest("unsigned", &unsigned), &[])).await;
    assert_eq!(task.status(), TaskStatus::Refused);
    let spans = collector.wait_for_spans(&task.trace_id, |spans| has(&names(spans), &["task", "verify"]));
    let why = task.end.unwrap().message;
    for failed in ["task", "prepare", "verify"] {
        let status = &span(&spans, failed)["status"];
        assert!(status["code"] == 2 && status["message"].as_str().unwrap().contains(&why), "{failed}: {status}");
    }
    assert_eq!(attribute(span(&spans, "task"), "error.type"), "refused");
    // The log record of it is in the same trace.
    let began = Instant::now();
    let record = loop {
        let documents = collector.took("logs");
        let records: Vec<Value> =
            documents.iter().flat_map(|d| each(d, &["resourceLogs", "scopeLogs", "logRecords"])).cloned().collect();
        if let Some(record) = records.into_iter().find(|r| r["traceId"] == task.trace_id.as_str()) {
            break record;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{documents:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!record["spanId"].as_str().unwrap().is_empty(), "{record:#?}");
    let metrics = reqwest::get(format!("http://{}/metrics", node.address)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"vyr_verifications_refused_total{reason="unsigned""#), "{metrics}");

    let task = client.run(spec(&trap, &[])).await;
    let spans = collector.wait_for_spans(&task.trace_id, |spans| has(&names(spans), &["task", "execute"]));
    assert_eq!(span(&spans, "execute")["status"]["code"], 2);
    // The sampler's word counts: what the caller doesn't record isn't sent.
    let mut quiet = spec(&trap, &[]);
    quiet.traceparent = format!("00-{TRACE}-{PARENT}-00");
    let task = client.run(quiet).await;
    assert_eq!(task.trace_id, TRACE);
    client.run(spec(&trap, &[])).await;
    assert!(collector.spans(TRACE).is_empty());
}

/// Under load, with a queue that is too small for it, the collector dies and comes back: no task notices.
#[tokio::test]
async fn a_collector_that_dies_under_load_costs_spans_that_are_counted_and_nothing_else() {
    let mut collector = Collector::start();
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let endpoint = collector.endpoint(false);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("VYR_SPANS_PER_SECOND", "1000000"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "200"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100"),
    ];
    let node = Node::start_with(&home, &[], &variables);
    let load = async |count: usize| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let (node, hello) = (&node, hello.clone());
                async move {
                    let mut client = node.connect().await;
                    for _ in 0..count {
                        let task = client.run(spec(&hello, &[])).await;
                        assert_eq!(task.status(), TaskStatus::Succeeded, "{task:?}");
                    }
                }
            })
            .collect();
        futures_util::future::join_all(clients).await;
    };
    load(20).await;
    collector.kill();
    let began = Instant::now();
    load(100).await;
    let without = began.elapsed();
    collector.again();
    let began = Instant::now();
    load(100).await;
    let with = began.elapsed();
    // A task that waited for the collector would wait for its time limit, ten seconds.
    assert!(without < with * 3 + Duration::from_secs(2), "{without:?} without the collector, {with:?} with it");
    let metrics = reqwest::get(format!("http://{}/metrics", node.address)).await.unwrap().text().await.unwrap();
    let count = |outcome: &str| -> f64 {
        let line = metrics.lines().find(|l| l.starts_with("vyr_telemetry_spans_total") && l.contains(outcome));
        line.and_then(|l| l.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
    };
    assert!(count("dropped") + count("failed") > 0.0 && count("exported") > 0.0, "{metrics}");
    println!("spans: {} exported, {} failed, {} dropped", count("exported"), count("failed"), count("dropped"));
    // And the collector sees tasks again.
    let mut client = node.connect().await;
    let seen = async {
        loop {
            let task = client.run(spec(&hello, &[])).await;
            for _ in 0..20 {
                if has(&names(&collector.spans(&task.trace_id)), &["task", "execute"]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("a trace after the collector's return");
}

#[tokio::test]
async fn without_a_collector_the_node_itself_says_where_the_time_went() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let mut submit = spec(&sleep, &["50"]);
    submit.env.insert("A".into(), "B".into());
    let cold = client.run(submit.clone()).await;
    let hot = client.run(submit.clone()).await;
    let trace = |id: &str, format: &str| {
        home.vyr(["trace", id, "--output", format, "--node", &format!("http://{}", node.address)]).expect(0).stdout
    };
    let spans = |id: &str| -> Vec<Value> {
        let otlp: Value = serde_json::from_str(&trace(id, "json")).unwrap();
        each(&otlp, &["resourceSpans", "scopeSpans", "spans"]).into_iter().cloned().collect()
    };
    let cold_spans = spans(&cold.id);
    let wanted = ["task", "prepare", "resolve", "verify", "compile", "persist", "instantiate", "execute"];
    assert!(has(&names(&cold_spans), &wanted), "{cold_spans:#?}");
    assert!(cold_spans.iter().all(|s| s["traceId"] == cold.trace_id.as_str()));
    let hot_spans = spans(&hot.id);
    assert!(!has(&names(&hot_spans), &["prepare"]) && has(&names(&hot_spans), &["instantiate", "execute"]));
    let text = trace(&cold.id, "text");
    let execute = text.lines().find(|l| l.contains("execute")).unwrap();
    assert!(execute.starts_with('*') && execute.contains('█'), "{text}");
    home.vyr(["trace", "0199f0c2-6d0e-7c3a-9a51-0f6f1c6f2a10", "--node", &format!("http://{}", node.address)])
        .expect(127)
        .says(&["no task"]);

    // Nobody would see what a guest sends, unless the submit is in a trace.
    let echo = pushed(&home, &registry, "echo-env");
    let without = client.run(spec(&echo, &[])).await;
    assert!(!client.stdout(&without.id).await.contains("TRACEPARENT"));
    let mut with = spec(&echo, &[]);
    with.traceparent = format!("00-{TRACE}-{PARENT}-01");
    let with = client.run(with).await;
    assert!(client.stdout(&with.id).await.contains(&format!("TRACEPARENT=00-{TRACE}-")));

    // Another try of the same submit is in another trace, and is the same submit.
    let keyed = |trace: &str| SubmitTaskRequest {
        spec: Some(TaskSpec { traceparent: format!("00-{trace}-{PARENT}-01"), ..submit.clone() }),
        idempotency_key: "once".into(),
        wait: seconds(60),
    };
    let first = client.0.submit_task(keyed(TRACE)).await.unwrap().into_inner();
    let second = client.0.submit_task(keyed(&TRACE.replace('4', "5"))).await.unwrap().into_inner();
    assert!(second.existing && first.task.unwrap().id == second.task.unwrap().id);
}
