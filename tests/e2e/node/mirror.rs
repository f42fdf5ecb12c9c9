//! Repositories of the node that mirror another registry's: pulled once, there without a network.

use std::path::Path;

use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, spec};

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// A home whose node mirrors `registry` below `up/`.
fn mirroring(registry: &Registry) -> Home {
    let home = Home::new();
    std::fs::create_dir_all(home.vyr_home()).unwrap();
    let settings = format!("registry.retries = 0\n[[mirror]]\nprefix = \"up\"\nupstream = \"{}\"\n", registry.host());
    std::fs::write(home.vyr_home().join("config.toml"), settings).unwrap();
    home
}

fn oras_gets(home: &Home, reference: &str, to: &str, wasm: &Path) {
    home.tool("oras", ["pull", "-o", to, reference]).expect(0);
    assert_eq!(std::fs::read(home.work().join(to).join("app.wasm")).unwrap(), std::fs::read(wasm).unwrap());
}

#[tokio::test]
async fn what_was_mirrored_is_pulled_verified_and_run_when_the_registry_is_gone() {
    let mut registry = Registry::start();
    let home = mirroring(&registry);
    let key = home.key("author");
    let wasm = vyr_guests::guest("hello-p1");
    let digest = home.oras_push(&registry.reference("team/app", "v1"), &wasm);
    home.cosign3_sign(&registry.by_digest("team/app", &digest), &key);
    home.cosign2_sign(&registry.by_digest("team/app", &digest), &key);
    let image = home.push_linux_image(&registry.reference("images/busybox", "v1"));

    let node = Node::start(&home, &[]);
    let host = node.host();
    assert_eq!(home.crane_digest(&format!("{host}/up/team/app:v1")), digest);
    oras_gets(&home, &format!("{host}/up/team/app:v1"), "first", &wasm);
    home.tool("crane", words(&format!("validate --remote {host}/up/images/busybox:v1"))).expect(0);
    home.tool("crane", words(&format!("manifest {host}/up/images/busybox:v2"))).expect(1).says(&["MANIFEST_UNKNOWN"]);

    registry.stop();
    assert_eq!(home.crane_digest(&format!("{host}/up/images/busybox:v1")), image.digest);
    home.tool("crane", words(&format!("validate --remote {host}/up/images/busybox:v1"))).expect(0);
    home.tool("crane", words(&format!("manifest {host}/up/never/asked:v1"))).expect(1).says(&["mirrors"]);
    // Elsewhere, with its signatures, by another vyr and by cosign.
    let by_digest = format!("{host}/up/team/app@{digest}");
    let elsewhere = Home::new();
    elsewhere.vyr(["run", &by_digest]).expect(126);
    elsewhere.trust(&key);
    let ran = elsewhere.vyr(["run", &by_digest]).expect(0);
    assert_eq!(ran.stdout, "hello from wasm\n");
    home.cosign_verify("cosign", &by_digest, &key.public).expect(0);
    home.cosign_verify("cosign-older", &by_digest, &key.public).expect(0);
    // Here, under both names: trust is asked for the one that the author signed.
    home.trust(&key);
    let mut client = node.connect().await;
    for name in [by_digest.as_str(), "vyr.localhost/up/team/app:v1", &registry.by_digest("team/app", &digest)] {
        let task = client.run(spec(name, &[])).await;
        assert_eq!(task.status(), TaskStatus::Succeeded, "{name}: {task:?}");
    }
    // A node that may not use the network says the same of what it lacks.
    drop(client);
    node.terminate();
    node.wait();
    let node = Node::start(&home, &["--offline"]);
    let host = node.host();
    oras_gets(&home, &format!("{host}/up/team/app:v1"), "second", &wasm);
    home.tool("crane", words(&format!("manifest {host}/up/never/asked:v1")))
        .expect(1)
        .says(&["the network is forbidden"]);
}

#[test]
fn a_mirror_follows_its_registry_and_takes_no_pushes() {
    let registry = Registry::start();
    let home = mirroring(&registry);
    let node = Node::start(&home, &[]);
    let host = node.host();
    let mirrored = format!("{host}/up/app:v1");
    for guest in ["hello-p1", "echo-env-p1"] {
        let digest = home.oras_push(&registry.reference("app", "v1"), &vyr_guests::guest(guest));
        assert_eq!(home.crane_digest(&mirrored), digest);
    }
    let refused = home.tool("crane", words(&format!("tag {mirrored} v2"))).expect(1);
    refused.says(&["DENIED", "mirror", &registry.host()]);
    home.tool("crane", words(&format!("manifest {host}/up/app:v2"))).expect(1);
    // Engines that say which registry they mean.
    let client = reqwest::blocking::Client::new();
    let status = |meant: &str| {
        let url = format!("http://{host}/v2/app/manifests/v1?ns={meant}");
        client.get(url).send().unwrap().status().as_u16()
    };
    assert_eq!((status(&registry.host()), status("example.com")), (200, 404));
}

#[test]
fn many_who_ask_at_once_have_it_pulled_once() {
    let registry = Registry::start();
    let home = mirroring(&registry);
    let wasm = home.write("big.wasm", vec![7; 24 << 20]);
    home.oras_push(&registry.reference("big", "v1"), &wasm);
    let node = Node::start(&home, &[]);
    let url = format!("{}/up/big:v1", node.host());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (home, url, wasm) = (&home, &url, &wasm);
            scope.spawn(move || oras_gets(home, url, &format!("copy-{number}"), wasm));
        }
    });
    let gets = registry.log().lines().filter(|l| l.contains("GET /v2/big/blobs/")).count();
    // The config and the layer, each once.
    assert_eq!(gets, 2, "{}", registry.log());
}

#[test]
fn a_mirror_that_can_not_be_is_refused_at_the_start() {
    let home = Home::new();
    std::fs::create_dir_all(home.vyr_home()).unwrap();
    let settings = "[[mirror]]\nprefix = \"up\"\nupstream = \"https://example.com\"\n";
    std::fs::write(home.vyr_home().join("config.toml"), settings).unwrap();
    home.vyr(["serve", "--listen", "127.0.0.1:0"]).expect(2).says(&["[[mirror]]", "https://example.com"]);
}
