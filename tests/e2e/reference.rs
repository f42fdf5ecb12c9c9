//! Tests of the tests: the support code against the real clients alone, without `vyr`. When one of these
//! fails, the others say nothing about `vyr`.

use vyr_guests::guest;

use crate::support::{FORMS, Home, Registry, flip_a_bit, sha256};

#[test]
fn the_six_forms_are_in_the_registry_as_crane_sees_it() {
    let registry = Registry::start();
    for form in FORMS {
        let home = Home::new();
        let digest = home.push_form(&registry, form, "forms", &format!("form-{}", form as u8), &guest("hello-p1"));
        assert_eq!(
            home.crane_digest(&registry.reference("forms", &format!("form-{}", form as u8))),
            digest,
            "{form:?}"
        );
    }
}

#[test]
fn each_cosign_verifies_its_own_signature() {
    let (registry, home) = (Registry::start(), Home::new());
    let (key, other) = (home.key("cosign"), home.key("other"));
    for (cosign, repository) in [("cosign", "by-3"), ("cosign-older", "by-2")] {
        let digest = home.oras_push(&registry.reference(repository, "v1"), &guest("hello"));
        let reference = registry.by_digest(repository, &digest);
        assert_ne!(home.cosign_verify(cosign, &reference, &key.public).status, 0, "{cosign}, unsigned");
        if cosign == "cosign" {
            home.cosign3_sign(&reference, &key);
        } else {
            home.cosign2_sign(&reference, &key);
        }
        home.cosign_verify(cosign, &reference, &key.public).expect(0);
        assert_ne!(home.cosign_verify(cosign, &reference, &other.public).status, 0, "{cosign}, another key");
    }
}

#[test]
fn a_registry_with_a_password_wants_it() {
    let (registry, home) = (Registry::with_password(), Home::new());
    let reference = registry.reference("app", "v1");
    home.write("app.wasm", "x");
    assert_ne!(home.tool("oras", ["push", &reference, "app.wasm:application/wasm"]).status, 0);
    home.log_in(&registry);
    home.tool("oras", ["push", &reference, "app.wasm:application/wasm"]).expect(0);
}

#[test]
fn the_registry_serves_what_its_folder_holds() {
    let (registry, home) = (Registry::start(), Home::new());
    let wasm = guest("hello");
    let layer = sha256(&std::fs::read(&wasm).unwrap());
    home.oras_push(&registry.reference("app", "v1"), &wasm);
    flip_a_bit(&registry.blob(&layer));
    let pulled = home.tool("oras", ["pull", "--output", "pulled", &registry.reference("app", "v1")]);
    assert_ne!(pulled.status, 0, "oras sees the change too");
    assert!(pulled.stderr.contains("digest"), "{}", pulled.stderr);
}
