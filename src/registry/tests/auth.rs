//! The ways to prove who one is: tokens, identity tokens, helpers.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::{Act, Fake, Seen, answer, docker_config, quick};
use crate::ErrorKind;
use crate::oci;
use crate::registry::{Client, ClientOptions, DockerConfig};

fn client(docker_config: DockerConfig) -> Client {
    Client::new(ClientOptions { docker_config, ..quick() }).unwrap()
}

/// A registry and its token service in one: `token` decides which token a request to the service gets.
async fn with_tokens(token: impl Fn(&Seen) -> Option<&'static str> + Send + Sync + 'static) -> Fake {
    Fake::start(move |_, request| {
        if request.target.starts_with("/token") {
            return match token(request) {
                Some(token) => {
                    answer("200 OK", "", format!(r#"{{"access_token":"{token}","expires_in":60}}"#).as_bytes())
                }
                None => answer("401 Unauthorized", "", b"{}"),
            };
        }
        match request.header("authorization") {
            Some("Bearer good") if request.method == "POST" => {
                answer("202 Accepted", "Location: /v2/a/blobs/uploads/1\r\n", b"")
            }
            Some("Bearer good") if request.method == "PUT" => answer("201 Created", "Location: /x\r\n", b""),
            Some("Bearer good") if request.method == "HEAD" => answer("404 Not Found", "", b""),
            Some("Bearer good") => answer("200 OK", "", b"{}"),
            _ => {
                let host = request.header("host").unwrap_or_default();
                answer(
                    "401 Unauthorized",
                    &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token?a=b\",service=\"s v\"\r\n"),
                    b"",
                )
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_used() {
    let fake = with_tokens(|_| Some("good")).await;
    let client = client(DockerConfig::Anonymous);
    for _ in 0..2 {
        client.manifest(&fake.reference("a:v1")).await.unwrap();
    }
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|s| s.target.starts_with("/token")).count(), 1);
    assert_eq!(seen[1].target, "/token?a=b&service=s+v&scope=repository%3Aa%3Apull");
    assert!(seen[1].header("authorization").is_none());
    // Another repository is another scope.
    client.manifest(&fake.reference("b:v1")).await.unwrap();
    assert_eq!(fake.seen().iter().filter(|s| s.target.starts_with("/token")).count(), 2);
}

#[tokio::test]
async fn a_password_goes_to_the_token_service_and_its_token_to_uploads() {
    let fake = with_tokens(|r| (r.header("authorization") == Some("Basic bWU6c2VjcmV0")).then_some("good")).await;
    let (_folder, config) = docker_config(&format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, fake.address));
    let bytes = bytes::Bytes::from_static(b"content");
    client(config)
        .push_blob_bytes(&fake.reference("a:v1"), &oci::sha256(&bytes), bytes, Some("other"), &())
        .await
        .unwrap();
    let seen = fake.seen();
    assert!(seen.iter().any(|s| s.target.contains("scope=repository%3Aa%3Apull%2Cpush")), "{seen:?}");
    assert!(
        seen.iter().any(|s| s.target.contains("scope=repository%3Aother%3Apull")),
        "a mount needs the other repository: {seen:?}"
    );
    assert!(seen.iter().any(|s| s.method == "PUT" && s.body == b"content"));
    assert!(
        seen.iter()
            .filter(|s| !s.target.starts_with("/token"))
            .all(|s| !s.header("authorization").unwrap_or_default().starts_with("Basic"))
    );

    let error = client(DockerConfig::Anonymous).manifest(&fake.reference("a:v1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("docker login"), "{error}");
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let fake = Fake::start(|n, request| {
        if request.target.starts_with("/token") {
            return answer("200 OK", "", format!(r#"{{"token":"t{n}"}}"#).as_bytes());
        }
        // Each token is good once.
        let fresh = request.header("authorization") == Some(&format!("Bearer t{}", n.wrapping_sub(1)));
        if fresh {
            return answer("200 OK", "", b"{}");
        }
        let host = request.header("host").unwrap_or_default();
        answer("401 Unauthorized", &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n"), b"")
    })
    .await;
    let client = client(DockerConfig::Anonymous);
    for _ in 0..3 {
        client.manifest(&fake.reference("a:v1")).await.unwrap();
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_oauth2() {
    let fake = with_tokens(|r| {
        let form: Vec<(String, String)> = url::form_urlencoded::parse(&r.body).into_owned().collect();
        let has = |k: &str, v: &str| form.iter().any(|(a, b)| a == k && b == v);
        let good = r.method == "POST"
            && has("grant_type", "refresh_token")
            && has("refresh_token", "the identity")
            && has("service", "s v")
            && has("scope", "repository:a:pull");
        good.then_some("good")
    })
    .await;
    let (_folder, config) =
        docker_config(&format!(r#"{{"auths":{{"{}":{{"identitytoken":"the identity"}}}}}}"#, fake.address));
    client(config).manifest(&fake.reference("a:v1")).await.unwrap();
}

#[tokio::test]
async fn token_services_that_misbehave_are_told_apart() {
    for (act, kind, words) in [
        (answer("200 OK", "", b"{}"), ErrorKind::Unauthorized, "gave no token"),
        (answer("200 OK", "", b"{\"token\":\"a b\\r\\nX: y\"}"), ErrorKind::Unauthorized, "gave no token"),
        (answer("400 Bad Request", "", b""), ErrorKind::Unauthorized, "400"),
        (answer("503 Service Unavailable", "", b""), ErrorKind::Unavailable, "503"),
        (Act::Hang(Vec::new()), ErrorKind::Unavailable, "in time"),
    ] {
        let fake = Fake::start(move |_, request| {
            let host = request.header("host").unwrap_or_default();
            let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n");
            if request.target.starts_with("/token") { act.clone() } else { answer("401 Unauthorized", &challenge, b"") }
        })
        .await;
        let error = client(DockerConfig::Anonymous).manifest(&fake.reference("a:v1")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "no `{words}` in: {error}");
    }
}

/// Runs `helpers_child` again in a process of its own, whose PATH begins with a folder that holds `script` as
/// `docker-credential-vyrtest` and whose working folder holds `config`.
fn with_helper(script: &str, config: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let helper = folder.path().join("docker-credential-vyrtest");
    std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    std::fs::write(folder.path().join("expected"), expected).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "registry::tests::auth::helpers_child", "--nocapture"])
        .current_dir(folder.path())
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by the tests of helpers, in a folder that they make"]
fn helpers_child() {
    let found = match DockerConfig::Folder(".".into()).find("x:5000") {
        Ok(crate::registry::credentials::Credential::Anonymous) => "anonymous".to_owned(),
        Ok(crate::registry::credentials::Credential::Basic { username, password }) => format!("{username}/{password}"),
        Ok(crate::registry::credentials::Credential::Identity(token)) => format!("identity {token}"),
        Err(error) => error.to_string(),
    };
    let expected = std::fs::read_to_string("expected").unwrap();
    assert!(found.contains(&expected), "{found}");
}

#[test]
fn helpers_and_stores_are_asked() {
    let good = r#"read server; [ "$1 $server" = "get x:5000" ] && echo '{"ServerURL":"x:5000","Username":"me","Secret":"s3"}'"#;
    with_helper(good, r#"{"credHelpers":{"x:5000":"vyrtest"}}"#, "me/s3");
    with_helper(good, r#"{"credsStore":"vyrtest","auths":{"x:5000":{}}}"#, "me/s3");
    with_helper(
        r#"cat >&2; echo '{"Username":"<token>","Secret":"idt"}'"#,
        r#"{"credsStore":"vyrtest"}"#,
        "identity idt",
    );
    with_helper(
        "cat >&2; echo credentials not found in native keychain; exit 1",
        r#"{"credsStore":"vyrtest"}"#,
        "anonymous",
    );
    let broken = "the credential helper `docker-credential-vyrtest` for x:5000 failed: ";
    with_helper(
        "cat >/dev/null; echo the keychain is locked >&2; exit 1",
        r#"{"credsStore":"vyrtest"}"#,
        &format!("{broken}the keychain is locked"),
    );
    with_helper("cat >&2; echo nonsense", r#"{"credsStore":"vyrtest"}"#, &format!("{broken}its answer"));
    with_helper(
        "exit 1",
        r#"{"credHelpers":{"x:5000":"vyrtest"}}"#,
        "the credential helper `docker-credential-vyrtest` for x:5000 failed: ",
    );
}

#[tokio::test]
async fn a_registry_that_is_open_to_read_asks_at_the_upload() {
    let fake = Fake::start(|_, request| {
        let known = request.header("authorization") == Some("Basic bWU6c2VjcmV0");
        match request.method.as_str() {
            "HEAD" => answer("404 Not Found", "", b""),
            _ if !known => answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", b""),
            "POST" => answer("202 Accepted", "Location: /v2/a/blobs/uploads/1\r\n", b""),
            _ => answer("201 Created", "Location: /x\r\n", b""),
        }
    })
    .await;
    let (_folder, config) = docker_config(&format!(r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, fake.address));
    let bytes = bytes::Bytes::from_static(b"content");
    let (reference, digest) = (fake.reference("a:v1"), oci::sha256(&bytes));
    client(config).push_blob_bytes(&reference, &digest, bytes.clone(), None, &()).await.unwrap();
    let error =
        client(DockerConfig::Anonymous).push_blob_bytes(&reference, &digest, bytes, None, &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}

#[tokio::test]
async fn credentials_are_not_sent_in_clear_text_for_a_registry_behind_tls() {
    let (_folder, config) = docker_config(r#"{"auths":{"registry.invalid":{"auth":"bWU6c2VjcmV0"}}}"#);
    let client = client(config);
    let reference = oci::parse_reference("registry.invalid/a:v1").unwrap();
    let call = crate::registry::pull::blob_call(
        &reference,
        &oci::sha256(b""),
        reqwest::Method::GET,
        crate::registry::transport::Operation::Pull,
    );
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("www-authenticate", "Bearer realm=\"http://token.invalid/t\"".parse().unwrap());
    let failure = client.core.authorize(&call, &headers, None).await.unwrap_err();
    let error = crate::Error::from(failure.error);
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("clear text"), "{error}");
}
