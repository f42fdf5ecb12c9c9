//! A private Sigstore made here (a Fulcio-like authority, a Rekor-like log) and what it vouches for: accepted when all
//! fits, refused for each thing that doesn't. The real cosign 3 accepts the same bundle, so this Sigstore is no fiction.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use serde_json::{Value, json};

use super::support::*;
use crate::oci::{self, Digest};
use crate::trust::*;

const IDENTITY: &str = "https://github.com/acme/app/.github/workflows/ci.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";
/// 2024-01-02, within the certificate's two days.
const IN_TIME: i64 = 1_704_153_600;
/// 2024-02-02, a month after them.
const TOO_LATE: i64 = 1_706_832_000;

struct Sigstore {
    authority: CertificateParams,
    authority_key: KeyPair,
    log: SigningKey,
}

struct Signer {
    key: SigningKey,
    certificate: Vec<u8>,
}

impl Sigstore {
    fn new() -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("makes parameters");
        authority.distinguished_name.push(DnType::CommonName, "test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority.not_before = date_time_ymd(2020, 1, 1);
        authority.not_after = date_time_ymd(2040, 1, 1);
        Self { authority, authority_key: KeyPair::generate().expect("generates"), log: key() }
    }

    /// What Fulcio issues: a key for two days, an identity, and the issuer that vouched for it.
    fn signer(&self) -> Signer {
        let key = key();
        let mut leaf = CertificateParams::new(Vec::new()).expect("makes parameters");
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(IDENTITY.try_into().expect("is ASCII"))];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        leaf.not_before = date_time_ymd(2024, 1, 1);
        leaf.not_after = date_time_ymd(2024, 1, 3);
        leaf.use_authority_key_identifier_extension = true;
        let mut utf8_string = vec![0x0c, u8::try_from(ISSUER.len()).expect("is short")];
        utf8_string.extend(ISSUER.as_bytes());
        leaf.custom_extensions = vec![
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57264, 1, 1], ISSUER.as_bytes().to_vec()),
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57264, 1, 8], utf8_string),
        ];
        let leaf_key = KeyPair::from_pem(&key.to_pem()).expect("reads");
        let issuer = Issuer::from_params(&self.authority, &self.authority_key);
        let certificate = leaf.signed_by(&leaf_key, &issuer).expect("issues").der().to_vec();
        Signer { key, certificate }
    }

    fn root(&self) -> Value {
        let authority = self.authority.self_signed(&self.authority_key).expect("signs");
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [{
                "baseUrl": "https://log.test", "hashAlgorithm": "SHA2_256",
                "publicKey": { "rawBytes": self.log_spki(), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": { "start": "2020-01-01T00:00:00Z" } },
                "logId": { "keyId": self.log.verifying_key().hint() },
            }],
            "certificateAuthorities": [{
                "subject": { "organization": "test", "commonName": "test authority" }, "uri": "https://authority.test",
                "certChain": { "certificates": [{ "rawBytes": STANDARD.encode(authority.der()) }] },
                "validFor": { "start": "2020-01-01T00:00:00Z" },
            }],
        })
    }

    fn log_spki(&self) -> String {
        STANDARD.encode(pem::parse(self.log.public_pem()).expect("parses").contents())
    }

    fn log_id_hex(&self) -> String {
        self.log.key_id().replace("sha256:", "")
    }

    /// Rekor's promise: a signature over the entry in canonical JSON, whose keys are in order.
    fn promise(&self, body: &str, time: i64) -> String {
        let entry = format!(
            "{{\"body\":\"{body}\",\"integratedTime\":{time},\"logID\":\"{}\",\"logIndex\":0}}",
            self.log_id_hex()
        );
        STANDARD.encode(self.log.sign(entry.as_bytes()).expect("signs"))
    }

    /// The entry in a log that holds nothing else: the leaf is the root (RFC 6962 section 2.1).
    fn entry(&self, body: &[u8], kind: &str, time: i64) -> Value {
        let root = sha256([&[0], body].concat());
        // A tree's number after the name is how cosign tells Rekor 1's checkpoints from Rekor 2's.
        let note = format!("log.test - 1\n1\n{}\n", STANDARD.encode(&root));
        let id = hex::decode(self.log_id_hex()).expect("is hex");
        let signature = [&id[..4], &self.log.sign(note.as_bytes()).expect("signs")].concat();
        let checkpoint = format!("{note}\n\u{2014} log.test {}\n", STANDARD.encode(signature));
        let body = STANDARD.encode(body);
        json!({
            "logIndex": "0", "logId": { "keyId": self.log.verifying_key().hint() },
            "kindVersion": { "kind": kind, "version": "0.0.1" }, "integratedTime": time.to_string(),
            "inclusionPromise": { "signedEntryTimestamp": self.promise(&body, time) },
            "inclusionProof": { "logIndex": "0", "rootHash": STANDARD.encode(root), "treeSize": "1", "hashes": [], "checkpoint": { "envelope": checkpoint } },
            "canonicalizedBody": body,
        })
    }

    fn bundle(&self, signer: &Signer, digest: &Digest, time: i64) -> Value {
        // The statement as `sign` writes it, signed by the certificate's key.
        let forms = sign(&signer.key, None, &subject(digest), None).expect("signs");
        let mut bundle: Value = serde_json::from_slice(&forms.bundle.blobs[0].bytes).expect("is JSON");
        let envelope = &bundle["dsseEnvelope"];
        let payload = STANDARD.decode(envelope["payload"].as_str().expect("text")).expect("is base64");
        let body = json!({
            "apiVersion": "0.0.1", "kind": "dsse",
            "spec": {
                "envelopeHash": { "algorithm": "sha256", "value": hex::encode(sha256(envelope.to_string())) },
                "payloadHash": { "algorithm": "sha256", "value": hex::encode(sha256(payload)) },
                "signatures": [{ "signature": envelope["signatures"][0]["sig"], "verifier": STANDARD.encode(signer.certificate_pem()) }],
            },
        });
        bundle["verificationMaterial"] = json!({
            "certificate": { "rawBytes": STANDARD.encode(&signer.certificate) },
            "tlogEntries": [self.entry(body.to_string().as_bytes(), "dsse", time)],
        });
        bundle
    }

    /// A signature in the simple form with the signer's certificate and Rekor's promise.
    fn simple(&self, signer: &Signer, plain: &SimpleSignature, time: i64) -> SimpleSignature {
        let body = json!({
            "apiVersion": "0.0.1", "kind": "hashedrekord",
            "spec": {
                "data": { "hash": { "algorithm": "sha256", "value": hex::encode(sha256(&plain.payload)) } },
                "signature": { "content": plain.signature, "publicKey": { "content": STANDARD.encode(signer.certificate_pem()) } },
            },
        });
        let body = STANDARD.encode(body.to_string());
        let rekor = json!({
            "SignedEntryTimestamp": self.promise(&body, time),
            "Payload": { "body": body, "integratedTime": time, "logIndex": 0, "logID": self.log_id_hex() },
        });
        SimpleSignature { certificate: Some(signer.certificate_pem()), rekor: Some(rekor.to_string()), ..plain.clone() }
    }

    /// A policy with one identity entry and this Sigstore's trusted root.
    fn policy(&self, folder: &std::path::Path, identity: &str, regexp: bool, issuer: &str) -> TrustPolicy {
        std::fs::write(folder.join("root.json"), self.root().to_string()).expect("writes");
        let mut policy = TrustPolicy::parse("version = 1\n".into(), folder).expect("parses");
        let entry = IdentityEntry {
            identity: identity.into(),
            regexp,
            issuer: issuer.into(),
            trusted_root: "root.json".into(),
        };
        policy.add_identity("", &entry).expect("adds");
        policy
    }
}

impl Signer {
    fn certificate_pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("CERTIFICATE", self.certificate.clone()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }
}

fn sha256(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    hex::decode(oci::sha256(bytes.as_ref()).to_string().replace("sha256:", "")).expect("is hex")
}

fn decide(policy: &TrustPolicy, bundle: &Value) -> Result<Acceptance, Refusal> {
    let material = [SignatureMaterial::Bundle(bundle.to_string().into_bytes())];
    verify(policy, None, Some(REPOSITORY), &digest_of("artifact"), &material, Override::None)
}

#[test]
fn a_trusted_identity_is_accepted_by_name_and_by_pattern() {
    let folder = tempfile::tempdir().expect("a folder");
    let sigstore = Sigstore::new();
    let bundle = sigstore.bundle(&sigstore.signer(), &digest_of("artifact"), IN_TIME);
    for (identity, regexp) in [(IDENTITY, false), ("https://github.com/acme/.*", true)] {
        let accepted = decide(&sigstore.policy(folder.path(), identity, regexp, ISSUER), &bundle).expect("accepted");
        let Acceptance::Signed { signer, form: Form::Bundle, .. } = accepted else { panic!("{accepted:?}") };
        assert_eq!(signer, crate::trust::Signer::Identity { identity: IDENTITY.into(), issuer: ISSUER.into() });
    }
}

#[test]
fn each_way_that_a_certificate_fails_has_its_own_refusal() {
    let folder = tempfile::tempdir().expect("a folder");
    let sigstore = Sigstore::new();
    let signer = sigstore.signer();
    let digest = digest_of("artifact");
    let good = sigstore.bundle(&signer, &digest, IN_TIME);
    let policy = sigstore.policy(folder.path(), IDENTITY, false, ISSUER);

    let refused = |policy: &TrustPolicy, bundle: &Value, words: &str| {
        let refusal = decide(policy, bundle).expect_err(words).to_string();
        assert!(refusal.contains(words), "{words}: {refusal}");
    };
    for (identity, regexp, issuer) in [
        ("https://github.com/acme/other", false, ISSUER),
        ("github.com/acme", true, ISSUER),
        (IDENTITY, false, "https://accounts.google.com"),
    ] {
        refused(&sigstore.policy(folder.path(), identity, regexp, issuer), &good, "does not trust");
    }
    refused(&policy_for(&[key().public_pem()]), &good, IDENTITY);
    refused(
        &policy,
        &sigstore.bundle(&signer, &digest, TOO_LATE),
        "was not valid when it signed: it signed at 2024-02-02",
    );
    refused(&policy, &sigstore.bundle(&signer, &digest_of("another"), IN_TIME), "for another digest");

    let changed = |change: &dyn Fn(&mut Value)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        bundle
    };
    let entry =
        |bundle: &mut Value, field: &str, value: Value| bundle["verificationMaterial"]["tlogEntries"][0][field] = value;
    let no_entry = changed(&|bundle| bundle["verificationMaterial"]["tlogEntries"] = json!([]));
    refused(&policy, &no_entry, "no transparency log entry");
    // A time that Rekor didn't sign: the way to revive an expired certificate.
    refused(
        &policy,
        &changed(&|bundle| entry(bundle, "integratedTime", json!((IN_TIME + 1).to_string()))),
        "is not proven by the trusted root",
    );
    refused(
        &policy,
        &changed(&|bundle| entry(bundle, "inclusionPromise", Value::Null)),
        "is not proven by the trusted root",
    );
    let no_proof = changed(&|bundle| {
        entry(bundle, "inclusionProof", Value::Null);
    });
    refused(&policy, &no_proof, "malformed");
    // An entry of the same log for another signature.
    let another = sigstore.bundle(&signer, &digest, IN_TIME);
    let borrowed = changed(&|bundle| bundle["verificationMaterial"] = another["verificationMaterial"].clone());
    refused(&policy, &borrowed, "is not proven by the trusted root");
    let foreign = Sigstore::new();
    refused(&policy, &foreign.bundle(&foreign.signer(), &digest, IN_TIME), "is not proven by the trusted root");
    let mut two_logs = sigstore.root();
    two_logs["ctlogs"] = two_logs["tlogs"].clone();
    std::fs::write(folder.path().join("root.json"), two_logs.to_string()).expect("writes");
    let strict = TrustPolicy::parse(policy.to_toml().into(), folder.path()).expect("parses");
    refused(&strict, &good, "invalid signed certificate timestamp");
    std::fs::write(folder.path().join("root.json"), "{}").expect("writes");
    let broken = TrustPolicy::parse(policy.to_toml().into(), folder.path()).expect("parses");
    refused(&broken, &good, "the trusted root root.json, which can't be used");
}

#[test]
fn the_simple_form_of_cosign_2_works_with_a_certificate_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let sigstore = Sigstore::new();
    let signer = sigstore.signer();
    let policy = sigstore.policy(folder.path(), IDENTITY, false, ISSUER);
    let forms = sign(&signer.key, Some(REPOSITORY), &subject(&digest_of("artifact")), None).expect("signs");
    let SignatureMaterial::Simple(plain) = simple_material(&forms.simple) else { panic!("simple") };
    let with_time = |time: i64| sigstore.simple(&signer, &plain, time);
    let ask = |repository: &str, simple: SimpleSignature| {
        verify(
            &policy,
            None,
            Some(repository),
            &digest_of("artifact"),
            &[SignatureMaterial::Simple(simple)],
            Override::None,
        )
    };
    let accepted = ask(REPOSITORY, with_time(IN_TIME)).expect("accepted");
    assert!(matches!(
        accepted,
        Acceptance::Signed { form: Form::Simple, signer: crate::trust::Signer::Identity { .. }, .. }
    ));
    assert!(matches!(ask("localhost:5000/other", with_time(IN_TIME)), Err(Refusal::RepositoryMismatch { .. })));
    let late = ask(REPOSITORY, with_time(TOO_LATE));
    assert!(matches!(late, Err(Refusal::ExpiredCertificate { .. })), "{late:?}");
    let silent = SimpleSignature { rekor: None, ..with_time(IN_TIME) };
    assert!(
        matches!(ask(REPOSITORY, silent), Err(Refusal::MalformedPayload { why, .. }) if why.contains("no transparency log entry"))
    );
    let mut forged = with_time(IN_TIME);
    forged.rekor = forged.rekor.map(|json| json.replace(&IN_TIME.to_string(), &(IN_TIME + 1).to_string()));
    assert!(matches!(ask(REPOSITORY, forged), Err(Refusal::Unproven { .. })));
    let mut altered = with_time(IN_TIME);
    altered.payload.push(b' ');
    altered.payload_digest = None;
    let altered = ask(REPOSITORY, altered);
    assert!(matches!(altered, Err(Refusal::BadSignature { .. } | Refusal::Unproven { .. })), "{altered:?}");
}

#[tokio::test]
async fn cosign_accepts_the_same_bundle() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let sigstore = Sigstore::new();
    let artifact = registry.push_artifact("keyless", "keyless").await;
    let signer = sigstore.signer();
    let bundle = sigstore.bundle(&signer, &artifact.digest, IN_TIME).to_string().into_bytes();
    // The referrer of `sign`, with the keyless bundle in the place of the key's.
    let mut form = sign(&signer.key, None, &artifact, None).expect("signs").bundle;
    let mut manifest: Value = serde_json::from_slice(&form.manifest).expect("is JSON");
    manifest["layers"][0]["size"] = json!(bundle.len());
    manifest["layers"][0]["digest"] = json!(oci::sha256(&bundle).to_string());
    form.manifest = manifest.to_string().into_bytes();
    form.digest = oci::sha256(&form.manifest);
    form.blobs[0].bytes = bundle;
    registry.push_bundle("keyless", &artifact.digest, &form).await;
    let policy = sigstore.policy(folder.path(), IDENTITY, false, ISSUER);
    let found = registry.bundles("keyless", &artifact.digest).await;
    assert!(verify(&policy, None, None, &artifact.digest, &found, Override::None).is_ok());
    let reference = format!("{}/keyless@{}", registry.host, artifact.digest);
    for (identity, accepted) in [(IDENTITY, true), ("https://github.com/acme/other", false)] {
        let flags = [
            "--trusted-root",
            "root.json",
            "--insecure-ignore-sct",
            "--certificate-identity",
            identity,
            "--certificate-oidc-issuer",
            ISSUER,
        ];
        let (ok, words) = run(&cosign("sid"), folder.path(), &[&["verify"], &flags[..], &[&reference]].concat());
        assert_eq!(ok, accepted, "{words}");
    }
}

#[test]
#[ignore = "makes fuzz/trust and fuzz/seeds/signature anew"]
fn seeds_for_fuzzing() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let write = |path: &str, bytes: &[u8]| {
        let path = fuzz.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, bytes).expect("written");
    };
    let (sigstore, key, digest) = (Sigstore::new(), key(), digest_of("artifact"));
    let signer = sigstore.signer();
    write("trust/root.json", sigstore.root().to_string().as_bytes());
    write("trust/key.pub", key.public_pem().as_bytes());
    let policy = format!(
        "version = 1\ntrust-machine-key = false\n\n[[rule]]\nkeys = [\"key.pub\"]\n\n[[rule.identity]]\n\
         identity-regexp = \"https://github.com/acme/.*\"\nissuer = \"{ISSUER}\"\ntrusted-root = \"root.json\"\n\n\
         [[rule]]\nrepository = \"localhost:5000/rejected\"\naction = \"reject\"\n"
    );
    write("trust/trust.toml", policy.as_bytes());
    let forms = sign(&key, Some(REPOSITORY), &subject(&digest), None).expect("signs");
    let SignatureMaterial::Simple(plain) = simple_material(&forms.simple) else { panic!("simple") };
    let joined = |simple: &SimpleSignature| {
        let words = [&simple.certificate, &simple.chain, &simple.rekor].map(|word| word.clone().unwrap_or_default());
        [
            &simple.payload[..],
            simple.signature.as_bytes(),
            words[0].as_bytes(),
            words[1].as_bytes(),
            words[2].as_bytes(),
        ]
        .join(&0)
    };
    write("seeds/signature/simple", &joined(&plain));
    write("seeds/signature/simple-keyless", &joined(&sigstore.simple(&signer, &plain, IN_TIME)));
    write("seeds/signature/simple-late", &joined(&sigstore.simple(&signer, &plain, TOO_LATE)));
    write("seeds/signature/simple-manifest.json", &forms.simple.manifest);
    write("seeds/signature/bundle-manifest.json", &forms.bundle.manifest);
    write("seeds/signature/bundle.json", &forms.bundle.blobs[0].bytes);
    let keyless = sigstore.bundle(&signer, &digest, IN_TIME).to_string();
    write("seeds/signature/bundle-keyless.json", keyless.as_bytes());
    let other = sign(&self::key(), None, &subject(&digest_of("another artifact")), None).expect("signs");
    write("seeds/signature/bundle-of-a-stranger.json", &other.bundle.blobs[0].bytes);
}
