//! `vyr run` of what the real oras pushed and the real cosign signed.

use vyr_guests::guest;

use crate::support::{Home, Registry, run};

#[test]
fn an_artifact_pushed_by_oras_and_signed_by_cosign_runs_by_digest() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello"));
    let reference = registry.by_digest("app", &digest);
    let key = home.key("cosign");

    // Nobody is trusted yet, nobody signed.
    home.vyr(["run", &reference]).expect(126).says(&[&digest, "sign"]);
    // Signed, but by somebody who isn't trusted.
    home.cosign3_sign(&reference, &key);
    let refused = home.vyr(["run", &reference]).expect(126);
    assert_eq!(refused.stdout, "");

    home.trust(&key);
    let ran = home.vyr(["run", &reference, "--", "one", "two words"]).expect(0);
    assert_eq!(ran.stdout, "hello from wasm\none\ntwo words\n");
}

#[test]
fn the_older_signature_of_cosign_2_is_as_good() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello-p1"));
    let reference = registry.by_digest("app", &digest);
    let key = home.key("cosign");
    home.cosign2_sign(&reference, &key);
    home.trust(&key);
    assert_eq!(home.vyr(["run", &reference]).expect(0).stdout, "hello from wasm\n");
    home.vyr(["verify", &reference]).expect(0);
}

#[test]
fn a_signature_of_another_artifact_or_key_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let signed = home.oras_push(&registry.reference("app", "signed"), &guest("hello"));
    let unsigned = home.oras_push(&registry.reference("app", "unsigned"), &guest("exit"));
    let (mine, other) = (home.key("mine"), home.key("other"));
    home.cosign3_sign(&registry.by_digest("app", &signed), &mine);
    home.trust(&other);
    home.vyr(["run", &registry.by_digest("app", &signed)]).expect(126);
    home.trust(&mine);
    home.vyr(["run", &registry.by_digest("app", &signed)]).expect(0);
    home.vyr(["run", &registry.by_digest("app", &unsigned)]).expect(126);
}

#[test]
fn trust_in_a_repository_does_not_reach_another() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("team/app", "v1"), &guest("hello"));
    home.oras_push(&registry.reference("other/app", "v1"), &guest("hello"));
    let reference = registry.by_digest("team/app", &digest);
    let key = home.key("cosign");
    home.cosign3_sign(&reference, &key);
    let prefix = format!("{}/other", registry.host());
    home.vyr(["trust", "add", "--key", key.public.to_str().unwrap(), "--repository", &prefix]).expect(0);
    home.vyr(["run", &reference]).expect(126);
    let prefix = format!("{}/team", registry.host());
    home.vyr(["trust", "add", "--key", key.public.to_str().unwrap(), "--repository", &prefix]).expect(0);
    home.vyr(["run", &reference]).expect(0);
}

#[test]
fn allow_unsigned_is_the_explicit_way_round() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello"));
    let reference = registry.by_digest("app", &digest);
    assert_eq!(home.vyr(["run", "--allow-unsigned", &reference]).expect(0).stdout, "hello from wasm\n");
    // It was for that run alone.
    home.vyr(["run", &reference]).expect(126);
}

#[test]
fn the_exit_code_of_the_guest_passes_through() {
    let (registry, home) = (Registry::start(), Home::new());
    for name in ["exit", "exit-p1"] {
        let digest = home.oras_push(&registry.reference(name, "v1"), &guest(name));
        let reference = registry.by_digest(name, &digest);
        // A component ends by `wasi:cli/exit.exit-with-code`, where its toolchain knows that; else any failure is 1.
        let codes: &[i32] = if name == "exit-p1" { &[0, 1, 3, 42, 125, 255] } else { &[0, 1] };
        for code in codes {
            home.vyr(["run", "--allow-unsigned", &reference, "--", &code.to_string()]).expect(*code);
        }
        if name == "exit-p1" {
            // A process's code has 8 bits. A failure never looks like success, and the report has the guest's own number.
            for (code, shown) in [("256", 1), ("512", 1), ("263", 7), ("-1", 255), ("-256", 1)] {
                let report = home.work().join("report.json");
                let words = ["run", "--allow-unsigned", "--report", report.to_str().unwrap(), &reference, "--", code];
                home.vyr(words).expect(shown);
                let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
                assert_eq!((&report["outcome"], &report["exit_code"]), (&"exited".into(), &shown.into()), "{report}");
                let told = format!("exited with code {code}");
                assert!(report.to_string().contains(&told), "{report}");
            }
        }
    }
}

#[test]
fn what_is_in_the_store_runs_without_the_registry() {
    let (mut registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello"));
    let reference = registry.by_digest("app", &digest);
    let key = home.key("cosign");
    home.cosign3_sign(&reference, &key);
    home.trust(&key);
    home.vyr(["pull", &reference]).expect(0);
    registry.stop();
    assert_eq!(home.vyr(["run", &reference]).expect(0).stdout, "hello from wasm\n");
    assert_eq!(home.vyr(["run", "--offline", &reference]).expect(0).stdout, "hello from wasm\n");
    assert_eq!(home.vyr(["run", "--offline", &digest]).expect(0).stdout, "hello from wasm\n");
    let absent = format!("{}/app@sha256:{}", registry.host(), "0".repeat(64));
    home.vyr(["run", "--offline", &absent]).expect(127);
}

#[test]
fn a_registry_with_a_password_takes_docker_s_credentials() {
    let (registry, home) = (Registry::with_password(), Home::new());
    let stranger = Home::new();
    home.log_in(&registry);
    let digest = home.oras_push(&registry.reference("app", "v1"), &guest("hello"));
    let reference = registry.by_digest("app", &digest);
    home.vyr(["run", "--allow-unsigned", &reference]).expect(0);
    stranger.vyr(["run", "--allow-unsigned", &reference]).expect(125).says(&["log"]);
}

#[test]
fn what_is_not_there_is_127() {
    let (registry, home) = (Registry::start(), Home::new());
    home.vyr(["run", "--allow-unsigned", &registry.reference("no/such", "v1")]).expect(127);
    home.vyr(["run", "not a reference"]).expect(2);
    home.vyr(["no-such-verb"]).expect(2);
}

#[test]
fn arguments_environment_folders_and_stdin_reach_the_guest() {
    let (registry, home) = (Registry::start(), Home::new());
    home.write("shared/b.txt", "b");
    home.write("shared/a.txt", "a");
    for name in ["echo-env", "echo-env-p1"] {
        let digest = home.oras_push(&registry.reference(name, "v1"), &guest(name));
        let reference = registry.by_digest(name, &digest);
        let ran = run(
            home.vyr_command([
                "run",
                "--allow-unsigned",
                "--env",
                "GREETING=good day",
                "--env",
                "EMPTY=",
                "--dir",
                "shared::/data",
                &reference,
                "--",
                "--ls",
                "/data",
                "--ls",
                "/etc",
                "--allow-unsigned",
            ]),
            b"first line\nsecond line",
        )
        .expect(0);
        for line in ["env GREETING=good day", "env EMPTY=", "dir /data: a.txt b.txt", "arg 5 --allow-unsigned"] {
            assert!(ran.has_line(line), "{name}: no `{line}` in\n{}", ran.stdout);
        }
        assert!(ran.stdout.ends_with("stdin\nfirst line\nsecond line"), "{name}:\n{}", ran.stdout);
        assert!(ran.stdout.contains("dir /etc: no:"), "{name}:\n{}", ran.stdout);
        // Nothing of the host's own environment.
        assert!(!ran.stdout.contains("VYR_HOME") && !ran.stdout.contains("env PATH"), "{name}:\n{}", ran.stdout);
        assert!(ran.stderr.contains("copied 22 bytes"), "{name}: stderr passes through:\n{}", ran.stderr);
    }
}

#[test]
fn a_guest_cannot_leave_its_folder_and_writes_only_where_it_may() {
    let (registry, home) = (Registry::start(), Home::new());
    for name in ["files", "files-p1"] {
        let digest = home.oras_push(&registry.reference(name, "v1"), &guest(name));
        let reference = registry.by_digest(name, &digest);
        home.write("secret.txt", "nobody may read this");
        home.write("box/in.txt", "let in");
        for (link, target) in [("link-out", "../secret.txt"), ("link-absolute", "/etc/passwd")] {
            let path = home.work().join("box").join(link);
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink(target, path).unwrap();
        }
        let _ = std::fs::remove_dir_all(home.work().join("box/made"));

        let read_only = home.vyr(["run", "--allow-unsigned", "--dir", "box::/data:ro", &reference]).expect(0);
        assert!(read_only.has_line("read ok let in"), "{name}:\n{}", read_only.stdout);
        for attempt in ["write", "mkdir"] {
            assert!(read_only.stdout.contains(&format!("\n{attempt} denied")), "{name}:\n{}", read_only.stdout);
        }
        assert!(!home.work().join("box/made").exists());

        let writable = home.vyr(["run", "--allow-unsigned", "--dir", "box::/data", &reference]).expect(0);
        for line in ["read ok let in", "read-back ok from the guest"] {
            assert!(writable.has_line(line), "{name}: no `{line}` in\n{}", writable.stdout);
        }
        for attempt in ["dot-dot", "deep-dot-dot", "absolute", "link-out", "link-absolute", "write-dot-dot"] {
            assert!(
                writable.stdout.contains(&format!("\n{attempt} denied")),
                "{name}: {attempt} in\n{}",
                writable.stdout
            );
        }
        assert!(!home.work().join("planted.txt").exists());
        assert!(home.work().join("box/made").is_dir());
    }
}
