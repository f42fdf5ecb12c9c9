//! The real cosign 2 and 3, a real registry: what they sign verifies here, and what is signed here verifies there.

use super::support::*;
use crate::trust::*;

const COSIGNS: [&str; 2] = ["sid", "trixie"];

#[tokio::test]
async fn what_cosign_signs_is_accepted() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (cosign3, cosign2) = (cosign("sid"), cosign("trixie"));
    run_ok(&cosign3, folder.path(), &["signing-config", "create", "--out", "sc.json"]);
    run_ok(&cosign3, folder.path(), &["generate-key-pair", "--output-key-prefix", "by3"]);
    run_ok(&cosign2, folder.path(), &["generate-key-pair", "--output-key-prefix", "by2"]);
    for (name, algorithm) in [("ed25519", Algorithm::Ed25519), ("rsa", Algorithm::Rsa2048)] {
        let pem = SigningKey::generate(algorithm).expect("generates").to_pem();
        std::fs::write(folder.path().join(format!("{name}.pem")), pem.as_bytes()).expect("writes");
        run_ok(
            &cosign3,
            folder.path(),
            &["import-key-pair", "-y", "--key", &format!("{name}.pem"), "--output-key-prefix", name],
        );
    }
    let p384 = aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1_SIGNING)
        .and_then(|pair| pair.to_pkcs8v1())
        .expect("generates");
    let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", p384.as_ref().to_vec()));
    std::fs::write(folder.path().join("p384.pem"), pem).expect("writes");
    run_ok(&cosign3, folder.path(), &["import-key-pair", "-y", "--key", "p384.pem", "--output-key-prefix", "p384"]);
    for name in ["by3", "by2", "ed25519", "rsa", "p384"] {
        let repository = format!("team/{name}");
        let artifact = registry.push_artifact(&repository, name).await;
        let reference = format!("{}/{repository}@{}", registry.host, artifact.digest);
        let key = format!("{name}.key");
        let policy = policy_for(&[std::fs::read_to_string(folder.path().join(format!("{name}.pub"))).expect("reads")]);
        let ask = |material: Vec<SignatureMaterial>| {
            let found = format!("{}/{repository}", registry.host);
            verify(&policy, None, Some(&found), &artifact.digest, &material, Override::None)
                .map(|accepted| accepted.form())
        };
        assert!(matches!(ask(registry.simple(&repository, &artifact.digest).await), Err(Refusal::Unsigned { .. })));
        run_ok(&cosign2, folder.path(), &["sign", "--key", &key, "--tlog-upload=false", "-y", &reference]);
        assert_eq!(ask(registry.simple(&repository, &artifact.digest).await), Ok("simple"), "cosign 2, {name}");
        run_ok(&cosign3, folder.path(), &["sign", "--key", &key, "--signing-config", "sc.json", "-y", &reference]);
        let bundles = registry.bundles(&repository, &artifact.digest).await;
        assert_eq!(bundles.len(), 1, "{name}");
        assert_eq!(ask(bundles), Ok("bundle"), "cosign 3, {name}");
        // The encrypted key file opens here, and is the same key.
        let private = std::fs::read_to_string(folder.path().join(&key)).expect("reads");
        let private = SigningKey::from_pem(&private, Some(b"pass word"));
        if name == "p384" {
            // Verified, not signed with.
            assert!(matches!(private, Err(KeyError::UnknownAlgorithm(_))));
            continue;
        }
        let private = private.expect("opens");
        assert_eq!(policy.rules()[0].keys[0].1.as_deref(), Some(private.key_id()));
    }
    // cosign 3's classic form.
    let artifact = registry.push_artifact("classic", "classic").await;
    let reference = format!("{}/classic@{}", registry.host, artifact.digest);
    let flags = ["--use-signing-config=false", "--new-bundle-format=false", "--tlog-upload=false"];
    run_ok(&cosign3, folder.path(), &[&["sign", "--key", "by3.key", "-y"], &flags[..], &[&reference]].concat());
    let policy = policy_for(&[std::fs::read_to_string(folder.path().join("by3.pub")).expect("reads")]);
    let material = registry.simple("classic", &artifact.digest).await;
    let found = format!("{}/classic", registry.host);
    assert!(verify(&policy, None, Some(&found), &artifact.digest, &material, Override::None).is_ok());
}

#[tokio::test]
async fn cosign_accepts_what_is_signed_here() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519, Algorithm::Rsa2048] {
        let key = SigningKey::generate(algorithm).expect("generates");
        std::fs::write(folder.path().join("key.pub"), key.public_pem()).expect("writes");
        std::fs::write(folder.path().join("other.pub"), super::support::key().public_pem()).expect("writes");
        for forms in ["simple", "bundle", "both"] {
            let repository = format!("{}/{forms}", format!("{algorithm:?}").to_lowercase());
            let artifact = registry.push_artifact(&repository, &repository).await;
            let found = format!("{}/{repository}", registry.host);
            let signed = sign(&key, Some(&found), &artifact, None).expect("signs");
            if forms != "bundle" {
                registry.push_simple(&repository, &signed.simple).await;
            }
            if forms != "simple" {
                registry.push_bundle(&repository, &artifact.digest, &signed.bundle).await;
            }
            let reference = format!("{found}@{}", artifact.digest);
            for suite in COSIGNS {
                let program = cosign(suite);
                // cosign 2 doesn't see bundles: that's why both forms are written.
                let sees = suite == "sid" || forms != "bundle";
                let (ok, words) = run(
                    &program,
                    folder.path(),
                    &["verify", "--key", "key.pub", "--insecure-ignore-tlog=true", &reference],
                );
                assert_eq!(ok, sees, "{suite} {repository}: {words}");
                let (ok, _) = run(
                    &program,
                    folder.path(),
                    &["verify", "--key", "other.pub", "--insecure-ignore-tlog=true", &reference],
                );
                assert!(!ok, "{suite} {repository}: accepted for another key");
            }
        }
    }
}

#[tokio::test]
async fn cosign_signs_with_a_key_that_is_encrypted_here() {
    let registry = Registry::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519, Algorithm::Rsa2048] {
        let key = SigningKey::generate(algorithm).expect("generates");
        let pem = key.to_encrypted_pem(b"pass word").expect("encrypts");
        std::fs::write(folder.path().join("ours.key"), pem.as_bytes()).expect("writes");
        for suite in COSIGNS {
            let repository = format!("{suite}/{}", format!("{algorithm:?}").to_lowercase());
            let artifact = registry.push_artifact(&repository, &repository).await;
            let found = format!("{}/{repository}", registry.host);
            let reference = format!("{found}@{}", artifact.digest);
            let flags: &[&str] =
                if suite == "sid" { &["--use-signing-config=false", "--new-bundle-format=false"] } else { &[] };
            let call = [&["sign", "--key", "ours.key", "--tlog-upload=false", "-y"], flags, &[&reference]].concat();
            run_ok(&cosign(suite), folder.path(), &call);
            let material = registry.simple(&repository, &artifact.digest).await;
            let accepted = verify(
                &policy_for(&[key.public_pem()]),
                None,
                Some(&found),
                &artifact.digest,
                &material,
                Override::None,
            );
            assert!(accepted.is_ok(), "{suite} {algorithm:?}: {accepted:?}");
        }
    }
}
