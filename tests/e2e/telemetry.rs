//! What leaves by OTLP: the spans of one run, received over HTTP by a listener of the test's own.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use vyr_guests::guest;

use crate::support::{Home, Registry};

/// Accepts OTLP/HTTP posts and hands on their bodies.
fn receiver() -> (String, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender) = (stream.unwrap(), sender.clone());
            std::thread::spawn(move || {
                let (mut bytes, mut chunk) = (Vec::new(), [0_u8; 65536]);
                loop {
                    let count = stream.read(&mut chunk).unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    bytes.extend_from_slice(&chunk[..count]);
                    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
                    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
                    let length: usize =
                        head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok()).unwrap();
                    if bytes.len() >= end + 4 + length {
                        assert!(head.starts_with("post /v1/traces "), "{head}");
                        sender.send(bytes[end + 4..end + 4 + length].to_vec()).unwrap();
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
                        bytes.drain(..end + 4 + length);
                    }
                }
            });
        }
    });
    (endpoint, bodies)
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|w| w == text)
}

#[test]
fn each_step_of_a_run_is_a_span_in_the_caller_s_trace() {
    let (registry, home) = (Registry::start(), Home::new());
    let pushed = home.vyr(["push", &registry.reference("app", "v1"), guest("hello").to_str().unwrap()]).expect(0);
    let other = Home::new();
    other.trust(&home.machine_key());
    let (endpoint, bodies) = receiver();
    let trace = [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];
    let ran = other
        .vyr_command(["run", pushed.stdout.trim()])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("TRACEPARENT", format!("00-{}-00f067aa0ba902b7-01", hex::encode(trace)))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let mut all = Vec::new();
    while let Ok(body) =
        bodies.recv_timeout(if all.is_empty() { Duration::from_secs(10) } else { Duration::from_millis(300) })
    {
        all.extend(body);
    }
    // Protobuf keeps strings and identifiers as they are.
    for span in ["run", "resolve", "pull", "verify", "compile", "instantiate", "execute"] {
        let field = [&[u8::try_from(span.len()).unwrap()], span.as_bytes()].concat();
        assert!(has(&all, &field), "no span `{span}` in {} bytes", all.len());
    }
    let digest = pushed.stdout.trim().split_once('@').unwrap().1;
    assert!(has(&all, digest.as_bytes()), "the digest is a field");
    assert!(has(&all, &trace), "the spans belong to the caller's trace");
}

#[test]
fn a_collector_that_is_not_there_fails_nothing() {
    let (registry, home) = (Registry::start(), Home::new());
    let pushed = home.vyr(["push", &registry.reference("app", "v1"), guest("hello").to_str().unwrap()]).expect(0);
    let ran = home
        .vyr_command(["run", pushed.stdout.trim()])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "hello from wasm\n");
}
