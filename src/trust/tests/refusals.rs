//! Each refusal has its own message, exit code 126 and a hint; and nothing that should be refused gets by.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::support::*;
use crate::error::Error;
use crate::oci;
use crate::trust::material::Unusable;
use crate::trust::*;

fn decide(
    policy: &TrustPolicy,
    repository: Option<&str>,
    material: &[SignatureMaterial],
) -> Result<Acceptance, Refusal> {
    verify(policy, None, repository, &digest_of("artifact"), material, Override::None)
}

/// A simple signature by `key` over a payload of any content.
fn payload_by(key: &SigningKey, payload: &[u8]) -> SignatureMaterial {
    SignatureMaterial::Simple(SimpleSignature {
        payload: payload.to_vec(),
        payload_digest: Some(oci::sha256(payload)),
        signature: STANDARD.encode(key.sign(payload).expect("signs")),
        certificate: None,
        chain: None,
        rekor: None,
    })
}

/// A bundle by `key` over a statement of any content.
fn bundle_by(key: &SigningKey, statement: &Value, payload_type: &str) -> SignatureMaterial {
    let statement = serde_json::to_vec(statement).expect("encodes");
    let signature = key.sign(&sigstore_types::pae(payload_type, &statement)).expect("signs");
    SignatureMaterial::Bundle(
        serde_json::to_vec(&json!({
            "mediaType": oci::media::SIGSTORE_BUNDLE,
            "verificationMaterial": { "publicKey": { "hint": key.verifying_key().hint() } },
            "dsseEnvelope": { "payload": STANDARD.encode(&statement), "payloadType": payload_type, "signatures": [{ "sig": STANDARD.encode(signature) }] },
        }))
        .expect("encodes"),
    )
}

fn statement(digest: Value) -> Value {
    json!({ "_type": "https://in-toto.io/Statement/v1", "subject": [{ "digest": digest }], "predicateType": PREDICATE_TYPE, "predicate": {} })
}

fn artifact_hex() -> String {
    digest_of("artifact").to_string().replace("sha256:", "")
}

#[test]
fn a_good_signature_is_accepted_in_either_form_and_says_whose_it_is() {
    let key = key();
    let policy = policy_for(&[key.public_pem()]);
    let forms = sign(&key, Some(REPOSITORY), &subject(&digest_of("artifact")), None).expect("signs");
    for (one, form) in material(&forms).iter().zip(["simple", "bundle"]) {
        let accepted = decide(&policy, Some(REPOSITORY), std::slice::from_ref(one)).expect("accepted");
        assert_eq!(accepted.form(), form);
        let Acceptance::Signed { signer: Signer::Key { id, listed }, rule, .. } = &accepted else {
            panic!("{accepted:?}")
        };
        assert_eq!(
            (id.as_str(), listed.as_str(), rule.as_str()),
            (key.key_id(), "inline", "the rule for every repository")
        );
        let json = serde_json::to_string(&accepted).expect("encodes");
        assert_eq!(serde_json::from_str::<Acceptance>(&json).expect("decodes"), accepted);
    }
}

#[test]
fn each_refusal_has_its_own_message() {
    let key = key();
    let stranger = self::key();
    let policy = policy_for(&[key.public_pem()]);
    let good = sign(&key, Some(REPOSITORY), &subject(&digest_of("artifact")), None).expect("signs");
    let other = sign(&key, Some(REPOSITORY), &subject(&digest_of("another")), None).expect("signs");
    let elsewhere = sign(&key, Some("localhost:5000/other"), &subject(&digest_of("artifact")), None).expect("signs");
    let strange = sign(&stranger, Some(REPOSITORY), &subject(&digest_of("artifact")), None).expect("signs");

    let SignatureMaterial::Simple(mut altered) = simple_material(&good.simple) else { panic!("simple") };
    altered.payload = String::from_utf8(altered.payload).expect("text").replace("team", "TEAM").into_bytes();
    let SignatureMaterial::Bundle(bundle) = bundle_material(&good.bundle) else { panic!("bundle") };
    let mut altered_bundle: Value = serde_json::from_slice(&bundle).expect("is JSON");
    altered_bundle["dsseEnvelope"]["payload"] =
        json!(STANDARD.encode(statement(json!({ "sha256": artifact_hex() })).to_string()));
    let altered_bundle = SignatureMaterial::Bundle(altered_bundle.to_string().into_bytes());
    let odd_payload = json!({ "critical": { "identity": { "docker-reference": "" }, "image": { "docker-manifest-digest": "md5:00" }, "type": "cosign container image signature" } });
    let wrong_type = json!({ "critical": { "identity": { "docker-reference": "" }, "image": { "docker-manifest-digest": digest_of("artifact").to_string() }, "type": "atomic container signature" } });
    let mut provenance = statement(json!({ "sha256": artifact_hex() }));
    provenance["predicateType"] = json!("https://slsa.dev/provenance/v1");

    let cases: Vec<(&str, Vec<SignatureMaterial>, &str)> = vec![
        ("nothing", vec![], "has no signature"),
        (
            "unknown key, simple",
            vec![simple_material(&strange.simple)],
            "by no key that the rule for every repository trusts",
        ),
        ("unknown key, bundle", vec![bundle_material(&strange.bundle)], stranger.key_id()),
        ("other digest, simple", vec![simple_material(&other.simple)], "for another digest"),
        ("other digest, bundle", vec![bundle_material(&other.bundle)], "for another digest"),
        ("other repository", vec![simple_material(&elsewhere.simple)], "is for the repository `localhost:5000/other`"),
        ("altered payload", vec![SignatureMaterial::Simple(altered)], "does not verify: its payload is not the one"),
        ("altered bundle", vec![altered_bundle], "does not verify: it names the trusted ECDSA P-256 key"),
        (
            "unknown digest, simple",
            vec![payload_by(&key, odd_payload.to_string().as_bytes())],
            "unknown algorithm: the payload signs `md5:00`",
        ),
        (
            "unknown digest, bundle",
            vec![bundle_by(&key, &statement(json!({ "sha1": "00" })), "application/vnd.in-toto+json")],
            "unknown algorithm: the statement signs `sha1:00`",
        ),
        ("malformed bundle", vec![SignatureMaterial::Bundle(b"{\"mediaType\":".to_vec())], "signature bundle"),
        ("empty bundle", vec![SignatureMaterial::Bundle(Vec::new())], "malformed"),
        (
            "future bundle",
            vec![SignatureMaterial::Bundle(
                String::from_utf8(bundle.clone()).expect("text").replace("v0.3", "v0.9").into_bytes(),
            )],
            "malformed",
        ),
        ("malformed payload", vec![payload_by(&key, b"{}")], "signature payload"),
        (
            "payload of another type",
            vec![payload_by(&key, wrong_type.to_string().as_bytes())],
            "its type is `atomic container signature`",
        ),
        (
            "huge payload",
            vec![Unusable::TooLarge { what: "payload", size: MAX_PAYLOAD_BYTES + 1, limit: MAX_PAYLOAD_BYTES }.into()],
            "payload of",
        ),
        (
            "huge payload, unchecked by the caller",
            vec![payload_by(&key, &vec![b' '; 1 << 20])],
            "too large: 1048576 bytes",
        ),
        ("huge bundle", vec![SignatureMaterial::Bundle(vec![b' '; (1 << 20) + 1])], "too large: 1048577 bytes"),
        ("provenance", vec![bundle_by(&key, &provenance, "application/vnd.in-toto+json")], "not a signature of it"),
        (
            "another payload type",
            vec![bundle_by(&key, &statement(json!({ "sha256": artifact_hex() })), "text/plain")],
            "its payload type is `text/plain`",
        ),
        (
            "no subject",
            vec![bundle_by(
                &key,
                &json!({ "_type": "https://in-toto.io/Statement/v1", "subject": [], "predicateType": PREDICATE_TYPE }),
                "application/vnd.in-toto+json",
            )],
            "has no subject",
        ),
    ];
    for (name, material, words) in cases {
        let refusal = decide(&policy, Some(REPOSITORY), &material).expect_err(name);
        let message = refusal.to_string();
        assert!(message.contains(words), "{name}: {message}");
        let error = Error::from(refusal.clone());
        assert_eq!(error.kind().exit_code(), 126, "{name}");
        assert!(error.next().is_some(), "{name}");
        let overruled =
            verify(&policy, None, Some(REPOSITORY), &digest_of("artifact"), &material, Override::AllowUnsigned);
        assert_eq!(overruled, Ok(Acceptance::Unverified { overruled: message }), "{name}");
    }
    // A repository that isn't known can't be compared, and a bundle binds none.
    assert!(decide(&policy, None, &[simple_material(&elsewhere.simple)]).is_ok());
    assert!(decide(&policy, Some(REPOSITORY), &[bundle_material(&elsewhere.bundle)]).is_ok());
}

#[test]
fn the_nearest_failure_is_reported_and_one_good_signature_suffices() {
    let key = key();
    let policy = policy_for(&[key.public_pem()]);
    let elsewhere = sign(&key, Some("localhost:5000/other"), &subject(&digest_of("artifact")), None).expect("signs");
    let other = sign(&key, None, &subject(&digest_of("another")), None).expect("signs");
    let mut all = vec![
        bundle_material(&other.bundle),
        SignatureMaterial::Bundle(b"{}".to_vec()),
        simple_material(&elsewhere.simple),
        SignatureMaterial::Bundle(b"{}".to_vec()),
    ];
    assert!(matches!(decide(&policy, Some(REPOSITORY), &all), Err(Refusal::RepositoryMismatch { .. })));
    let good = sign(&key, Some(REPOSITORY), &subject(&digest_of("artifact")), None).expect("signs");
    all.push(simple_material(&good.simple));
    assert!(decide(&policy, Some(REPOSITORY), &all).is_ok());
}

#[test]
fn the_rule_decides() {
    let key = key();
    let forms = sign(&key, None, &subject(&digest_of("artifact")), None).expect("signs");
    let material = material(&forms);
    let pem = key.public_pem();
    let text = format!(
        "version = 1\n[[rule]]\nrepository = 'host/team'\nkeys = ['''{pem}''']\n[[rule]]\nrepository = 'host/banned'\naction = 'reject'\n[[rule]]\nrepository = 'host/free'\naction = 'accept-unsigned'\n"
    );
    let policy = TrustPolicy::parse(text, std::path::Path::new("")).expect("parses");
    let machine = self::key();
    let ask = |repository: &str, material: &[SignatureMaterial], machine: Option<&SigningKey>, overrule| {
        verify(
            &policy,
            machine.map(SigningKey::verifying_key),
            Some(repository),
            &digest_of("artifact"),
            material,
            overrule,
        )
    };
    assert!(ask("host/team/app", &material, None, Override::None).is_ok());
    assert!(matches!(ask("host/teams", &material, None, Override::None), Err(Refusal::UntrustedKey { .. })));
    assert!(matches!(ask("host/free", &[], None, Override::None), Ok(Acceptance::Unsigned { .. })));
    for overrule in [Override::None, Override::AllowUnsigned] {
        let refusal = ask("host/banned", &material, Some(&key), overrule).expect_err("banned");
        assert!(refusal.to_string().contains("the rule for host/banned of the trust policy rejects"), "{refusal}");
    }
    // The machine's own key counts where no rule rejects, even in none.
    assert!(matches!(
        ask("host/x", &material, Some(&key), Override::None),
        Ok(Acceptance::Signed { signer: Signer::MachineKey { .. }, .. })
    ));
    assert!(ask("host/x", &material, Some(&machine), Override::None).is_err());
    let shut = TrustPolicy::parse("version = 1\ntrust-machine-key = false\n".into(), std::path::Path::new(""))
        .expect("parses");
    assert!(verify(&shut, Some(key.verifying_key()), None, &digest_of("artifact"), &material, Override::None).is_err());
    assert!(verify(&TrustPolicy::default(), None, None, &digest_of("artifact"), &material, Override::None).is_err());
}

#[test]
fn keys_of_the_policy_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let stranger = sign(&key(), None, &subject(&digest_of("artifact")), None).expect("signs");
    // An EC key on P-521 (RFC 5480 section 2.1.1.1), whose point is never looked at.
    let mut p521 = hex::decode("30819b301006072a8648ce3d020106052b810400230381860004").expect("hex");
    p521.resize(p521.len() + 132, 1);
    std::fs::write(folder.path().join("p521.pub"), pem::encode(&pem::Pem::new("PUBLIC KEY", p521))).expect("writes");
    std::fs::write(folder.path().join("junk.pub"), "junk").expect("writes");
    for (file, words) in [
        ("missing.pub", "the key missing.pub, which can't be used"),
        ("junk.pub", "the key junk.pub"),
        ("p521.pub", "unknown algorithm"),
    ] {
        let text = format!("version = 1\n[[rule]]\nkeys = ['{file}']\n");
        let policy = TrustPolicy::parse(text, folder.path()).expect("parses");
        let refusal = decide(&policy, None, &material(&stranger)).expect_err(file).to_string();
        assert!(refusal.contains(words), "{file}: {refusal}");
        assert!(matches!(decide(&policy, None, &[]), Err(Refusal::Unsigned { .. })));
    }
}

#[test]
fn the_old_signatures_stay_and_signing_twice_adds_nothing() {
    let (one, two) = (key(), key());
    let subject = subject(&digest_of("artifact"));
    let first = sign(&one, Some(REPOSITORY), &subject, None).expect("signs").simple;
    let second = sign(&two, Some(REPOSITORY), &subject, Some(&first.manifest)).expect("signs").simple;
    let again = sign(&one, Some(REPOSITORY), &subject, Some(&second.manifest)).expect("signs").simple;
    assert_eq!(again.manifest, second.manifest);
    let (layers, unusable) = sig_layers(&second.manifest);
    assert_eq!((layers.len(), unusable.len()), (2, 0));
    assert_eq!(first.tag, sig_tag(&subject.digest));
    let config: Value = serde_json::from_slice(&second.blobs[1].bytes).expect("is JSON");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    for bad in [&b"no"[..], b"{}", b"{\"layers\":[{}]}"] {
        assert!(matches!(sign(&one, None, &subject, Some(bad)), Err(SignError::OldManifest { .. })));
    }
}

#[test]
fn manifests_of_any_content_become_material_not_panics() {
    for bad in [&b""[..], b"[]", b"{\"schemaVersion\":2}", &vec![b'['; 5 << 20]] {
        let (layers, unusable) = sig_layers(bad);
        assert!(layers.is_empty() && unusable.len() == 1);
        assert!(bundle_descriptor(bad).is_err());
    }
    let forms = sign(&key(), None, &subject(&digest_of("artifact")), None).expect("signs");
    let huge = String::from_utf8(forms.simple.manifest.clone()).expect("text");
    let size = forms.simple.blobs[0].bytes.len();
    let huge = huge.replace(&format!("\"size\":{size}"), "\"size\":99999999");
    let (layers, unusable) = sig_layers(huge.as_bytes());
    assert!(layers.is_empty());
    assert!(matches!(
        unusable[0],
        SignatureMaterial::Unusable(Unusable::TooLarge { what: "payload", size: 99_999_999, .. })
    ));
    assert_eq!(bundle_descriptor(&forms.simple.manifest), Ok(None));
    let damaged = material_from_referrer(&forms.bundle.manifest, b"other".to_vec());
    assert!(matches!(damaged, Some(SignatureMaterial::Unusable(Unusable::Bundle(_)))));
}

#[test]
fn a_sha512_digest_is_signed_and_verified() {
    let key = key();
    let digest = oci::parse_digest(&format!("sha512:{}", "ab".repeat(64))).expect("parses");
    let forms = sign(&key, None, &subject(&digest), None).expect("signs");
    for one in material(&forms) {
        assert!(verify(&policy_for(&[key.public_pem()]), None, None, &digest, &[one], Override::None).is_ok());
    }
}

#[test]
fn a_verified_value_carries_its_proof() {
    let key = key();
    let forms = sign(&key, None, &subject(&digest_of("artifact")), None).expect("signs");
    let policy = policy_for(&[key.public_pem()]);
    let verified =
        verify_value("value", &policy, None, None, &digest_of("artifact"), &material(&forms), Override::None)
            .expect("accepted");
    assert_eq!((*verified, verified.digest()), ("value", &digest_of("artifact")));
    let again = Verified::by_memo("value", digest_of("artifact"), verified.acceptance().clone());
    assert_eq!(again, verified);
    assert_eq!(verified.map(str::len).into_parts().0, 5);
}
