//! Bad input, bad registries and bad disks: each a clear error with the documented exit code, and nothing half-written.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use vyr_guests::guest;

use crate::support::{Act, BadRegistry, Content, Home, Output, Registry, free_port, run, sha256, tar_of};

/// A home that gives up soon.
fn impatient() -> Home {
    let home = Home::new();
    fs::create_dir_all(home.vyr_home()).unwrap();
    fs::write(
        home.vyr_home().join("config.toml"),
        "[registry]\nconnect-timeout-seconds = 1\nread-timeout-seconds = 1\nretries = 1\n",
    )
    .unwrap();
    home
}

/// Nothing is listed, nothing is left in `ingest` but what a later pull resumes, and each blob is what its name says.
#[track_caller]
pub(crate) fn nothing_half_written(home: &Home) {
    let listed = home.vyr(["artifacts", "--all", "--output", "json"]).expect(0);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("one JSON document");
    assert_eq!(listed, json!([]), "nothing is listed");
    for entry in fs::read_dir(home.vyr_home().join("ingest")).into_iter().flatten() {
        let path = entry.unwrap().path();
        assert!(path.extension().is_some_and(|e| e == "partial"), "{} is left", path.display());
    }
    for entry in fs::read_dir(home.store().join("blobs/sha256")).into_iter().flatten() {
        let path = entry.unwrap().path();
        let hex = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(sha256(&fs::read(&path).unwrap()), format!("sha256:{hex}"), "{} is whole", path.display());
    }
}

/// An error that says what was attempted, why, and what to do next; no guest ran.
#[track_caller]
pub(crate) fn told(output: Output, code: i32, words: &[&str]) -> Output {
    let output = output.expect(code).says(words);
    assert_eq!(output.stdout, "", "nothing on stdout");
    for part in ["error: could not ", "\n  why: ", "\n  next: "] {
        assert_eq!(output.stderr.matches(part).count(), 1, "what, why and next, once each:\n{}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    output
}

/// `vyr run` by digest against a registry that serves a good artifact, but for what `script` does.
#[track_caller]
fn refused(code: i32, words: &[&str], script: impl Fn(&str, &Content) -> Act + Send + Sync + 'static) -> Output {
    let home = impatient();
    let content = Content::of(&fs::read(guest("hello-p1")).unwrap());
    let (digest, shared) = (content.digest(), content.clone());
    let registry = BadRegistry::start(content, move |path| script(path, &shared));
    let reference = registry.by_digest("app", &digest);
    let output = told(home.vyr(["run", "--allow-unsigned", &reference]), code, &[&[&*reference], words].concat());
    nothing_half_written(&home);
    output
}

fn is_layer(path: &str, content: &Content) -> bool {
    path.contains("/blobs/") && path.ends_with(&content.layer)
}

#[test]
fn an_honest_scripted_registry_is_no_fault() {
    let home = impatient();
    let content = Content::of(&fs::read(guest("hello-p1")).unwrap());
    let digest = content.digest();
    let registry = BadRegistry::start(content, |_| Act::Honest);
    let ran = home.vyr(["run", "--allow-unsigned", &registry.by_digest("app", &digest)]).expect(0);
    assert_eq!(ran.stdout, "hello from wasm\n");
    let ran = home.vyr(["run", "--allow-unsigned", &registry.reference("app", "v1")]).expect(0);
    assert_eq!(ran.stdout, "hello from wasm\n");
}

#[test]
fn a_manifest_of_another_digest_is_refused() {
    let other = Content::of(b"\0asm\x01\0\0\0").manifest;
    let found = sha256(&other);
    refused(126, &["digest", &found], move |path, _| {
        if path.contains("/manifests/sha256:") { Act::Swap(other.clone()) } else { Act::Honest }
    });
}

#[test]
fn a_blob_of_another_digest_is_refused() {
    refused(126, &["digest"], |path, content| {
        if !is_layer(path, content) {
            return Act::Honest;
        }
        let mut bytes = fs::read(guest("hello-p1")).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        Act::Swap(bytes)
    });
}

#[test]
fn a_truncated_blob_is_an_error_and_a_later_pull_goes_on() {
    let bytes = fs::read(guest("hello-p1")).unwrap();
    refused(125, &["broke", "end of file"], move |path, content| {
        if is_layer(path, content) { Act::Lie(bytes.len(), bytes[..100].to_vec()) } else { Act::Honest }
    });
}

#[test]
fn a_registry_that_announces_another_length_is_caught() {
    let bytes = fs::read(guest("hello-p1")).unwrap();
    let short = bytes.clone();
    let output =
        refused_any(
            move |path, content| {
                if is_layer(path, content) { Act::Swap(short[..short.len() - 1].to_vec()) } else { Act::Honest }
            },
        );
    assert!(output.stderr.contains("bytes"), "{}", output.stderr);
    let output =
        refused_any(
            move |path, content| {
                if is_layer(path, content) { Act::Swap([&bytes[..], b"more"].concat()) } else { Act::Honest }
            },
        );
    assert!(output.stderr.contains("bytes"), "{}", output.stderr);
}

/// As [`refused`], where 125 and 126 are both true: the answer contradicts the descriptor.
#[track_caller]
fn refused_any(script: impl Fn(&str, &Content) -> Act + Send + Sync + 'static) -> Output {
    let home = impatient();
    let content = Content::of(&fs::read(guest("hello-p1")).unwrap());
    let (digest, shared) = (content.digest(), content.clone());
    let registry = BadRegistry::start(content, move |path| script(path, &shared));
    let output = home.vyr(["run", "--allow-unsigned", &registry.by_digest("app", &digest)]);
    assert!(matches!(output.status, 125 | 126), "{output:?}");
    nothing_half_written(&home);
    let code = output.status;
    told(output, code, &[])
}

#[test]
fn a_reset_in_the_body_is_an_error() {
    let bytes = fs::read(guest("hello-p1")).unwrap();
    refused(125, &[], move |path, content| {
        if is_layer(path, content) { Act::Reset(bytes.len(), bytes[..1000].to_vec()) } else { Act::Honest }
    });
}

#[test]
fn a_manifest_over_4_mib_is_not_read() {
    let big = format!("{{\"pad\":\"{}\"}}", "x".repeat(5 << 20)).into_bytes();
    let digest = sha256(&big);
    let home = impatient();
    let registry = BadRegistry::start(Content::of(b""), move |path| {
        if path.contains("/manifests/") { Act::Swap(big.clone()) } else { Act::Honest }
    });
    let output = home.vyr(["run", "--allow-unsigned", &registry.by_digest("app", &digest)]);
    assert!(matches!(output.status, 125 | 126), "{output:?}");
    let code = output.status;
    told(output, code, &["4194304"]);
    nothing_half_written(&home);
}

#[test]
fn a_bomb_of_5000_layers_is_not_pulled() {
    let layer = json!({ "mediaType": "application/wasm", "digest": sha256(b"x"), "size": 1 });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2 },
        "layers": vec![layer; 5000],
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = sha256(&manifest);
    let home = impatient();
    let registry = BadRegistry::start(Content::of(b""), move |path| {
        if path.contains("/manifests/") { Act::Swap(manifest.clone()) } else { Act::Honest }
    });
    let output = home.vyr(["run", "--allow-unsigned", &registry.by_digest("app", &digest)]);
    assert!(matches!(output.status, 125 | 126), "{output:?}");
    let code = output.status;
    told(output, code, &["5000"]);
    nothing_half_written(&home);
}

#[test]
fn a_registry_that_hangs_is_given_up() {
    for place in ["/manifests/", "/blobs/"] {
        let output = refused(125, &[], move |path, _| if path.contains(place) { Act::Hang } else { Act::Honest });
        assert!(output.took < Duration::from_secs(20), "{place} took {:?}", output.took);
    }
}

#[test]
fn each_status_has_its_exit_code_and_is_named() {
    for (status, code) in [
        ("401 Unauthorized", 125),
        ("403 Forbidden", 125),
        ("404 Not Found", 127),
        ("429 Too Many Requests", 125),
        ("500 Internal Server Error", 125),
    ] {
        for place in ["/manifests/", "/blobs/"] {
            let body = br#"{"errors":[{"code":"SAID","message":"the registry's own words"}]}"#;
            refused(code, &[&status[..3], "the registry's own words"], move |path, _| {
                if path.contains(place) { Act::Answer(status, body.to_vec()) } else { Act::Honest }
            });
        }
    }
}

#[test]
fn a_refused_connection_is_an_error_that_names_the_host() {
    let home = impatient();
    let host = format!("localhost:{}", free_port());
    told(home.vyr(["run", &format!("{host}/app:v1")]), 125, &[&host]);
    told(home.vyr(["pull", &format!("{host}/app@{}", sha256(b""))]), 125, &[&host]);
    nothing_half_written(&home);
}

#[test]
fn what_is_no_wasm_is_recognised() {
    let (registry, home) = (Registry::start(), Home::new());
    for (name, bytes) in [("elf", &b"\x7fELF\x02\x01\x01\0rest"[..]), ("text", b"only text"), ("empty", b"")] {
        let file = home.write("no.wasm", bytes);
        let digest = home.oras_push(&registry.reference(name, "v1"), &file);
        let reference = registry.by_digest(name, &digest);
        told(home.vyr(["run", "--allow-unsigned", &reference]), 125, &[&reference, "Wasm"]);
    }
}

#[test]
fn an_unknown_import_is_named() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("wants", "v1"), &guest("wants"));
    let reference = registry.by_digest("wants", &digest);
    told(home.vyr(["run", "--allow-unsigned", &reference]), 125, &["env", "frobnicate"]);
}

/// One entry of a hostile archive, its name as it is given.
fn entry(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, target: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    // `set_path` would refuse what an attacker writes.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).expect("a tar in memory");
}

/// A compat image of one layer as an OCI layout in the work folder, for `oci:image:made`.
fn image_layout(home: &Home, layer: &[u8]) {
    let _ = fs::remove_dir_all(home.work().join("image"));
    let describe = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": sha256(bytes), "size": bytes.len() });
    let config = json!({
        "architecture": "wasm", "os": "wasip1", "config": { "Entrypoint": ["/app.wasm"] },
        "rootfs": { "type": "layers", "diff_ids": [sha256(layer)] },
    });
    let config = config.to_string().into_bytes();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut listed = describe(manifest_type, &manifest);
    listed["annotations"] = json!({ "org.opencontainers.image.ref.name": "made" });
    home.write("image/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    home.write("image/index.json", json!({ "schemaVersion": 2, "manifests": [listed] }).to_string());
    for blob in [&config[..], layer, &manifest] {
        home.write(&format!("image/blobs/{}", sha256(blob).replace(':', "/")), blob);
    }
}

#[test]
fn layer_archives_cannot_lead_out() {
    use tar::EntryType::{Link, Regular, Symlink};
    let home = Home::new();
    let wasm = fs::read(guest("hello-p1")).unwrap();
    image_layout(&home, &tar_of(&[("app.wasm", &wasm)]));
    let ran = home.vyr(["run", "--allow-unsigned", "oci:image:made"]).expect(0);
    assert_eq!(ran.stdout, "hello from wasm\n", "the honest one runs");

    let evil = |name: &str, kind, target: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        entry(&mut builder, name, kind, target, b"");
        entry(&mut builder, "app.wasm", Regular, "", &wasm);
        builder.into_inner().expect("a tar in memory")
    };
    let linked = |kind, target: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        entry(&mut builder, "app.wasm", kind, target, b"");
        builder.into_inner().expect("a tar in memory")
    };
    let outside = home.work().join("planted");
    for (layer, word) in [
        (evil("../planted", Regular, ""), "../planted"),
        (evil("a/../../planted", Regular, ""), "planted"),
        (evil("/planted", Regular, ""), "/planted"),
        (evil("hard", Link, "../../etc/passwd"), "etc/passwd"),
        (linked(Symlink, "/etc/passwd"), "/etc/passwd"),
        (linked(Symlink, "other.wasm"), "other.wasm"),
        (linked(Link, "/etc/passwd"), "/etc/passwd"),
    ] {
        image_layout(&home, &layer);
        told(home.vyr(["run", "--allow-unsigned", "oci:image:made"]), 125, &[word]);
        assert!(!outside.exists() && !Path::new("/planted").exists(), "{word} was unpacked");
    }
}

/// Runs a script in a mount namespace of its own, with `$0` as `vyr`.
#[track_caller]
fn in_namespace(home: &Home, script: &str, arguments: &[&str]) -> Output {
    let mut command: Command = home.command("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_vyr")]).args(arguments);
    let output = run(command, b"");
    assert!(
        output.status != 77 && !output.stderr.contains("unshare failed"),
        "this test mounts a small disk: run it as root, in a container with CAP_SYS_ADMIN\n{}",
        output.stderr
    );
    output
}

#[test]
fn a_full_disk_is_an_error_and_leaves_a_store_that_opens() {
    let (registry, home) = (Registry::start(), Home::new());
    // The disk takes the database and the config, and not this.
    let file = home.write("big.wasm", [&b"\0asm\x01\0\0\0"[..], &vec![7; 8 << 20]].concat());
    let digest = home.oras_push(&registry.reference("big", "v1"), &file);
    let reference = registry.by_digest("big", &digest);
    let script = r#"
        mkdir -p "$VYR_HOME"
        mount -t tmpfs -o size=3m none "$VYR_HOME" || exit 77
        "$0" pull "$1"; code=$?
        find "$VYR_HOME/ingest" -type f ! -name '*.partial' | sed 's/^/left /'
        rm -f "$VYR_HOME"/ingest/*.partial
        echo "listed $("$0" artifacts --all --output json)"
        exit $code"#;
    let output = in_namespace(&home, script, &[&reference]).expect(125).says(&[&reference, "space", "next: "]);
    assert!(!output.stdout.contains("left "), "{}", output.stdout);
    assert!(output.has_line("listed []"), "{}\n{}", output.stdout, output.stderr);
}

#[test]
fn a_read_only_store_still_runs_what_it_has() {
    let (registry, home) = (Registry::start(), Home::new());
    let push = |name: &str| {
        let pushed = home.vyr(["push", &registry.reference(name, "v1"), guest(name).to_str().unwrap()]).expect(0);
        pushed.stdout.trim().to_owned()
    };
    let (kept, other) = (push("hello-p1"), push("exit-p1"));
    home.vyr(["run", &kept]).expect(0);
    let script = r#"
        mount --bind "$VYR_HOME" "$VYR_HOME" && mount -o remount,bind,ro "$VYR_HOME" || exit 77
        "$0" run --offline "$1"; echo "run $?"
        "$0" pull "$2"; echo "pull $?""#;
    let output = in_namespace(&home, script, &[&kept, &other]);
    for line in ["hello from wasm", "run 0", "pull 125"] {
        assert!(output.has_line(line), "no `{line}` in\n{}\n{}", output.stdout, output.stderr);
    }
    output.says(&["can only be read", &other, "next: "]);
}

#[test]
fn usage_errors_are_2() {
    let home = Home::new();
    for bad in
        ["", "localhost:1/UPPER:v1", "localhost:1/app@sha256:short", "localhost:1/app@md5:00", "a b", "oci:", "../x:v1"]
    {
        home.vyr(["run", bad]).expect(2);
    }
    for words in
        [&["run"][..], &["run", "--no-such-flag", "a/b:v1"], &["run", "--memory", "much", "a/b:v1"], &["nothing"]]
    {
        home.vyr(words).expect(2);
    }
}

#[test]
fn what_is_missing_is_127_and_says_what_to_do() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = registry.by_digest("no/such", &sha256(b"nothing"));
    told(home.vyr(["run", &reference]), 127, &[&reference]);
    told(home.vyr(["pull", &registry.reference("no/such", "v1")]), 127, &["no/such"]);
    told(home.vyr(["run", "--offline", &reference]), 127, &["--offline", "vyr pull", "import"]);
    told(home.vyr(["run", &sha256(b"nothing")]), 127, &["vyr artifacts"]);
    told(home.vyr(["run", "oci:no-such-folder"]), 127, &["no-such-folder"]);
    nothing_half_written(&home);
}

#[test]
fn malformed_settings_name_the_field() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello-p1"));
    let reference = registry.by_digest("app", &digest);
    fs::create_dir_all(home.vyr_home()).unwrap();
    for (file, text, word) in [
        ("trust.toml", "versoin = 1\n", "versoin"),
        ("trust.toml", "version = 99\n", "version"),
        ("trust.toml", "version = 1\n[[rule]]\nrepository = \"a\"\nactoin = \"reject\"\n", "actoin"),
        ("trust.toml", "version = 1\ndefault = \"whatever\"\n", "whatever"),
        ("trust.toml", "[[[", "trust policy"),
        ("config.toml", "ofline = true\n", "ofline"),
        ("config.toml", "[registry]\nretries = \"many\"\n", "retries"),
    ] {
        let path = home.vyr_home().join(file);
        fs::write(&path, text).unwrap();
        for more in [&["run"][..], &["run", "--allow-unsigned"]] {
            // A policy that can't be understood refuses; settings that can't be are a wrong call.
            let code = if file == "trust.toml" { 126 } else { 2 };
            let output = home.vyr([more, &[&reference]].concat()).expect(code).says(&[word, file, "next: "]);
            assert_eq!(output.stdout, "", "nothing ran");
        }
        fs::remove_file(path).unwrap();
    }
}
