//! Faults at the wire between `vyr` and a real registry, docker-registry or the node: what may pass is tried again, what is
//! wrong is an error, credentials go nowhere else, and nothing is kept by halves.

use std::fs;
use std::time::{Duration, SystemTime};

use vyr_guests::guest;

use crate::faults::{nothing_half_written, told};
use crate::support::{Asked, Fault, FaultProxy, Home, Node, Registry, sha256};

/// A registry with an artifact, and a home that has never seen it.
struct Scene {
    upstream: Upstream,
    publisher: Home,
    home: Home,
    digest: String,
    layer: String,
    wasm: Vec<u8>,
}

enum Upstream {
    Docker(Registry),
    Node(Node),
}

const BOTH: [bool; 2] = [false, true];

/// A guest of more than two MiB: what is added is a section that says nothing, and can't be compressed.
fn large() -> Vec<u8> {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let filler: Vec<u8> = (0..2 << 20)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random.to_le_bytes()[3]
        })
        .collect();
    let mut wasm = fs::read(guest("hello-p1")).unwrap();
    wasm.push(0);
    let mut size = filler.len() + 2;
    while size > 0 {
        let low = u8::try_from(size & 0x7f).unwrap();
        size >>= 7;
        wasm.push(if size > 0 { low | 0x80 } else { low });
    }
    wasm.extend([1, b'p']);
    wasm.extend(filler);
    wasm
}

impl Scene {
    fn new(node: bool) -> Self {
        let (publisher, home) = (Home::new(), Home::new());
        let upstream =
            if node { Upstream::Node(Node::start(&publisher, &[])) } else { Upstream::Docker(Registry::start()) };
        let wasm = large();
        let file = publisher.write("large.wasm", &wasm);
        let mut scene = Self { upstream, publisher, home, digest: String::new(), layer: sha256(&wasm), wasm };
        scene.digest = scene.publisher.oras_push(&format!("{}/app:v1", scene.host()), &file);
        scene
    }

    fn host(&self) -> String {
        match &self.upstream {
            Upstream::Docker(registry) => registry.host(),
            Upstream::Node(node) => node.host(),
        }
    }

    fn proxy(&self, script: impl Fn(&Asked, usize) -> Fault + Send + Sync + 'static) -> FaultProxy {
        FaultProxy::start(&self.host(), script)
    }

    /// What spoils the artifact's layer: the first tries by `fault`.
    fn spoiling(&self, times: usize, fault: Fault) -> FaultProxy {
        let layer = self.layer.clone();
        self.proxy(move |asked, before| if asked.gets(&layer) && before < times { fault.clone() } else { Fault::None })
    }

    fn settings(&self, text: &str) {
        fs::create_dir_all(self.home.vyr_home()).unwrap();
        fs::write(self.home.vyr_home().join("config.toml"), format!("[registry]\n{text}\n")).unwrap();
    }

    fn reference(&self, proxy: &FaultProxy) -> String {
        format!("{}/app@{}", proxy.host(), self.digest)
    }

    /// It came, all of it, and runs.
    fn pulled(&self, proxy: &FaultProxy) {
        let reference = self.reference(proxy);
        self.home.vyr(["pull", &reference]).expect(0);
        let kept = fs::read(self.home.store().join("blobs").join(self.layer.replace(':', "/"))).unwrap();
        assert!(kept == self.wasm, "the blob is what was pushed");
        assert_eq!(self.home.vyr(["run", "--allow-unsigned", &reference]).expect(0).stdout, "hello from wasm\n");
    }
}

#[test]
fn a_download_that_breaks_goes_on_where_it_broke() {
    for node in BOTH {
        for fault in [Fault::Cut(700_000), Fault::Reset(500_000), Fault::Cut(0)] {
            let scene = Scene::new(node);
            let proxy = scene.spoiling(2, fault.clone());
            scene.pulled(&proxy);
            let gets: Vec<Asked> = proxy.asked().into_iter().filter(|asked| asked.gets(&scene.layer)).collect();
            assert_eq!(gets.len(), 3, "{fault:?}");
            assert!(gets[0].header("range").is_none());
            let resumed = gets[2].header("range").is_some_and(|range| range != "bytes=0-");
            assert_eq!(resumed, !matches!(fault, Fault::Cut(0)), "{fault:?}: {gets:?}");
        }
    }
}

#[test]
fn what_passes_is_waited_for() {
    for node in BOTH {
        let scene = Scene::new(node);
        let proxy = scene.proxy(|asked, before| match before {
            0 if asked.method != "HEAD" => Fault::Answer("503 Service Unavailable", String::new(), Vec::new()),
            1 => Fault::Delay(Duration::from_millis(300)),
            _ => Fault::None,
        });
        scene.pulled(&proxy);
    }
}

#[test]
fn a_download_that_always_breaks_is_an_error_and_a_later_pull_goes_on() {
    for node in BOTH {
        let scene = Scene::new(node);
        scene.settings("retries = 1");
        // Less than a MiB in all: more would count as progress, and give it more tries.
        let proxy = scene.spoiling(2, Fault::Cut(300_000));
        let reference = scene.reference(&proxy);
        told(scene.home.vyr(["pull", &reference]), 125, &[&reference, "broke"]);
        nothing_half_written(&scene.home);
        scene.pulled(&proxy);
        let last = proxy.asked().into_iter().rfind(|asked| asked.gets(&scene.layer)).unwrap();
        assert!(last.header("range").is_some(), "{last:?}");
    }
}

#[test]
fn a_changed_byte_is_refused_and_not_kept() {
    for node in BOTH {
        let scene = Scene::new(node);
        let proxy = scene.spoiling(usize::MAX, Fault::Corrupt(1_000_000));
        let reference = scene.reference(&proxy);
        told(scene.home.vyr(["pull", &reference]), 126, &[&reference, "digest"]);
        nothing_half_written(&scene.home);
        // What came wrong isn't what a later pull goes on from.
        scene.pulled(&scene.proxy(|_, _| Fault::None));
        let scene = Scene::new(node);
        // And so is one of the manifest, by whichever name it's asked for.
        let proxy = scene.proxy(|asked, _| {
            if asked.method == "GET" && asked.path.contains("/manifests/") { Fault::Corrupt(40) } else { Fault::None }
        });
        for reference in [scene.reference(&proxy), format!("{}/app:v1", proxy.host())] {
            told(scene.home.vyr(["pull", &reference]), 126, &["digest"]);
        }
        nothing_half_written(&scene.home);
    }
}

#[test]
fn an_answer_of_another_length_is_refused() {
    for node in BOTH {
        let scene = Scene::new(node);
        let proxy = scene.spoiling(usize::MAX, Fault::Truncate(100_000));
        let reference = scene.reference(&proxy);
        told(scene.home.vyr(["pull", &reference]), 126, &["100000 bytes"]);
        nothing_half_written(&scene.home);
    }
}

#[test]
fn a_registry_that_says_nothing_is_given_up() {
    let scene = Scene::new(true);
    scene.settings("retries = 1\nread-timeout-seconds = 1");
    let proxy = scene.spoiling(usize::MAX, Fault::Delay(Duration::from_secs(30)));
    let output = told(scene.home.vyr(["pull", &scene.reference(&proxy)]), 125, &["did not answer in time"]);
    assert!(output.took < Duration::from_secs(15), "{:?}", output.took);
    nothing_half_written(&scene.home);
}

/// A file for `vyr push`, which makes an artifact of it.
fn to_push(scene: &Scene) -> String {
    scene.home.write("own.wasm", &scene.wasm).to_str().unwrap().to_owned()
}

#[test]
fn a_push_that_breaks_is_sent_again_and_lies_whole() {
    for node in BOTH {
        for (what, fault) in [
            ("cut", Fault::CutUpload(1_000_000)),
            ("lost", Fault::Lose),
            ("refused once", Fault::Answer("502 Bad Gateway", String::new(), Vec::new())),
        ] {
            let scene = Scene::new(node);
            let broke = std::sync::atomic::AtomicBool::new(false);
            // The first request that brings a body of that size, and the first manifest.
            let proxy = scene.proxy(move |asked, before| {
                let long = asked.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0_u64) > 1 << 20;
                let manifest = asked.method == "PUT" && asked.path.contains("/manifests/") && before == 0;
                let first = long && !broke.swap(true, std::sync::atomic::Ordering::Relaxed);
                if first || (manifest && !matches!(fault, Fault::CutUpload(_))) { fault.clone() } else { Fault::None }
            });
            let file = to_push(&scene);
            let pushed = scene.home.vyr(["push", &format!("{}/pushed:v1", proxy.host()), &file]).expect(0);
            assert!(pushed.took < Duration::from_secs(20), "{what} took {:?}", pushed.took);
            let pushed = pushed.stdout.trim().replace(&proxy.host(), &scene.host());
            let digest = pushed.rsplit_once('@').unwrap().1.to_owned();
            assert_eq!(scene.publisher.crane_digest(&format!("{}/pushed:v1", scene.host())), digest, "{what}");
            scene.publisher.tool("crane", ["validate", "--remote", &format!("{}/pushed:v1", scene.host())]);
            let reader = Home::new();
            reader.vyr(["run", "--allow-unsigned", &pushed]).expect(0);
            // A fault happened at all.
            let posts = proxy.asked().iter().filter(|a| a.method == "POST" && a.path.contains("/uploads/")).count();
            assert!(posts > 2 || what == "refused once" || what == "lost", "{what}: {posts}");
        }
    }
}

#[test]
fn a_push_whose_bytes_change_on_the_way_is_refused_by_the_registry() {
    for node in BOTH {
        let scene = Scene::new(node);
        let proxy = scene.proxy(|asked, _| {
            let length = asked.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0_u64);
            if length > 1 << 20 { Fault::CorruptUpload(1_000_000) } else { Fault::None }
        });
        let file = to_push(&scene);
        let reference = format!("{}/pushed:v1", proxy.host());
        told(scene.home.vyr(["push", &reference, &file]), 125, &[&reference, "digest"]);
        let found = scene.publisher.tool("crane", ["manifest", &format!("{}/pushed:v1", scene.host())]);
        assert_ne!(found.status, 0, "nothing stands under the tag");
    }
}

fn http_date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at)
}

#[test]
fn a_registry_that_asks_to_wait_is_waited_for_within_bounds() {
    for node in BOTH {
        let scene = Scene::new(node);
        let layer = scene.layer.clone();
        let proxy = scene.proxy(move |asked, before| {
            let after = match (asked.gets(&layer), before) {
                (true, 0) => "2".to_owned(),
                (true, 1) => http_date(SystemTime::now() + Duration::from_secs(3)),
                _ => return Fault::None,
            };
            Fault::Answer("429 Too Many Requests", format!("Retry-After: {after}\r\n"), b"slowly".to_vec())
        });
        let began = std::time::Instant::now();
        scene.pulled(&proxy);
        // A date has whole seconds: three from now are between two and three.
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(proxy.asked().iter().filter(|asked| asked.gets(&scene.layer)).count(), 3);
    }
    for after in ["86400".to_owned(), http_date(SystemTime::now() + Duration::from_secs(86_400))] {
        let scene = Scene::new(true);
        let more = format!("Retry-After: {after}\r\n");
        let proxy = scene.spoiling(usize::MAX, Fault::Answer("429 Too Many Requests", more, Vec::new()));
        let output = told(scene.home.vyr(["pull", &scene.reference(&proxy)]), 125, &["429", "asks to wait 86"]);
        assert!(output.took < Duration::from_secs(10), "{:?}", output.took);
        assert_eq!(proxy.asked().iter().filter(|asked| asked.gets(&scene.layer)).count(), 1);
        nothing_half_written(&scene.home);
    }
}

#[test]
fn a_push_that_is_asked_to_wait_waits() {
    for node in BOTH {
        let scene = Scene::new(node);
        // Two blobs at once, each with the upload's own request and the question how long.
        let proxy = scene.proxy(|asked, before| {
            if asked.method == "POST" && asked.path.ends_with("/blobs/uploads/") && before < 4 {
                Fault::Answer("429 Too Many Requests", "Retry-After: 2\r\n".into(), Vec::new())
            } else {
                Fault::None
            }
        });
        let file = to_push(&scene);
        let began = std::time::Instant::now();
        scene.home.vyr(["push", &format!("{}/pushed:v1", proxy.host()), &file]).expect(0);
        assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());

        let proxy = scene.proxy(|asked, _| {
            if asked.method == "POST" && asked.path.ends_with("/blobs/uploads/") {
                Fault::Answer("429 Too Many Requests", "Retry-After: 3600\r\n".into(), Vec::new())
            } else {
                Fault::None
            }
        });
        let output = told(scene.home.vyr(["push", &format!("{}/again:v1", proxy.host()), &file]), 125, &["429"]);
        assert!(output.took < Duration::from_secs(10), "{:?}", output.took);
    }
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let registry = Registry::with_password();
    let (publisher, home) = (Home::new(), Home::new());
    publisher.log_in(&registry);
    let wasm = large();
    let layer = sha256(&wasm);
    let file = publisher.write("large.wasm", &wasm);
    let digest = publisher.oras_push(&registry.reference("app", "v1"), &file);
    // Where the blobs really lie, as with registries that keep them in a store of objects.
    let elsewhere = FaultProxy::start(&registry.host(), {
        let wasm = wasm.clone();
        move |_, before| match before {
            0 => Fault::Answer("503 Service Unavailable", String::new(), Vec::new()),
            _ => Fault::Answer("200 OK", String::new(), wasm.clone()),
        }
    });
    let away = format!("Location: http://127.0.0.1:{}/signed?key=x\r\n", elsewhere.host().rsplit(':').next().unwrap());
    let proxy = FaultProxy::start(&registry.host(), {
        let layer = layer.clone();
        move |asked, _| {
            if asked.gets(&layer) && asked.header("authorization").is_some() {
                Fault::Answer("307 Temporary Redirect", away.clone(), Vec::new())
            } else {
                Fault::None
            }
        }
    });
    home.credentials(&proxy.host(), crate::support::USER, crate::support::PASSWORD);
    home.vyr(["pull", &format!("{}/app@{digest}", proxy.host())]).expect(0);
    assert!(proxy.asked().iter().any(|asked| asked.header("authorization").is_some()), "it was logged in");
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for asked in asked {
        assert!(asked.header("authorization").is_none() && asked.header("cookie").is_none(), "{asked:?}");
        assert_eq!(asked.path, "/signed?key=x");
    }
    let kept = fs::read(home.store().join("blobs").join(layer.replace(':', "/"))).unwrap();
    assert!(kept == wasm);
}

#[test]
fn credentials_do_not_follow_an_upload_to_another_host() {
    let registry = Registry::with_password();
    let home = Home::new();
    let file = home.write("large.wasm", large()).to_str().unwrap().to_owned();
    let elsewhere = FaultProxy::start(&registry.host(), |_, _| {
        Fault::Answer("201 Created", "Location: /v2/app/blobs/x\r\n".into(), Vec::new())
    });
    // Another port of the same host is another host.
    let away = format!("Location: http://{}/upload/1?key=x\r\n", elsewhere.host());
    let proxy = FaultProxy::start(&registry.host(), move |asked, _| {
        if asked.method == "POST" && asked.header("authorization").is_some() {
            Fault::Answer("202 Accepted", away.clone(), Vec::new())
        } else {
            Fault::None
        }
    });
    home.credentials(&proxy.host(), crate::support::USER, crate::support::PASSWORD);
    // The registry itself has got nothing, and says so when the manifest comes.
    told(home.vyr(["push", &format!("{}/app:v1", proxy.host()), &file]), 125, &["MANIFEST_BLOB_UNKNOWN"]);
    let asked = elsewhere.asked();
    assert!(asked.len() >= 2 && asked.iter().all(|a| a.method == "PUT"), "{asked:?}");
    assert!(asked.iter().all(|a| a.header("authorization").is_none() && a.header("cookie").is_none()), "{asked:?}");
}

#[test]
fn without_the_referrers_api_the_tag_stands_in() {
    for node in BOTH {
        let scene = Scene::new(node);
        let proxy = scene.proxy(|asked, _| {
            if asked.path.contains("/referrers/") {
                Fault::Answer("404 Not Found", "Content-Type: text/plain\r\n".into(), b"404 page not found\n".to_vec())
            } else {
                Fault::Strip("oci-subject")
            }
        });
        let file = to_push(&scene);
        let reference = format!("{}/signed:v1", proxy.host());
        let pushed = scene.home.vyr(["push", &reference, &file]).expect(0).stdout.trim().to_owned();
        let digest = pushed.rsplit_once('@').unwrap().1;
        let tag = digest.replace(':', "-");
        scene.publisher.tool("crane", ["manifest", &format!("{}/signed:{tag}", scene.host())]).expect(0);
        let reader = Home::new();
        reader.trust(&scene.home.machine_key());
        reader.vyr(["run", &pushed]).expect(0);
        let asked = proxy.asked();
        assert!(asked.iter().any(|a| a.path.contains("/referrers/")));
        assert!(asked.iter().any(|a| a.method == "GET" && a.path.ends_with(&format!("/manifests/{tag}"))), "{asked:?}");
    }
}
