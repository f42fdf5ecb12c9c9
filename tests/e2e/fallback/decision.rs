//! Which Wasm falls back, and which doesn't.

use vyr_guests::guest;

use super::{dual, image, needs_more, run, shell, wat};
use crate::support::Home;

#[test]
fn each_way_of_not_starting_falls_back_and_is_named() {
    let home = Home::new();
    let image = shell(&home);
    let cases = [
        ("unknown_import", r#"(module (import "env" "f" (func)) (func (export "_start")))"#),
        (
            "wasi_version",
            r#"(module (import "wasi_unstable" "proc_exit" (func (param i32))) (func (export "_start")))"#,
        ),
        (
            "incompatible_import",
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) (func (export "_start")))"#,
        ),
        ("no_entry", r#"(module (func (export "run")))"#),
        ("unsupported", r#"(module (memory 1 1 shared) (func (export "_start")))"#),
        ("limit", r#"(module (memory (export "memory") 20000) (func (export "_start")))"#),
    ];
    for (reason, text) in cases {
        let reference = dual(&home, &wat(&home, &format!("{reason}.wasm"), text), &image);
        let (report, output) = run(&home, 0, &["--memory", "512MiB", &reference]);
        assert_eq!(output, "hello from linux\n", "{reason}");
        assert_eq!(report["path"], "container", "{report}");
        assert_eq!(report["fallback_reason"], reason, "{report}");
        assert!(report["fallback_message"].as_str().unwrap().len() > 10, "{report}");
        assert_eq!((&report["kind"], &report["form"]), (&"image".into(), &"linux-image".into()));
        // What was found out needn't be found out again, and is the same.
        let (again, output) = run(&home, 0, &["--memory", "512MiB", &reference]);
        assert_eq!((output.as_str(), &again["fallback_reason"]), ("hello from linux\n", &reason.into()), "{again}");
        home.vyr(["run", "--path", "wasm", "--memory", "512MiB", &reference]).expect(125);
    }
}

#[test]
fn a_wasm_that_can_start_runs_as_wasm_unless_the_container_is_asked_for() {
    let home = Home::new();
    let reference = dual(&home, &guest("hello"), &shell(&home));
    let (report, output) = run(&home, 0, &[&reference]);
    assert_eq!((output.as_str(), &report["path"]), ("hello from wasm\n", &"wasm".into()), "{report}");
    let (report, output) = run(&home, 0, &["--path", "container", &reference]);
    assert_eq!((output.as_str(), &report["path"]), ("hello from linux\n", &"container".into()), "{report}");
    assert_eq!(report["fallback_reason"], "requested");
    // The answer for one is not the answer for the other.
    let (report, _) = run(&home, 0, &[&reference]);
    assert_eq!(report["path"], "wasm");
}

#[test]
fn a_guest_that_started_and_failed_has_failed() {
    let home = Home::new();
    let image = shell(&home);
    for (guest_name, code) in [("exit-p1", 7), ("trap", 134)] {
        let reference = dual(&home, &guest(guest_name), &image);
        let arguments: &[&str] = if guest_name == "exit-p1" { &["--", "7"] } else { &["--", "unreachable"] };
        let (report, output) = run(&home, code, &[&[reference.as_str()], arguments].concat());
        assert_eq!((output.as_str(), &report["path"]), ("", &"wasm".into()), "{report}");
    }
}

#[test]
fn a_refusal_is_never_got_round() {
    let home = Home::new();
    let image = shell(&home);
    let wasm = needs_more(&home);
    let pushed =
        home.vyr(["push", "--no-sign", "oci:unsigned:v1", wasm.to_str().unwrap(), "--fallback", &image]).expect(0);
    let reference = pushed.stdout.trim();
    for way in ["auto", "wasm", "container"] {
        home.vyr(["run", "--path", way, reference]).expect(126);
    }
    let (report, output) = run(&home, 0, &["--allow-unsigned", reference]);
    assert_eq!((output.as_str(), &report["path"]), ("hello from linux\n", &"container".into()));
    // And the run that overruled the policy proves nothing for one that doesn't.
    home.vyr(["run", reference]).expect(126);
}

#[test]
fn an_image_without_any_wasm_runs_by_its_own_reason() {
    let home = Home::new();
    let layout = image(&home, "plain", &["--config.cmd", "/bin/echo", "--config.cmd", "plain"]);
    let (report, output) = run(&home, 0, &["--allow-unsigned", &layout]);
    assert_eq!((output.as_str(), &report["fallback_reason"]), ("plain\n", &"no_wasm".into()), "{report}");
    home.vyr(["run", "--allow-unsigned", "--path", "wasm", &layout]).expect(125).says(&["not Wasm"]);
}

#[test]
fn where_nothing_is_beside_it_the_wasm_says_what_it_lacks() {
    let home = Home::new();
    let wasm = needs_more(&home);
    let pushed = home.vyr(["push", "oci:alone:v1", wasm.to_str().unwrap()]).expect(0);
    home.vyr(["run", pushed.stdout.trim()]).expect(125).says(&["env::of_another_world"]);
    home.vyr(["run", "--path", "container", pushed.stdout.trim()])
        .expect(125)
        .says(&["no container image", "--fallback"]);
}

#[test]
fn what_has_to_be_the_same_everywhere_does_not_fall_back() {
    let home = Home::new();
    let reference = dual(&home, &needs_more(&home), &shell(&home));
    home.vyr(["run", "--deterministic", &reference]).expect(125).says(&["env::of_another_world"]);
}

#[test]
fn an_image_for_another_machine_is_not_started() {
    let home = Home::new();
    let other = if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" };
    let layout = image(&home, "other", &["--config.cmd", "/bin/true", "--architecture", other]);
    home.vyr(["run", "--allow-unsigned", &layout]).expect(125).says(&[other]);
}

/// Counts in a file of the state as the guest `keyvalue` does by key: `ALIAS incr KEY DELTA`.
const COUNTS: &str = r#"f=/state/$1/$3; n=$(($(cat $f 2>/dev/null || echo 0) + $4)); echo $n > $f; echo $n"#;

#[test]
fn one_digest_runs_as_wasm_where_the_import_is_given_and_as_the_container_where_it_is_not() {
    let home = Home::new();
    let words = ["/bin/sh", "-c", COUNTS, "counts"];
    let entrypoint: Vec<&str> = words.iter().flat_map(|word| ["--config.entrypoint", *word]).collect();
    let reference = dual(&home, &guest("keyvalue"), &image(&home, "counts", &entrypoint));
    for state in ["one", "two"] {
        home.vyr(["state", "create", state, "--kind", "kv", "--class", "node"]).expect(0);
    }
    let arguments = [reference.as_str(), "--", "s", "incr", "visits", "5"];
    let (as_wasm, given) = run(&home, 0, &[&["--state", "s=one"], &arguments[..]].concat());
    let withheld_words = ["--without", "wasi:keyvalue", "--state", "s=two"];
    let (as_container, withheld) = run(&home, 0, &[&withheld_words, &arguments[..]].concat());
    assert_eq!((&as_wasm["path"], &as_container["path"]), (&"wasm".into(), &"container".into()));
    assert_eq!(as_container["fallback_reason"], "unknown_import");
    assert!(as_container["fallback_message"].as_str().unwrap().contains("wasi:keyvalue"), "{as_container}");
    assert_eq!(as_wasm["digest"], as_container["digest"]);
    assert_eq!((given.as_str(), withheld.as_str()), ("5\n", "5\n"));
    // What the one found out about its engine is not taken for the other's.
    let (report, _) = run(&home, 0, &[&["--state", "s=one"], &arguments[..]].concat());
    assert_eq!(report["path"], "wasm");
    // Nor where all about the digest was proven before, as Wasm.
    let by_digest = [as_wasm["digest"].as_str().unwrap(), "--", "s", "incr", "visits", "5"];
    for (words, path) in [(&["--state", "s=one"][..], "wasm"), (&withheld_words, "container")] {
        let (report, _) = run(&home, 0, &[words, &by_digest[..]].concat());
        assert_eq!(report["path"], path);
    }
}
