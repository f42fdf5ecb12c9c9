//! Makes the seeds anew, but for those of signatures (`trust::tests::keyless::seeds_for_fuzzing`).

use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
use vyr_proto::v0::put_artifact_request::Part;
use vyr_proto::v0::*;

use crate::task::TaskId;

#[test]
#[ignore = "makes fuzz/seeds anew"]
fn for_each_target() {
    let write = |name: &str, bytes: &[u8]| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    for (number, text) in [
        "localhost:5000/app:v1",
        &format!("localhost:5000/a/b@sha256:{hex}"),
        &format!("ghcr.io/acme/app:v1.2_x@sha256:{hex}"),
        "ubuntu",
        "docker.io/library/alpine:3",
        "oci:/tmp/layout:localhost:5000/app:v1",
        &format!("oci:x@sha256:{hex}"),
        &format!("sha256:{hex}"),
        &format!("sha512:{hex}{hex}"),
        &format!("sha256-{hex}.sig"),
        "segment-0123456789abcdef-17",
        "[::1]:8080",
        "example.com:*",
        "readings.v1",
        "https://localhost/app",
    ]
    .iter()
    .enumerate()
    {
        write(&format!("reference/{number:02}"), text.as_bytes());
    }

    let descriptor =
        |kind: &str, more: &str| format!(r#"{{"mediaType":"{kind}","digest":"sha256:{hex}","size":7{more}}}"#);
    let wasm = descriptor("application/wasm", "");
    let config = |kind: &str| descriptor(kind, "");
    let image = |media: &str, config: &str, layers: &str, more: &str| {
        format!(r#"{{"schemaVersion":2,"mediaType":"{media}","config":{config},"layers":[{layers}]{more}}}"#)
    };
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let platform =
        |os: &str, arch: &str| descriptor(manifest, &format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#));
    let segment = crate::state::Segment {
        name: "readings".into(),
        lineage: "0190a0a0-0000-7000-8000-000000000000".into(),
        writer: crate::state::WriterId::parse("0123456789abcdef").unwrap(),
        seq: 2,
        previous: Some(crate::oci::sha256(b"before")),
        sealed: std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        kind: crate::state::SegmentKind::Outbox,
        layer: crate::oci::sha256(b"layer"),
        size: 2048,
    };
    for (name, json) in [
        ("cncf.json", image(manifest, &config("application/vnd.wasm.config.v0+json"), &wasm, "")),
        ("oras.json", image(manifest, &config("application/vnd.oci.empty.v1+json"), &wasm, r#","artifactType":"a/b""#)),
        (
            "legacy.json",
            image(
                manifest,
                &config("application/vnd.wasm.config.v1+json"),
                &descriptor("application/vnd.wasm.content.layer.v1+wasm", ""),
                "",
            ),
        ),
        (
            "docker.json",
            image(
                docker,
                &config("application/vnd.docker.container.image.v1+json"),
                &descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", ""),
                "",
            ),
        ),
        (
            "referrer.json",
            image(
                manifest,
                &config("application/vnd.oci.empty.v1+json"),
                &descriptor("application/vnd.dev.sigstore.bundle.v0.3+json", ""),
                &format!(r#","subject":{},"annotations":{{"a":"b"}}"#, descriptor(manifest, "")),
            ),
        ),
        (
            "dual.json",
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{},{}]}}"#,
                platform("wasip2", "wasm"),
                platform("linux", "amd64"),
                descriptor("application/vnd.oci.image.index.v1+json", "")
            ),
        ),
        (
            "list.json",
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[{}]}}"#,
                platform("linux", "arm64")
            ),
        ),
        (
            "config.json",
            format!(
                r#"{{"architecture":"wasm","os":"wasip1","config":{{"Entrypoint":["/app/main.wasm","-v"],"Cmd":["x"],"Env":["A=B"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{hex}"]}}}}"#
            ),
        ),
        ("segment.json", String::from_utf8(segment.manifest()).unwrap()),
        (
            "base.json",
            String::from_utf8(
                crate::state::Base {
                    lineage: segment.lineage.clone(),
                    writer: segment.writer.clone(),
                    from: 1,
                    first: 2,
                    previous: None,
                }
                .manifest(),
            )
            .unwrap(),
        ),
    ] {
        write(&format!("manifest/{name}"), json.as_bytes());
    }

    let tar = |entries: &[(tar::EntryType, &str, &str, &[u8])]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, target, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.set_mtime(1_600_000_000);
            if !target.is_empty() {
                header.set_link_name(target).unwrap();
            }
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let plain = tar(&[
        (Directory, "etc/", "", b""),
        (Regular, "etc/passwd", "", b"root"),
        (Symlink, "l", "/etc", b""),
        (Link, "h", "etc/passwd", b""),
    ]);
    let whiteouts = tar(&[
        (Regular, "a/b", "", b"x"),
        (Regular, "a/.wh.b", "", b""),
        (Regular, "a/.wh..wh..opq", "", b""),
        (Fifo, "pipe", "", b""),
    ]);
    let long = tar(&[
        (Regular, &"d/".repeat(80), "", b""),
        (Symlink, "up", "../../../../..", b""),
        (Regular, "up/x", "", b"in"),
    ]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    for (name, how, bytes) in [
        ("plain", 0, plain.clone()),
        ("plain-flat-user", 3, plain.clone()),
        ("whiteouts", 1, whiteouts.clone()),
        ("long", 0, long),
        ("gzip", 4, gzip(&plain)),
        ("zstd", 9, zstd::encode_all(&whiteouts[..], 3).unwrap()),
        // A link out, then files through it; in the second archive a whiteout through it.
        ("links", 12, [[6, 2, 7, 3, 1], [0, 3, 0, 100, 4], [0, 6, 0, 9, 1], [4, 3, 10, 0, 0]].concat()),
        ("links-flat", 13, [[6, 2, 8, 3, 1], [4, 200, 11, 0, 0], [13, 4, 2, 7, 9], [0, 16, 0, 0, 0]].concat()),
        (
            "headers",
            14,
            [[18, 6, 7, 1, 9], [0, 0, 0, 0, 3], [19, 20, 13, 1, 9], [6, 2, 1, 0, 0], [10, 2, 1, 9, 9]].concat(),
        ),
    ] {
        write(&format!("layer/{name}"), &[&[how], &bytes[..]].concat());
    }

    for (name, steps) in [
        ("chunks", &[0, 0, 0, 1, 0, 2, 0, 9, 0, 1, 0, 2, 1, 30, 0, 3, 0, 1, 2, 5, 0, 0][..]),
        ("other-algorithm", &[0, 1, 2, 1, 0, 0, 0, 200, 0, 3, 0, 0, 0, 0, 1, 0]),
        ("wrong-digest", &[0, 0, 1, 1, 0, 1, 0, 20, 0, 3, 0, 0, 0, 0, 0, 3, 0, 0, 0, 5, 0]),
        (
            "wrong-ranges",
            &[0, 0, 0, 1, 0, 3, 0, 9, 0, 1, 0, 4, 0, 9, 0, 1, 0, 5, 0, 9, 0, 1, 0, 7, 0, 9, 0, 3, 0, 2, 0, 9, 0, 0],
        ),
        ("restart", &[0, 0, 0, 1, 0, 1, 0, 50, 0, 8, 1, 0, 2, 0, 50, 0, 3, 0, 0, 0, 0, 0, 0]),
        ("whole-and-mount", &[6, 0, 0, 40, 0, 0, 7, 0, 0, 1, 7, 0, 1, 0, 9, 1, 0, 5, 0]),
        ("two-at-once", &[0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 8, 0, 1, 1, 1, 1, 8, 0, 5, 0, 3, 0, 1, 0, 0, 0, 0]),
    ] {
        write(&format!("upload/{name}"), steps);
    }
    for (name, text) in [
        ("anything-get", format!("GET\n/v2/a/blobs/sha256:{hex}\nrange: bytes=0-1\naccept: */*\n\n")),
        ("anything-put", "PUT\n/v2/a%2fb/manifests/v1\ncontent-type: application/vnd.oci.image.index.v1+json\n\n{\"schemaVersion\":2}".into()),
        ("anything-token", "GET\n/v2/token?service=vyr&scope=repository:a:pull,push&scope=x\nauthorization: Basic YTpi\n\n".into()),
        ("anything-listing", "GET\n/v2/_catalog?n=1&last=a\n\n".into()),
    ] {
        write(&format!("upload/{name}"), &[&[10], text.as_bytes()].concat());
    }

    let spec = TaskSpec {
        reference: format!("localhost:5000/app@sha256:{hex}"),
        args: vec!["a".into(), "b c".into()],
        env: [("A".to_owned(), "b".to_owned())].into(),
        stdin: b"in".to_vec().into(),
        limits: Some(Limits { timeout: Some(prost_types::Duration { seconds: 5, nanos: 1 }), ..Limits::default() }),
        retry: Some(RetryPolicy { max_attempts: 3, on: vec![1], ..RetryPolicy::default() }),
        allow_net: vec!["example.com:443".into(), "[::1]:*".into()],
        states: vec![StateBinding { state: "readings".into(), alias: "data".into(), ..StateBinding::default() }],
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..TaskSpec::default()
    };
    let submit = SubmitTaskRequest { spec: Some(spec), idempotency_key: "k".into(), ..SubmitTaskRequest::default() };
    let container = TaskSpec {
        reference: "ghcr.io/a/b:v1".into(),
        path: ExecutionPath::Container.into(),
        container: Some(Container { user: "1:2".into(), working_dir: "/x".into(), pids: 7, ..Container::default() }),
        ..TaskSpec::default()
    };
    let container = SubmitTaskRequest { spec: Some(container), ..SubmitTaskRequest::default() };
    let layer = b"\0asm\x01\0\0\0";
    let digest = |bytes: &[u8]| crate::oci::sha256(bytes).to_string();
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"{manifest}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/wasm","digest":"{}","size":8}}]}}"#,
        digest(b"{}"),
        digest(layer)
    );
    let header = PutArtifactHeader {
        digest: digest(json.as_bytes()),
        manifest: json.into_bytes().into(),
        media_type: manifest.into(),
        tag: "localhost:5000/app:v1".into(),
        ..PutArtifactHeader::default()
    };
    let chunk = |bytes: &[u8]| Part::Chunk(BlobChunk { digest: digest(bytes), data: bytes.to_vec().into() });
    let mut put = Vec::new();
    for part in [Part::Header(header), chunk(layer), chunk(b"{}")] {
        let message = PutArtifactRequest { part: Some(part) }.encode_to_vec();
        put.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        put.extend(message);
    }
    let id = TaskId::new().to_string();
    let state = CreateStateRequest {
        name: "readings".into(),
        class: StateClass::Synced.into(),
        quota_bytes: 1 << 20,
        sync_target: "localhost:5000/readings".into(),
        time_to_live: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..CreateStateRequest::default()
    };
    let binding = ArtifactBinding { artifact: "localhost:5000/app:v1".into(), alias: "data".into(), read_only: true };
    let bind = BindStateRequest { state: "readings".into(), binding: Some(binding) };
    for (name, call, message) in [
        ("submit", 0, submit.encode_to_vec()),
        ("submit-container", 0, container.encode_to_vec()),
        ("put", 1, put),
        ("get-artifact", 2, GetArtifactRequest { reference: "localhost:5000/app:v1".into() }.encode_to_vec()),
        ("list-artifacts", 3, ListArtifactsRequest { page_size: 2, page_token: digest(b"") }.encode_to_vec()),
        ("cancel", 4, CancelTaskRequest { id: id.clone(), ..CancelTaskRequest::default() }.encode_to_vec()),
        (
            "list-tasks",
            6,
            ListTasksRequest {
                page_token: "7".into(),
                statuses: vec![1, 4],
                submitter: "me".into(),
                labels: [("k".to_owned(), "v".to_owned())].into(),
                ..ListTasksRequest::default()
            }
            .encode_to_vec(),
        ),
        ("logs", 8, StreamLogsRequest { id, follow: true, offset: 9, ..StreamLogsRequest::default() }.encode_to_vec()),
        ("create-state", 11, state.encode_to_vec()),
        ("bind-state", 12, bind.encode_to_vec()),
        ("list-states", 14, ListStatesRequest { page_token: "a".into(), page_size: 3 }.encode_to_vec()),
    ] {
        write(&format!("request/{name}"), &[&[call], &message[..]].concat());
    }

    let trust = |name: &str| {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/trust").join(name)).unwrap()
    };
    let key = trust("key.pub");
    for (name, text) in [
        ("none.toml", "version = 1\ndefault = \"reject\"\n".to_owned()),
        ("unsigned.toml", "version = 1\ndefault = 'accept-unsigned'\ntrust-machine-key = false\n".into()),
        ("rules.toml", trust("trust.toml")),
        ("inline.toml", format!("version = 1\n[[rule]]\nrepository = 'localhost:5000/team/'\nkeys = ['''{key}''', 'k.pub']\n# a remark\n[[compiled]]\nrepository = 'ghcr.io'\nkeys = ['c.pub']\n")),
        ("reject.toml", "version = 1\n[[rule]]\nrepository = 'localhost:5000/team/app'\naction = 'reject'\n[[rule]]\nrepository = 'Index.docker.io/library'\naction = 'accept-unsigned'\n".into()),
        ("grants.json", serde_json::to_string(&[
            serde_json::json!({"repository": "localhost:5000/team", "signer": {"kind": "key", "pem": key}}),
            serde_json::json!({"repository": "", "signer": {"kind": "identity", "identity": "https://github.com/acme/.*", "regexp": true, "issuer": "i", "trusted-root": "{}"}}),
        ]).unwrap()),
    ] {
        write(&format!("policy/{name}"), text.as_bytes());
    }
    for (name, text) in [
        ("config.toml", "trust-policy = 'trust.toml'\noffline = true\ncode-cache-bytes = 1000000\nwithout = ['wasi:sockets']\n[registry]\nplain-http = ['r:5000']\nretries = 2\n[serve]\nlisten = '127.0.0.1:0'\nkeep-hours = 24\n[state]\nseal-seconds = 5\n".to_owned()),
        ("mirrors.toml", "[[mirror]]\nprefix = 'ghcr'\nupstream = 'ghcr.io'\n[[mirror]]\nprefix = 'hub/ours'\nupstream = 'example.com:5000/team'\n".into()),
        ("tokens", format!("# who may call\nci sha256:{hex} read:* write:team/app\nlaptop sha256:{hex}\n")),
        ("empty", String::new()),
    ] {
        write(&format!("settings/{name}"), text.as_bytes());
    }
}
