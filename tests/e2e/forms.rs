//! The six artifact forms, as real clients push them.

use vyr_guests::guest;

use crate::support::{FORMS, Form, Home, Registry};

#[test]
fn each_form_runs() {
    let registry = Registry::start();
    for form in FORMS {
        let home = Home::new();
        let repository = format!("form-{}", form as u8);
        let digest = home.push_form(&registry, form, &repository, "v1", &guest("hello-p1"));
        assert_eq!(home.crane_digest(&registry.reference(&repository, "v1")), digest, "{form:?}");
        let reference = registry.by_digest(&repository, &digest);
        if form == Form::LinuxImage {
            let ran = home.vyr(["run", "--allow-unsigned", &reference]).expect(0);
            assert_eq!(ran.stdout, "hello from linux\n");
            continue;
        }
        let ran = home.vyr(["run", "--allow-unsigned", &reference, "--", "again"]).expect(0);
        assert_eq!(ran.stdout, "hello from wasm\nagain\n", "{form:?}");
    }
}

#[test]
fn a_component_runs_in_each_wasm_form() {
    let registry = Registry::start();
    for form in [Form::Cncf, Form::Oras, Form::Older, Form::Dual] {
        let home = Home::new();
        let repository = format!("form-{}", form as u8);
        let digest = home.push_form(&registry, form, &repository, "v1", &guest("hello"));
        let ran = home.vyr(["run", "--allow-unsigned", &registry.by_digest(&repository, &digest)]).expect(0);
        assert_eq!(ran.stdout, "hello from wasm\n", "{form:?}");
    }
}

#[test]
fn a_compat_image_runs_under_each_name_of_its_platform() {
    let (registry, home) = (Registry::start(), Home::new());
    for (os, name) in [("wasi", "hello-p1"), ("wasip1", "hello-p1"), ("wasip2", "hello")] {
        let digest = home.push_compat_image(&registry.reference("image", os), &guest(name), os);
        let ran = home.vyr(["run", "--allow-unsigned", &registry.by_digest("image", &digest)]).expect(0);
        assert_eq!(ran.stdout, "hello from wasm\n", "{os}");
    }
}

#[test]
fn inspect_names_the_form() {
    let (registry, home) = (Registry::start(), Home::new());
    for form in FORMS {
        let repository = format!("form-{}", form as u8);
        let home = if form == Form::Cncf { &home } else { &Home::new() };
        let digest = home.push_form(&registry, form, &repository, "v1", &guest("hello-p1"));
        let reference = registry.by_digest(&repository, &digest);
        let shown = home.vyr(["inspect", &reference, "--output", "json"]).expect(0);
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).expect("one JSON document");
        assert_eq!(shown["digest"], digest, "{form:?}");
    }
}

#[test]
fn the_guests_in_c_and_python_run() {
    let (registry, home) = (Registry::start(), Home::new());
    for (name, hello) in [("c-hello", "hello from c\nx\n"), ("py-hello", "hello from python\nx\n")] {
        let digest = home.oras_push(&registry.reference(name, "v1"), &guest(name));
        let ran = home.vyr(["run", "--allow-unsigned", &registry.by_digest(name, &digest), "--", "x"]).expect(0);
        assert_eq!(ran.stdout, hello);
    }
}

#[test]
fn what_is_no_wasm_at_all_is_125_and_says_so() {
    let (registry, home) = (Registry::start(), Home::new());
    let text = home.write("text", "no wasm");
    let digest = home.oras_push(&registry.reference("text", "v1"), &text);
    home.vyr(["run", "--allow-unsigned", &registry.by_digest("text", &digest)]).expect(125).says(&["Wasm"]);
}

#[test]
fn an_import_that_nobody_provides_is_named() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("wants", "v1"), &guest("wants"));
    home.vyr(["run", "--allow-unsigned", &registry.by_digest("wants", &digest)])
        .expect(125)
        .says(&["env", "frobnicate"]);
}
