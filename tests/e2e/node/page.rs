//! The status page: in a real browser, and at the wire.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Client as Http, Response};
use serde_json::{Value, json};
use vyr_proto::v0::*;

use crate::support::{Client, Home, Node, Registry, pushed, run, spec, tool};

/// Pushes a guest under a name that people could have given it.
#[track_caller]
fn named(home: &Home, registry: &Registry, guest: &str, name: &str) -> String {
    let wasm = vyr_guests::guest(guest);
    home.vyr(["push", &registry.reference(name, "v1"), wasm.to_str().unwrap()]).expect(0).stdout.trim().to_owned()
}

fn labelled(mut spec: TaskSpec, labels: &[(&str, &str)]) -> TaskSpec {
    spec.labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    spec
}

/// The fonts that text is shown in: the same on each machine, so that pictures differ by what they show.
fn fonts(home: &Home) -> PathBuf {
    let font = tool("fonts");
    let config = format!(
        "<?xml version=\"1.0\"?><fontconfig><dir>{}</dir><cachedir prefix=\"xdg\">fontconfig</cachedir><match \
         target=\"pattern\"><edit name=\"family\" mode=\"append_last\"><string>Liberation Sans</string></edit></match>\
         </fontconfig>",
        font.parent().unwrap().display()
    );
    home.write("fonts.conf", config)
}

/// Where the pictures go: into the documentation, if that is asked for with `VYR_UPDATE_SCREENSHOTS=1`.
fn shots(home: &Home) -> PathBuf {
    match std::env::var_os("VYR_UPDATE_SCREENSHOTS") {
        Some(_) => Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/img"),
        None => home.work(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_what_the_node_does() {
    let (registry, home) = (Registry::start(), Home::new());
    let [report, resize, clean, index, tick] = [
        ("echo-env-p1", "billing/monthly-report"),
        ("trap", "media/resize-images"),
        ("exit-p1", "events/clean"),
        ("noisy-p1", "search/build-index"),
        ("sleep-p1", "edge/collect-metrics"),
    ]
    .map(|(guest, name)| named(&home, &registry, guest, name));
    let unsigned = registry.reference("tools/unsigned", "v3");
    let unsigned = format!("{unsigned}@{}", home.oras_push(&unsigned, &vyr_guests::guest("hello-p1")));
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;

    let refused = client.run(labelled(spec(&unsigned, &[]), &[("team", "red")])).await;
    let mut full = spec(&report, &["one", "two words"]);
    full.env.insert("REGION".into(), "north".into());
    full.stdin = (1..=12).map(|n| format!("invoice {n:03} settled\n")).collect::<String>().into();
    let succeeded = client.run(labelled(full, &[("team", "blue"), ("month", "11")])).await;
    let hostile = TaskSpec {
        stdin: "<img src=x onerror=\"window.stolen=1\">\n\u{1b}[31mred text\u{1b}[0m \u{202e}backwards\n".into(),
        ..spec(&report, &["<script>window.stolen=1</script>"])
    };
    let hostile = client.run(labelled(hostile, &[("<b>bold</b>", "\u{1b}]0;title\u{7}\u{202e}")])).await;
    let limits = Some(Limits { log_bytes: 60_000, ..Limits::default() });
    let noisy = client.run(TaskSpec { limits, ..spec(&index, &["200000"]) }).await;
    let trapped = client.run(labelled(spec(&resize, &["unreachable"]), &[("team", "green")])).await;
    client.run(labelled(spec(&clean, &["0"]), &[("team", "blue"), ("day", "tuesday")])).await;
    let failed = client.run(labelled(spec(&clean, &["7"]), &[("team", "blue"), ("day", "wednesday")])).await;
    let timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    let limits = Some(Limits { timeout, ..Limits::default() });
    let timed_out = client.run(TaskSpec { limits, ..spec(&tick, &[]) }).await;
    let stopped = client.submit(spec(&tick, &[])).await;
    client.until(&stopped.id, TaskStatus::Running).await;
    client.cancel(&stopped.id).await;
    let running = client.submit(labelled(spec(&tick, &[]), &[("team", "green")])).await;
    client.until(&running.id, TaskStatus::Running).await;

    let ids = json!({
        "refused": refused.id, "hostile": hostile.id, "noisy": noisy.id, "trapped": trapped.id, "failed": failed.id,
        "timed_out": timed_out.id, "cancelled": stopped.id, "succeeded": succeeded.id, "running": running.id,
    });
    let words = json!({
        "refused": "refused", "hostile": "succeeded", "noisy": "succeeded", "trapped": "failed", "failed": "failed",
        "timed_out": "timed out", "cancelled": "cancelled", "succeeded": "succeeded", "running": "running",
    });
    let (other, mut browser) = (Home::new(), home.command(tool("playwright")));
    let empty = Node::start(&other, &[]);
    let told = json!({
        "url": format!("http://{}/", node.host()), "empty": format!("http://{}/", empty.host()), "ids": ids, "words": words, "sleep": tick, "shots": shots(&home),
        "vyr": env!("CARGO_BIN_EXE_vyr"), "chromium": tool("chromium"), "pid": node.child.id(),
        "digest": succeeded.execution.unwrap().digest, "name": "billing/monthly-report", "root_span": "task",
    });
    browser.env("FONTCONFIG_FILE", fonts(&home));
    browser.args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/node/page.py"), &told.to_string()]);
    let out = tokio::task::spawn_blocking(move || run(browser, b"")).await.unwrap().expect(0);
    assert!(out.has_line("done"), "{}", out.stdout);
    for name in ["page-light.png", "page-dark.png", "page-phone.png", "page-task.png"] {
        let picture = std::fs::metadata(shots(&home).join(name)).unwrap();
        assert!((10_000..300_000).contains(&picture.len()), "{name} has {} bytes", picture.len());
    }
}

async fn get(node: &Node, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Http::new().get(format!("http://{}{path}", node.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn document(node: &Node, path: &str) -> Value {
    let answer = get(node, path, &[]).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "content-type").as_str()),
        (200, "application/json"),
        "{path}"
    );
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

fn header(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn the_page_is_whole_guarded_and_only_reads() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let page = get(&node, "/", &[]).await;
    assert_eq!((page.status().as_u16(), header(&page, "content-type").as_str()), (200, "text/html; charset=utf-8"));
    for (name, wanted) in [
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(header(&page, name), wanted);
    }
    let policy = header(&page, "content-security-policy");
    for words in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
        assert!(policy.contains(words) && !policy.contains("unsafe"), "{policy}");
    }
    let tag = header(&page, "etag");
    assert_eq!(get(&node, "/", &[("if-none-match", &tag)]).await.status(), 304);
    assert_eq!(get(&node, "/page/app.js", &[]).await.status(), 200);
    for path in ["/page/nothing.js", "/page/v0/nothing", "/page/v0/tasks/01a213d9-6b35-7763-a12b-196331e176a7"] {
        let answer = get(&node, path, &[]).await;
        assert_eq!(answer.status(), 404, "{path}");
        let error: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        assert!(error["error"]["why"].is_string(), "{error}");
    }
    for path in
        ["/page/v0/tasks/nonsense", "/page/v0/tasks?status=nonsense", "/page/v0/tasks?before=x", "/page/v0/artifacts/x"]
    {
        assert_eq!(get(&node, path, &[]).await.status(), 400, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let answer =
            Http::new().request(method, format!("http://{}/page/v0/tasks", node.address)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "allow").as_str()), (405, "GET, HEAD"));
    }
    // A name of somebody else's that means this machine, and somebody else's page.
    for path in ["/", "/page/v0/tasks", "/page/v0/events"] {
        assert_eq!(get(&node, path, &[("host", "evil.example")]).await.status(), 421, "{path}");
    }
    assert_eq!(get(&node, "/page/v0/tasks", &[("sec-fetch-site", "cross-site")]).await.status(), 403);
    let asked = get(&node, "/page/v0/node", &[("origin", "http://evil.example")]).await;
    assert_eq!(header(&asked, "access-control-allow-origin"), "");
    // Nor may a page do by the API what the status page doesn't.
    let call = Http::new().post(format!("http://{}/vyr.control.v0.Control/GetNode", node.address));
    let call = call.header("content-type", "application/grpc").body(vec![0_u8; 5]);
    let by_program = call.try_clone().unwrap().send().await.unwrap();
    assert_eq!(header(&by_program, "grpc-status"), "", "it is answered, and says how at the end");
    let origin = format!("http://{}", node.address);
    let by_page = call.header("origin", &origin).send().await.unwrap();
    assert_eq!(header(&by_page, "grpc-status"), "7");
    // What a page may send without asking first has another content type.
    for (path, origin, status) in [
        ("vyr.control.v0.Control/GetNode", Some(&origin), 403),
        ("vyr.control.v0.Control/GetNode", None, 415),
        ("v2/app/blobs/uploads/", Some(&origin), 403),
        ("v2/app/blobs/uploads/", None, 202),
    ] {
        let call = Http::new().post(format!("http://{}/{path}", node.address)).header("content-type", "text/plain");
        let call = origin.into_iter().fold(call, |call, origin| call.header("origin", origin));
        assert_eq!(call.body(vec![0_u8; 5]).send().await.unwrap().status(), status, "{path} {origin:?}");
    }
    // The frame is not in the way of what else the port answers.
    assert_eq!(get(&node, "/healthz", &[]).await.text().await.unwrap(), "ok\n");
    assert_eq!(get(&node, "/v2/", &[]).await.status(), 200);
}

#[tokio::test]
async fn a_token_is_the_browser_s_password() {
    let home = Home::new();
    let token = home.vyr(["token", "add", "ana"]).expect(0).stdout.trim().to_owned();
    let limited = home.vyr(["token", "add", "ci", "--read", "*"]).expect(0).stdout.trim().to_owned();
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
    for path in ["/", "/page/app.js", "/page/v0/tasks", "/page/v0/events"] {
        let shut = get(&node, path, &[]).await;
        assert_eq!(shut.status(), 401, "{path}");
        assert!(header(&shut, "www-authenticate").starts_with("Basic realm="), "{path}");
    }
    let ask = |password: String| {
        let url = format!("http://{}/page/v0/node", node.address);
        // Whoever has the token may come under the name that they gave the machine.
        Http::new().get(url).header("host", "node.example").basic_auth("whoever", Some(password)).send()
    };
    let answer = ask(token).await.unwrap();
    assert_eq!(answer.status(), 200);
    let told: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(told["caller"], "ana");
    for other in ["vyr_other".to_owned(), limited] {
        let shut = ask(other).await.unwrap();
        assert_eq!(shut.status(), 401, "and the browser asks for another");
        assert!(header(&shut, "www-authenticate").starts_with("Basic realm="));
    }
}

#[tokio::test]
async fn tasks_outputs_and_artifacts_are_told_as_the_command_line_tells_them() {
    let (registry, home) = (Registry::start(), Home::new());
    let [exit, noisy] = ["exit-p1", "noisy-p1"].map(|guest| pushed(&home, &registry, guest));
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let mut ended = Vec::new();
    for (code, team) in [("0", "blue"), ("7", "red"), ("0", "red")] {
        ended.push(client.run(labelled(spec(&exit, &[code]), &[("team", team)])).await.id);
    }
    let told = document(&node, &format!("/page/v0/tasks/{}", ended[1])).await;
    let cli = home.vyr(["status", &ended[1], "--output", "json"]).expect(0).stdout;
    let cli: serde_json::Map<String, Value> = serde_json::from_str(&cli).unwrap();
    for (name, value) in &cli {
        assert_eq!(&told[name], value, "{name}");
    }
    let listed = async |query: &str| {
        let page = document(&node, &format!("/page/v0/tasks?{query}")).await;
        let ids: Vec<String> =
            page["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect();
        (ids, page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(listed("status=failed").await.0, [ended[1].clone()]);
    assert_eq!(listed("label=team%3Dred").await.0, [ended[2].clone(), ended[1].clone()]);
    let (first, next) = listed("limit=2").await;
    assert_eq!(first, [ended[2].clone(), ended[1].clone()]);
    let (rest, next) = listed(&format!("limit=2&before={}", next.unwrap())).await;
    assert_eq!((rest, next), (vec![ended[0].clone()], None));

    // Output comes in pieces of a bounded size.
    let flood = client.run(spec(&noisy, &["1000000"])).await.id;
    let (mut offset, mut bytes, mut pieces) = (0, 0, 0);
    loop {
        let piece = document(&node, &format!("/page/v0/tasks/{flood}/logs?offset={offset}")).await;
        let now: usize = piece["entries"].as_array().unwrap().iter().map(|e| e["data"].as_str().unwrap().len()).sum();
        assert!(now < 400_000, "{now}");
        (bytes, pieces, offset) = (bytes + now, pieces + 1, piece["next"].as_u64().unwrap());
        if piece["last"] == true {
            break;
        }
    }
    assert!(bytes == 1_000_000 && pieces > 2, "{bytes} in {pieces}");
    let trace = document(&node, &format!("/page/v0/tasks/{flood}/trace")).await;
    assert!(trace["spans"].as_array().unwrap().len() >= 3, "{trace}");

    let artifacts = document(&node, "/page/v0/artifacts").await;
    let one = artifacts["artifacts"].as_array().unwrap().iter().find(|a| exit.ends_with(a["digest"].as_str().unwrap()));
    let one = one.unwrap();
    assert_eq!((&one["cache"], &one["form"]), (&"mapped".into(), &"CNCF Wasm artifact".into()), "{one}");
    assert!(one["size"].as_u64().is_some_and(|size| size > 1000), "{one}");
    let trust = document(&node, &format!("/page/v0/artifacts/{}", one["digest"].as_str().unwrap())).await;
    assert_eq!(trust["accepted"], true, "{trust}");
}

/// Reads events until one is `name` and `wanted` of its data.
async fn event(stream: &mut Response, kept: &mut String, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        while let Some((one, rest)) = kept.split_once("\n\n") {
            let found =
                one.strip_prefix(&format!("event: {name}\ndata: ")).map(|data| serde_json::from_str(data).unwrap());
            *kept = rest.to_owned();
            if let Some(found) = found.filter(&wanted) {
                return found;
            }
        }
        assert!(Instant::now() < until, "no such `{name}`");
        let piece = tokio::time::timeout(Duration::from_secs(20), stream.chunk()).await.unwrap().unwrap();
        kept.push_str(std::str::from_utf8(&piece.expect("the stream goes on")).unwrap());
    }
}

#[tokio::test]
async fn changes_are_told_as_they_happen_and_to_few_at_a_time() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let node = Node::start(&home, &[]);
    let mut client: Client = node.connect().await;
    let mut stream = get(&node, "/page/v0/events?view=tasks", &[]).await;
    assert_eq!(header(&stream, "content-type"), "text/event-stream");
    let mut kept = String::new();
    event(&mut stream, &mut kept, "clock", |clock| clock["now"].is_string()).await;
    event(&mut stream, &mut kept, "tasks", |listed| listed["order"] == json!([])).await;
    let task = client.submit(spec(&sleep, &[])).await.id;
    let is = |word: &'static str| {
        let task = task.clone();
        move |listed: &Value| {
            listed["order"] == json!([task]) && listed["tasks"].as_array().unwrap().iter().any(|t| t["status"] == word)
        }
    };
    event(&mut stream, &mut kept, "tasks", is("running")).await;
    event(&mut stream, &mut kept, "node", |node| node["running"] == 1).await;
    let mut one = get(&node, &format!("/page/v0/events?task={task}"), &[]).await;
    let mut of_one = String::new();
    event(&mut one, &mut of_one, "task", |task| task["status"] == "running").await;
    // What runs is known while it does.
    let execution = client.get(&task).await.execution.unwrap();
    assert!(sleep.ends_with(&execution.digest) && execution.acceptance.contains("machine's key"), "{execution:?}");
    client.cancel(&task).await;
    event(&mut stream, &mut kept, "tasks", is("cancelled")).await;
    event(&mut one, &mut of_one, "task", |task| task["status"] == "cancelled" && task["ended_at"].is_string()).await;
    let gone = format!("/page/v0/events?task={}", "01a213d9-6b35-7763-a12b-196331e176a7");
    event(&mut get(&node, &gone, &[]).await, &mut String::new(), "problem", |why| why["kind"] == "not_found").await;

    // Those that are open hold up neither others nor the node's end.
    let mut open = Vec::new();
    let busy = loop {
        let answer = get(&node, "/page/v0/events", &[]).await;
        if answer.status() != 200 {
            break answer;
        }
        open.push(answer);
        assert!(open.len() < 100, "as many as one likes");
    };
    assert_eq!(busy.status(), 503);
    assert_eq!(client.run(spec(&sleep, &["1"])).await.status(), TaskStatus::Succeeded);
    drop(client);
    let began = Instant::now();
    node.terminate();
    assert_eq!(node.wait(), 0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
