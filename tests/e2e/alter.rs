//! One bit changed, in the registry or in the store, is refused.

use vyr_guests::guest;

use crate::support::{Home, Registry, flip_a_bit, sha256};

fn signed(registry: &Registry, home: &Home) -> (String, String) {
    let wasm = guest("hello");
    let digest = home.oras_push(&registry.reference("app", "v1"), &wasm);
    let reference = registry.by_digest("app", &digest);
    let key = home.key("cosign");
    home.cosign3_sign(&reference, &key);
    home.trust(&key);
    (reference, sha256(&std::fs::read(wasm).unwrap()))
}

#[test]
fn a_layer_altered_in_the_registry_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, layer) = signed(&registry, &home);
    flip_a_bit(&registry.blob(&layer));
    let refused = home.vyr(["run", &reference]).expect(126).says(&["digest", &layer]);
    assert_eq!(refused.stdout, "");
    // And it isn't in the store now, under any name.
    home.vyr(["run", "--offline", &reference]).expect(127);
}

#[test]
fn a_manifest_altered_in_the_registry_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, _) = signed(&registry, &home);
    let (_, digest) = reference.split_once('@').unwrap();
    flip_a_bit(&registry.blob(digest));
    let refused = home.vyr(["run", &reference]);
    // docker-registry may notice by itself and not serve it: then it isn't there. Nothing runs in either case.
    assert!(matches!(refused.status, 125..=127), "{refused:?}");
    assert_eq!(refused.stdout, "");
}

#[test]
fn a_layer_altered_in_the_store_is_refused() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, layer) = signed(&registry, &home);
    home.vyr(["pull", &reference]).expect(0);
    flip_a_bit(&home.store().join("blobs").join(layer.replace(':', "/")));
    let refused = home.vyr(["run", "--offline", &reference]).expect(126).says(&[&layer]);
    assert_eq!(refused.stdout, "");
}

#[test]
fn an_altered_entry_of_the_code_cache_is_compiled_again() {
    let (registry, home) = (Registry::start(), Home::new());
    let (reference, _) = signed(&registry, &home);
    home.vyr(["run", &reference]).expect(0);
    let mut altered = 0;
    let mut folders = vec![home.vyr_home()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && path != home.store() {
                folders.push(path);
            } else if std::fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")) {
                flip_a_bit(&path);
                altered += 1;
            }
        }
    }
    assert!(altered > 0, "compiled code is an ELF file below VYR_HOME");
    assert_eq!(home.vyr(["run", &reference]).expect(0).stdout, "hello from wasm\n");
}
