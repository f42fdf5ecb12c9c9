//! Receipts as they are kept, shown and read again.

use std::collections::BTreeMap;

use super::*;
use crate::oci::sha256;
use crate::trust::{Algorithm, SigningKey};

pub(crate) fn receipt() -> Receipt {
    Receipt {
        subject: sha256(b"manifest"),
        name: "localhost:5000/app".into(),
        predicate: Predicate {
            task: TaskFacts {
                id: "01a21520-f69c-73fe-96a0-6692b3634099".into(),
                attempt: 1,
                submitter: "anonymous".into(),
                trace_id: "01a21520f69c73fe96a06692b3634099".into(),
            },
            artifact: ArtifactFacts {
                reference: "localhost:5000/app:v1".into(),
                manifest: digest_of(b"manifest"),
                code: digest_of(b"code"),
                form: "wasm".into(),
                path: "wasm".into(),
                fallback_reason: String::new(),
            },
            verified: VerifiedFacts {
                acceptance: "signed by the machine's key".into(),
                signed_digest: digest_of(b"manifest"),
                policy: "00".into(),
            },
            inputs: InputFacts {
                args: vec![Word::new("secret", false), Word::new("open", true)],
                env: BTreeMap::from([("KEY".to_owned(), Word::new("value", false))]),
                stdin: digest_of(b""),
                allow_net: Vec::new(),
                states: Vec::new(),
            },
            limits: LimitFacts { memory_bytes: 1 << 30, wall_us: 0, cpu_us: 0 },
            outputs: Some(OutputFacts::default()),
            end: EndFacts {
                status: "succeeded".into(),
                reason: "exited".into(),
                exit_code: Some(0),
                message: "the guest exited with code 0".into(),
                at: "2026-01-01T00:00:00Z".into(),
            },
            used: UseFacts::default(),
            start: StartFacts { tier: "S3".into(), submitted: "2026-01-01T00:00:00Z".into(), started: None },
            engine: EngineFacts {
                vyr: "0.1.0".into(),
                wasmtime: "48".into(),
                container: String::new(),
                platform: "linux/x86_64".into(),
                deterministic: None,
            },
        },
    }
}

#[test]
fn what_is_kept_becomes_the_bundle_that_was_signed() {
    let key = SigningKey::generate(Algorithm::EcdsaP256).unwrap();
    let sealed = Sealed::seal(&key, &receipt()).unwrap();
    let kept = Sealed::from_bytes(&sealed.to_bytes()).unwrap();
    assert_eq!(kept, sealed);
    let bundle = kept.bundle().unwrap();
    assert_eq!(read(&bundle).unwrap(), receipt());
    assert!(!String::from_utf8(sealed.statement.clone()).unwrap().contains("secret"), "values are hashed");
    // What isn't a whole one is none.
    let bytes = sealed.to_bytes();
    for length in [0, 1, 32, 33, 40] {
        assert!(Sealed::from_bytes(&bytes[..length]).is_none_or(|cut| cut != sealed), "{length}");
    }
    assert!(Sealed::from_bytes(b"\x02rest").is_none());
    // The statement, and some hundred bytes beside it.
    assert!(bytes.len() - sealed.statement.len() < 128);
}

#[test]
fn other_bundles_are_no_receipts() {
    for bad in ["", "{}", "[]", r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}"#] {
        assert_eq!(read(bad.as_bytes()).unwrap_err().kind(), crate::ErrorKind::InvalidContent, "{bad}");
    }
}

#[test]
fn words_are_what_they_stand_for() {
    assert!(Word::new("a", false).is("a") && !Word::new("a", false).is("b"));
    assert!(Word::new("a", true).is("a") && !Word::new("a", true).is(&digest_of(b"a")));
}
