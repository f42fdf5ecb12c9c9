//! The node's own registry, with the clients that people use, and what runs from it.

use std::time::Duration;

use vyr_proto::v0::*;

use crate::support::{Home, Node, run, sha256, spec, tool};

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn names(json: &str, key: &str) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    json[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

#[test]
fn oras_of_both_ages_pushes_pulls_copies_lists_and_deletes() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let host = node.host();
    let wasm = vyr_guests::guest("hello-p1");
    for oras in ["oras", "oras-older"] {
        let repository = format!("{host}/people/{oras}");
        std::fs::copy(&wasm, home.work().join("app.wasm")).unwrap();
        let pushed = home
            .tool(
                oras,
                [
                    "push",
                    "--format",
                    "go-template={{.digest}}",
                    &format!("{repository}:v1"),
                    "app.wasm:application/wasm",
                ],
            )
            .expect(0);
        let digest = pushed.stdout.trim();
        home.tool(oras, words(&format!("tag {repository}:v1 v2 v3"))).expect(0);
        assert_eq!(home.tool(oras, words(&format!("repo tags {repository}"))).expect(0).stdout, "v1\nv2\nv3\n");
        let pulled = format!("pulled-{oras}");
        home.tool(oras, words(&format!("pull -o {pulled} {repository}@{digest}"))).expect(0);
        assert_eq!(std::fs::read(home.work().join(&pulled).join("app.wasm")).unwrap(), std::fs::read(&wasm).unwrap());

        home.write("sbom.json", "{}");
        home.tool(
            oras,
            words(&format!("attach --artifact-type example/sbom {repository}:v1 sbom.json:application/json")),
        )
        .expect(0);
        let found = home.tool(oras, words(&format!("discover --format json {repository}:v1"))).expect(0).stdout;
        assert!(found.contains("example/sbom"), "{found}");
        let none = home
            .tool(oras, words(&format!("discover --format json --artifact-type example/none {repository}:v1")))
            .expect(0)
            .stdout;
        assert!(!none.contains("example/sbom"), "{none}");

        // Over to another repository with its referrers, and from there to a folder.
        home.tool(oras, words(&format!("cp -r {repository}:v1 {host}/copies/{oras}:v1"))).expect(0);
        let copied =
            home.tool(oras, words(&format!("discover --format json {host}/copies/{oras}:v1"))).expect(0).stdout;
        assert!(copied.contains("example/sbom"), "{copied}");
        home.tool(oras, words(&format!("cp --to-oci-layout {host}/copies/{oras}:v1 layout-{oras}:v1"))).expect(0);

        home.tool(oras, words(&format!("manifest delete -f {repository}@{digest}"))).expect(0);
        home.tool(oras, words(&format!("manifest fetch {repository}:v1"))).expect(1);
        home.tool(oras, words(&format!("manifest fetch {host}/copies/{oras}:v1"))).expect(0);
    }
    let listed = home.tool("oras", words(&format!("repo ls {host}"))).expect(0).stdout;
    assert!(listed.contains("copies/oras\n") && listed.contains("copies/oras-older\n"), "{listed}");
}

#[test]
fn images_come_and_go_by_skopeo_umoci_and_crane() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let host = node.host();
    let image = home.push_linux_image(&format!("{host}/images/busybox:v1"));
    assert_eq!(home.crane_digest(&format!("{host}/images/busybox:v1")), image.digest);
    home.tool("crane", words(&format!("copy {host}/images/busybox:v1 {host}/mounted/busybox:v2"))).expect(0);
    home.tool("crane", words(&format!("validate --remote {host}/mounted/busybox:v2"))).expect(0);
    assert_eq!(home.tool("crane", words(&format!("ls {host}/mounted/busybox"))).expect(0).stdout, "v2\n");
    let catalog = home.tool("crane", words(&format!("catalog {host}"))).expect(0).stdout;
    assert_eq!(catalog, "images/busybox\nmounted/busybox\n");

    let tls = "--src-tls-verify=false --dest-tls-verify=false";
    home.tool("skopeo", words(&format!("copy --insecure-policy {tls} docker://{host}/images/busybox:v1 oci:back:v1")))
        .expect(0);
    home.tool("umoci", ["unpack", "--rootless", "--image", "back:v1", "bundle"]).expect(0);
    assert!(home.work().join("bundle/rootfs/bin/busybox").exists());
    // Docker's own media types, byte for byte.
    home.tool(
        "skopeo",
        words(&format!(
            "copy --insecure-policy {tls} --format v2s2 docker://{host}/images/busybox:v1 docker://{host}/docker:v1"
        )),
    )
    .expect(0);
    let raw =
        home.tool("skopeo", words(&format!("inspect --raw --tls-verify=false docker://{host}/docker:v1"))).expect(0);
    assert!(raw.stdout.contains("application/vnd.docker.distribution.manifest.v2+json"), "{}", raw.stdout);
    assert_eq!(home.crane_digest(&format!("{host}/docker:v1")), sha256(raw.stdout.as_bytes()));
    let tags = home.tool("skopeo", words(&format!("list-tags --tls-verify=false docker://{host}/docker"))).expect(0);
    assert_eq!(names(&tags.stdout, "Tags"), ["v1"]);
    home.tool("skopeo", words(&format!("delete --tls-verify=false docker://{host}/docker:v1"))).expect(0);
    home.tool("crane", words(&format!("manifest {host}/docker:v1"))).expect(1);
    home.tool("crane", words(&format!("delete {host}/mounted/busybox@{}", image.digest))).expect(0);
    home.tool("crane", words(&format!("manifest {host}/mounted/busybox:v2"))).expect(1);
    home.tool("crane", words(&format!("validate --remote {host}/images/busybox:v1"))).expect(0);
}

#[tokio::test]
async fn cosign_signs_there_in_both_forms_and_what_it_signed_runs_with_no_copy_and_no_network() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let (host, key) = (node.host(), home.key("author"));
    let wasm = vyr_guests::guest("hello-p1");
    home.trust(&key);
    for (name, older) in [("two", true), ("three", false)] {
        let reference = format!("{host}/signed/{name}:v1");
        let digest = home.oras_push(&reference, &wasm);
        let by_digest = format!("{host}/signed/{name}@{digest}");
        let refused = client.run(spec(&by_digest, &[])).await;
        assert_eq!(refused.status(), TaskStatus::Refused, "{refused:?}");
        if older {
            home.cosign2_sign(&by_digest, &key);
            home.cosign_verify("cosign-older", &by_digest, &key.public).expect(0);
        } else {
            home.cosign3_sign(&by_digest, &key);
        }
        home.cosign_verify("cosign", &by_digest, &key.public).expect(0);
        let own = format!("vyr.localhost/signed/{name}:v1");
        if older {
            // This form is for one repository, by the name that it had at the signing.
            assert_eq!(client.run(spec(&own, &[])).await.status(), TaskStatus::Refused);
        }
        let own = (!older).then_some(own);
        for reference in [&by_digest, &reference, &digest].into_iter().chain(&own) {
            let task = client.run(spec(reference, &["x"])).await;
            assert_eq!(task.status(), TaskStatus::Succeeded, "{reference}: {task:?}");
            let execution = task.execution.unwrap();
            assert_eq!(execution.digest, digest);
            assert_ne!(execution.tier(), StartTier::S0, "nothing was fetched");
            assert!(home.vyr(["run", reference.as_str(), "--", "y"]).expect(0).has_line("y"));
        }
        // The blob is in the store once, where runs take it from.
        let bytes = std::fs::read(&wasm).unwrap();
        assert!(home.store().join("blobs").join(sha256(&bytes).replace(':', "/")).is_file());
    }
    let missing = client.run(spec(&format!("{host}/signed/none:v1"), &[])).await;
    assert_eq!(missing.end.unwrap().error_kind, "not_found");
    // The node is gone, and what was pushed to it can still be run by the address that it had.
    let reference = format!("{host}/signed/two:v1");
    drop(client);
    node.terminate();
    node.wait();
    home.vyr(["run", reference.as_str()]).expect(0);
    home.vyr(["run", "vyr.localhost/signed/three:v1"]).expect(0);
    // The database is lost, and the registry is made again from the layout.
    std::fs::remove_dir_all(home.vyr_home().join("db")).unwrap();
    let node = Node::start(&home, &[]);
    let reference = format!("{}/signed/three:v1", node.host());
    home.tool("oras", words(&format!("copy --from-plain-http {reference} --to-oci-layout again:v1"))).expect(0);
    home.cosign_verify("cosign", &reference, &key.public).expect(0);
}

#[tokio::test]
async fn vyr_pushes_to_it_and_rules_by_repository_see_what_was_written() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let host = node.host();
    let wasm = vyr_guests::guest("hello-p1");
    let reference = format!("{host}/team/app:v1");
    let pushed = home.vyr(["push", &reference, wasm.to_str().unwrap()]).expect(0).stdout.trim().to_owned();
    for reference in [&pushed, &reference] {
        let task = client.run(spec(reference, &[])).await;
        assert_eq!(task.status(), TaskStatus::Succeeded, "{task:?}");
        home.vyr(["run", reference.as_str()]).expect(0);
        home.vyr(["verify", reference.as_str()]).expect(0);
    }
    let elsewhere = Home::new();
    std::fs::create_dir_all(elsewhere.vyr_home()).unwrap();
    std::fs::copy(home.machine_key().public, elsewhere.work().join("theirs.pub")).unwrap();
    elsewhere.vyr(["trust", "add", "--key", "theirs.pub", "--repository", &format!("{host}/team")]).expect(0);
    // Another data folder sees a registry like any other.
    elsewhere.vyr(["run", reference.as_str()]).expect(0);
    elsewhere.vyr(["pull", &pushed]).expect(0);
    let other = home.vyr(["push", &format!("{host}/other/app:v1"), wasm.to_str().unwrap()]).expect(0);
    elsewhere.vyr(["run", other.stdout.trim()]).expect(126);

    // Rules of the node's own data folder.
    let public = home.machine_key().public;
    let policy = |repository: &str| {
        let key = public.display();
        std::fs::write(
            home.vyr_home().join("trust.toml"),
            "version = 1\ndefault = \"reject\"\ntrust-machine-key = false\n",
        )
        .unwrap();
        home.vyr(["trust", "add", "--key", &key.to_string(), "--repository", repository]).expect(0);
    };
    policy(&format!("{host}/team"));
    assert_eq!(client.run(spec(&reference, &[])).await.status(), TaskStatus::Succeeded);
    assert_eq!(client.run(spec(&format!("{host}/other/app:v1"), &[])).await.status(), TaskStatus::Refused);
    assert_eq!(client.run(spec("vyr.localhost/team/app:v1", &[])).await.status(), TaskStatus::Refused);
    policy("vyr.localhost/team");
    assert_eq!(client.run(spec("vyr.localhost/team/app:v1", &[])).await.status(), TaskStatus::Succeeded);
    assert_eq!(client.run(spec(&reference, &[])).await.status(), TaskStatus::Refused);
}

#[tokio::test]
async fn with_a_token_file_clients_log_in_with_a_token_and_runs_need_none() {
    let home = Home::new();
    std::fs::create_dir_all(home.vyr_home()).unwrap();
    std::fs::write(home.vyr_home().join("trust.toml"), "version = 1\ndefault = \"accept-unsigned\"\n").unwrap();
    let token = home.vyr(["token", "add", "ci"]).expect(0).stdout.trim().to_owned();
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
    let host = node.host();
    let reference = format!("{host}/closed/app:v1");
    let asked = reqwest::get(format!("http://{host}/v2/")).await.unwrap();
    assert_eq!(
        (asked.status().as_u16(), &asked.headers()["www-authenticate"]),
        (401, &format!("Bearer realm=\"http://{host}/v2/token\",service=\"vyr\"").parse().unwrap())
    );
    assert!(asked.text().await.unwrap().contains("UNAUTHORIZED"));
    std::fs::copy(vyr_guests::guest("hello-p1"), home.work().join("app.wasm")).unwrap();
    let push = || home.tool("oras", ["push", &reference, "app.wasm:application/wasm"]);
    push().expect(1);
    let log_in = |password: &str| {
        let mut command = home.command(tool("oras"));
        command.args(["login", "--username", "ci", "--password-stdin", &host]);
        run(command, password.as_bytes())
    };
    log_in("vyr_other").expect(1);
    log_in(&token).expect(0);
    push().expect(0);
    home.tool("crane", words(&format!("digest {reference}"))).expect(0);
    home.tool("crane", words(&format!("auth login -u x -p {token} {host}"))).expect(0);
    home.tool("oras", words(&format!("logout {host}"))).expect(0);
    // No credential is left: it can only have come from the store.
    home.vyr(["run", reference.as_str()]).expect(0);
}

#[tokio::test]
async fn what_a_run_uses_can_be_deleted_and_goes_when_it_is_over() {
    let home = Home::new();
    std::fs::create_dir_all(home.vyr_home()).unwrap();
    std::fs::write(home.vyr_home().join("trust.toml"), "version = 1\ndefault = \"accept-unsigned\"\n").unwrap();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let reference = format!("{}/app:v1", node.host());
    let digest = home.oras_push(&reference, &vyr_guests::guest("sleep-p1"));
    let blob = home.store().join("blobs").join(digest.replace(':', "/"));
    let task = client.submit(spec(&reference, &["6000"])).await;
    client.until(&task.id, TaskStatus::Running).await;
    home.tool("oras", words(&format!("manifest delete -f {}/app@{digest}", node.host()))).expect(0);
    home.vyr(["gc"]).expect(0);
    assert!(blob.exists(), "a guest runs from it");
    let ended = client.wait(&task.id).await;
    assert_eq!(ended.status(), TaskStatus::Succeeded, "{ended:?}");
    drop(client);
    node.terminate();
    node.wait();
    home.vyr(["gc"]).expect(0);
    assert!(!blob.exists());
}

#[tokio::test]
async fn killed_while_clients_push_it_serves_nothing_by_halves_and_takes_the_push_again() {
    let home = Home::new();
    let kills: u64 = std::env::var("VYR_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(6);
    let mut random: u64 = 0x5eed_0004;
    let mut seen = std::collections::BTreeMap::new();
    let mut before: Vec<(String, String)> = Vec::new();
    for round in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let content: Vec<u8> = (0..6_000_000_u64).map(|i| i.wrapping_mul(random).to_le_bytes()[3]).collect();
        let name = format!("layer-{round}.bin");
        home.write(&name, &content);
        let layer = sha256(&content);
        let node = Node::start(&home, &[]);
        let reference = format!("{}/kills/app:v{round}", node.host());
        let mut push = home.command(tool("oras"));
        push.args(["push", &reference, &format!("{name}:application/octet-stream")]);
        let pushing = std::thread::spawn(move || run(push, b"").status);
        tokio::time::sleep(Duration::from_millis(5 + random % 110)).await;
        node.kill();
        let status = pushing.join().unwrap();
        *seen.entry(status).or_insert(0) += 1;

        let node = Node::start(&home, &[]);
        let base = format!("http://{}/v2/kills/app", node.host());
        let found = reqwest::get(format!("{base}/blobs/{layer}")).await.unwrap();
        let whole = found.status() == 200;
        match found.status().as_u16() {
            200 => assert_eq!(sha256(&found.bytes().await.unwrap()), layer),
            other => assert_eq!(other, 404),
        }
        let manifest = reqwest::get(format!("{base}/manifests/v{round}")).await.unwrap();
        if status == 0 {
            assert_eq!(manifest.status(), 200, "it was acknowledged");
        }
        assert!(whole || manifest.status() == 404, "a manifest stands without its layer");
        let reference = format!("{}/kills/app:v{round}", node.host());
        home.tool("oras", ["push", &reference, &format!("{name}:application/octet-stream")]).expect(0);
        before.push((format!("v{round}"), layer));
        for (tag, layer) in &before {
            let manifest = reqwest::get(format!("{base}/manifests/{tag}")).await.unwrap();
            assert_eq!(manifest.status(), 200);
            assert!(manifest.text().await.unwrap().contains(layer));
        }
        let again = reqwest::get(format!("{base}/blobs/{layer}", layer = &before[before.len() - 1].1)).await.unwrap();
        assert_eq!(sha256(&again.bytes().await.unwrap()), before[before.len() - 1].1);
    }
    let left = std::fs::read_dir(home.vyr_home().join("ingest")).unwrap().count();
    eprintln!("{kills} kills: pushes ended with {seen:?}; {left} files of uploads wait for their end");
    home.vyr(["gc"]).expect(0);
    let store = home.store();
    for (_, layer) in &before {
        assert!(store.join("blobs").join(layer.replace(':', "/")).exists());
    }
}
