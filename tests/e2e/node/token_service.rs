//! The registry's token service at the wire: challenges, short-lived tokens, and those that are none.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use vyr_proto::v0::GetNodeRequest;

use super::registry_http::{Http, header, refusal};
use crate::support::{Home, Node, Registry, sha256};

struct Guarded {
    home: Home,
    node: Node,
    http: Http,
    all: String,
    team: String,
}

fn start() -> Guarded {
    let home = Home::new();
    let token = |words: &[&str]| home.vyr([&["token", "add"], words].concat()).expect(0).stdout.trim().to_owned();
    let all = token(&["all"]);
    let team = token(&["team", "--write", "team", "--read", "public"]);
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
    let http = Http::of(&node);
    Guarded { home, node, http, all, team }
}

fn basic(token: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("whoever:{token}")))
}

impl Guarded {
    /// `method path` with an `authorization`.
    async fn with(&self, authorization: &str, method: &str, path: &str) -> reqwest::Response {
        self.http.send(method, path, &[("authorization", authorization)], "").await
    }

    /// A short-lived token for scopes.
    async fn pass(&self, token: &str, scopes: &[&str]) -> (String, Value) {
        let query: String = scopes.iter().map(|scope| format!("&scope={scope}")).collect();
        let given = self.with(&basic(token), "GET", &format!("/v2/token?service=vyr{query}")).await;
        assert_eq!((given.status().as_u16(), header(&given, "cache-control").as_str()), (200, "no-store"));
        let says: Value = serde_json::from_str(&given.text().await.unwrap()).unwrap();
        (format!("Bearer {}", says["token"].as_str().unwrap()), says)
    }

    /// A pass as the node would make it, by its secret.
    fn mint(&self, holder: Option<&str>, expires: u64, scopes: &[&str]) -> String {
        use aws_lc_rs::hmac;
        let secret = std::fs::read(self.home.vyr_home().join("keys/node.secret")).unwrap();
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), b"registry pass v1");
        let holder = holder.map(|token| sha256(token.as_bytes()).trim_start_matches("sha256:").to_owned());
        let says = json!({ "holder": holder, "expires": expires, "scopes": scopes }).to_string();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), says.as_bytes());
        format!("Bearer vyrt_{}.{}", URL_SAFE_NO_PAD.encode(&says), URL_SAFE_NO_PAD.encode(tag))
    }
}

#[tokio::test]
async fn who_is_not_known_is_shown_where_to_get_a_token_and_for_what() {
    let guarded = start();
    let address = &guarded.node.address;
    let realm = format!(r#"Bearer realm="http://{address}/v2/token",service="vyr""#);
    let digest = sha256(b"x");
    for (method, path, scope) in [
        ("GET", "/v2/".to_owned(), ""),
        ("GET", "/v2".to_owned(), ""),
        ("GET", "/v2/_catalog".to_owned(), r#",scope="registry:catalog:*""#),
        ("GET", "/v2/a/b/tags/list".to_owned(), r#",scope="repository:a/b:pull""#),
        ("HEAD", "/v2/a/b/manifests/v1".to_owned(), r#",scope="repository:a/b:pull""#),
        ("PUT", "/v2/a/b/manifests/v1".to_owned(), r#",scope="repository:a/b:pull,push""#),
        ("DELETE", "/v2/a/b/manifests/v1".to_owned(), r#",scope="repository:a/b:delete""#),
        ("POST", "/v2/a/b/blobs/uploads/".to_owned(), r#",scope="repository:a/b:pull,push""#),
        ("GET", format!("/v2/a/b/blobs/{digest}"), r#",scope="repository:a/b:pull""#),
        // What is no path of the registry's tells nobody more.
        ("GET", "/v2/a%2f..%2fb/tags/list".to_owned(), ""),
        ("GET", "/v2/A/tags/list".to_owned(), ""),
    ] {
        let asked = guarded.http.send(method, &path, &[], "").await;
        assert_eq!(header(&asked, "www-authenticate"), format!("{realm}{scope}"), "{method} {path}");
        if method == "HEAD" {
            assert_eq!(asked.status(), 401);
        } else {
            assert_eq!(refusal(asked).await, (401, "UNAUTHORIZED".into()), "{method} {path}");
        }
    }
    // A host that would break out of the header is not repeated.
    let odd = guarded.http.send("GET", "/v2/", &[("host", "a\",x=\"")], "").await;
    assert!(matches!(odd.status().as_u16(), 400 | 401));
    assert!(!header(&odd, "www-authenticate").contains("x="));
    let named =
        guarded.http.send("GET", "/v2/", &[("host", "node.example:1"), ("x-forwarded-proto", "https")], "").await;
    assert!(header(&named, "www-authenticate").starts_with(r#"Bearer realm="https://node.example:1/v2/token""#));
}

#[tokio::test]
async fn a_token_buys_a_short_one_for_what_it_may() {
    let guarded = start();
    let team = &guarded.team;
    let (pass, says) = guarded
        .pass(team, &["repository:team/app:pull,push", "repository:public/x:pull,push", "repository:secret:pull"])
        .await;
    assert_eq!(says["scope"], "repository:team/app:pull,push repository:public/x:pull");
    assert_eq!((&says["expires_in"], &says["token"]), (&json!(300), &says["access_token"]));
    assert!(says["issued_at"].as_str().unwrap().ends_with('Z') && says.get("refresh_token").is_none());
    assert_eq!(guarded.with(&pass, "GET", "/v2/").await.status(), 200);
    assert_eq!(guarded.with(&pass, "POST", "/v2/team/app/blobs/uploads/").await.status(), 202);
    // It wasn't made for that, but could be: the client is asked to get another.
    for (method, path, scope) in [
        ("POST", "/v2/team/other/blobs/uploads/", "repository:team/other:pull,push"),
        ("DELETE", "/v2/team/app/manifests/v1", "repository:team/app:delete"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        let asked = guarded.with(&pass, method, path).await;
        let challenge = header(&asked, "www-authenticate");
        assert!(challenge.ends_with(&format!(r#",scope="{scope}",error="insufficient_scope""#)), "{challenge}");
        assert_eq!(refusal(asked).await, (401, "UNAUTHORIZED".into()));
    }
    // It couldn't: another token won't help.
    for (authorization, name) in [(&pass, "team"), (&basic(team), "team"), (&format!("Bearer {team}"), "team")] {
        let denied = guarded.with(authorization, "POST", "/v2/public/x/blobs/uploads/").await;
        assert!(denied.headers().get("www-authenticate").is_none());
        let text = denied.text().await.unwrap();
        assert!(
            text.contains("DENIED") && text.contains(&format!("{name} has no right to repository:public/x:pull,push")),
            "{text}"
        );
        let denied = guarded.with(authorization, "GET", "/v2/secret/manifests/v1").await;
        assert_eq!(refusal(denied).await, (403, "DENIED".into()), "whether it is there or not");
    }

    // The OAuth2 form.
    let form = async |text: String| {
        let typed = [("content-type", "application/x-www-form-urlencoded")];
        guarded.http.send("POST", "/v2/token", &typed, text).await
    };
    let scope = "scope=repository:team/app:pull+registry:catalog:*&service=vyr&client_id=x";
    let given = form(format!("grant_type=password&username=u&password={team}&access_type=offline&{scope}")).await;
    assert_eq!(given.status(), 200);
    let says: Value = serde_json::from_str(&given.text().await.unwrap()).unwrap();
    assert_eq!(says["scope"], "repository:team/app:pull registry:catalog:*");
    let refresh = says["refresh_token"].as_str().unwrap();
    let given = form(format!("grant_type=refresh_token&refresh_token={refresh}&{scope}")).await;
    let says: Value = serde_json::from_str(&given.text().await.unwrap()).unwrap();
    let pass = format!("Bearer {}", says["access_token"].as_str().unwrap());
    assert_eq!(guarded.with(&pass, "GET", "/v2/_catalog").await.status(), 200);
    for (text, is) in [
        ("grant_type=password&username=u&password=vyr_other".to_owned(), (401, "UNAUTHORIZED")),
        ("grant_type=password&username=u".to_owned(), (401, "UNAUTHORIZED")),
        (format!("grant_type=refresh_token&refresh_token={}", &pass[7..]), (401, "UNAUTHORIZED")),
        ("grant_type=client_credentials".to_owned(), (400, "UNSUPPORTED")),
        (String::new(), (400, "UNSUPPORTED")),
        ("x".repeat(70_000), (413, "SIZE_INVALID")),
    ] {
        let refused = refusal(form(text.clone()).await).await;
        assert_eq!((refused.0, refused.1.as_str()), is, "{text:.60}");
    }
    for wrong in [basic("vyr_other"), "Basic %%%".into(), "nothing".into(), basic("")] {
        let refused = guarded.with(&wrong, "GET", "/v2/token").await;
        assert_eq!(header(&refused, "www-authenticate"), r#"Basic realm="vyr""#);
        assert_eq!(refusal(refused).await, (401, "UNAUTHORIZED".into()), "{wrong}");
    }
    assert_eq!(guarded.http.get("/v2/token").await.status(), 401, "nothing is open to whoever has none");
    assert_eq!(guarded.with(&basic(team), "PUT", "/v2/token").await.status(), 405);
}

#[tokio::test]
async fn what_is_expired_forged_altered_or_taken_back_is_no_token() {
    let guarded = start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let scopes = ["repository:team/app:pull,push"];
    let uploads = "/v2/team/app/blobs/uploads/";
    let good = guarded.mint(Some(&guarded.team), now + 60, &scopes);
    assert_eq!(guarded.with(&good, "POST", uploads).await.status(), 202, "the test makes them as the node does");

    let (says, tag) = good.trim_start_matches("Bearer vyrt_").split_once('.').unwrap();
    let more = String::from_utf8(URL_SAFE_NO_PAD.decode(says).unwrap()).unwrap().replace("team/app", "teams/xx");
    let other = { start().mint(Some(&guarded.team), now + 60, &scopes) };
    for (what, token) in [
        ("expired", guarded.mint(Some(&guarded.team), now - 1, &scopes)),
        ("of somebody unknown", guarded.mint(Some("vyr_nobody"), now + 60, &scopes)),
        ("of a guest where there are none", guarded.mint(None, now + 60, &scopes)),
        ("sealed by another node", other),
        ("with another scope", format!("Bearer vyrt_{}.{tag}", URL_SAFE_NO_PAD.encode(more))),
        ("without a seal", format!("Bearer vyrt_{says}.")),
        ("with another seal", format!("Bearer vyrt_{says}.{}", URL_SAFE_NO_PAD.encode([0; 32]))),
        ("no token at all", "Bearer vyrt_".into()),
        ("of another kind", "Digest x".into()),
    ] {
        let refused = guarded.with(&token, "POST", uploads).await;
        assert!(header(&refused, "www-authenticate").ends_with(r#",error="invalid_token""#), "{what}");
        assert_eq!(refusal(refused).await, (401, "UNAUTHORIZED".into()), "{what}");
        assert_eq!(guarded.with(&token, "GET", "/v2/").await.status(), 401, "{what}");
    }
    // More than the holder may: the seal doesn't help.
    let much = guarded.mint(Some(&guarded.team), now + 60, &["repository:secret:pull,push"]);
    assert_eq!(guarded.with(&much, "POST", "/v2/secret/blobs/uploads/").await.status(), 403);
    guarded.home.vyr(["token", "rm", "team"]).expect(0);
    assert_eq!(guarded.with(&good, "POST", uploads).await.status(), 401, "it went with its holder's token");
}

#[tokio::test]
async fn the_catalog_and_mounts_show_what_may_be_read() {
    let guarded = start();
    let (all, team) = (basic(&guarded.all), basic(&guarded.team));
    let push = async |repository: &str, bytes: &[u8]| {
        let digest = sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let put = guarded.http.send("POST", &path, &[("authorization", &all)], bytes.to_vec()).await;
        assert_eq!(put.status(), 201);
        digest
    };
    for repository in ["a/secret", "public/one", "public/two", "team", "team/app", "teams", "z"] {
        let config = push(repository, b"{}").await;
        let text = super::registry_http::manifest(&config, &config, 2, "");
        let typed = [("content-type", super::registry_http::MANIFEST), ("authorization", &all)];
        let put = guarded.http.send("PUT", &format!("/v2/{repository}/manifests/v1"), &typed, text).await;
        assert_eq!(put.status(), 201);
    }
    let mut next = "/v2/_catalog?n=1".to_owned();
    let mut seen = Vec::new();
    while !next.is_empty() {
        let page = guarded.with(&team, "GET", &next).await;
        next = header(&page, "link").split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let page: Value = serde_json::from_str(&page.text().await.unwrap()).unwrap();
        seen.extend(page["repositories"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()));
    }
    assert_eq!(seen, ["public/one", "public/two", "team", "team/app"]);
    let whole = guarded.with(&all, "GET", "/v2/_catalog").await.text().await.unwrap();
    assert_eq!(whole.matches("\",\"").count(), 6, "{whole}");

    let (secret, public) = (push("a/secret", b"secret").await, push("public/one", b"public").await);
    for (digest, from, status) in [
        (&secret, "&from=a/secret", 202),
        (&secret, "", 202),
        (&public, "&from=public/one", 201),
        (&public, "&from=a/secret", 202),
    ] {
        let path = format!("/v2/team/new/blobs/uploads/?mount={digest}{from}");
        assert_eq!(guarded.with(&team, "POST", &path).await.status(), status, "{path}");
    }
    assert_eq!(guarded.with(&team, "GET", &format!("/v2/team/new/blobs/{secret}")).await.status(), 404);
    // A short token mounts from what it was made for.
    let (narrow, _) = guarded.pass(&guarded.team, &["repository:team/x:pull,push"]).await;
    let (wide, _) = guarded.pass(&guarded.team, &["repository:team/x:pull,push", "repository:public/one:pull"]).await;
    let path = format!("/v2/team/x/blobs/uploads/?mount={public}&from=public/one");
    let asked = guarded.with(&narrow, "POST", &path).await;
    let scopes = r#"scope="repository:team/x:pull,push repository:public/one:pull",error="insufficient_scope""#;
    assert!(header(&asked, "www-authenticate").ends_with(scopes), "{asked:?}");
    assert_eq!(guarded.with(&wide, "POST", &path).await.status(), 201);
    let closed = format!("/v2/team/x/blobs/uploads/?mount={secret}&from=a/secret");
    assert_eq!(guarded.with(&narrow, "POST", &closed).await.status(), 202, "no token would help");
}

#[tokio::test]
async fn a_mirror_is_read_by_the_right_to_its_own_name() {
    let (registry, home) = (Registry::start(), Home::new());
    std::fs::create_dir_all(home.vyr_home()).unwrap();
    let settings = format!("[[mirror]]\nprefix = \"up\"\nupstream = \"{}\"\n", registry.host());
    std::fs::write(home.vyr_home().join("config.toml"), settings).unwrap();
    home.oras_push(&registry.reference("team/app", "v1"), &vyr_guests::guest("hello-p1"));
    let token = |words: &[&str]| home.vyr([&["token", "add"], words].concat()).expect(0).stdout.trim().to_owned();
    let (mirror, team) = (token(&["mirror", "--read", "up/team"]), token(&["team", "--write", "team"]));
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
    let http = Http::of(&node);
    let by_engine = format!("/v2/team/app/manifests/v1?ns={}", registry.host());
    for path in ["/v2/up/team/app/manifests/v1", &by_engine] {
        let asked = http.get(path).await;
        assert!(header(&asked, "www-authenticate").ends_with(r#"scope="repository:up/team/app:pull""#), "{asked:?}");
        for (token, status) in [(&mirror, 200), (&team, 403)] {
            let got = http.send("GET", path, &[("authorization", &basic(token))], "").await;
            assert_eq!(got.status(), status, "{path}");
        }
    }
    let listed = http.send("GET", "/v2/_catalog", &[("authorization", &basic(&team))], "").await;
    assert_eq!(listed.text().await.unwrap(), r#"{"repositories":[]}"#);
}

#[tokio::test]
async fn a_token_for_repositories_and_a_short_one_are_the_registrys_alone() {
    let guarded = start();
    let (pass, _) = guarded.pass(&guarded.all, &["repository:team/app:pull"]).await;
    let mut client = guarded.node.connect().await;
    for (authorization, may) in
        [(format!("Bearer {}", guarded.all), true), (format!("Bearer {}", guarded.team), false), (pass, false)]
    {
        let mut request = tonic::Request::new(GetNodeRequest {});
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
        match client.0.get_node(request).await {
            Ok(_) => assert!(may),
            Err(refused) => {
                assert!(!may);
                assert_eq!(refused.code(), tonic::Code::PermissionDenied);
                assert!(refused.message().contains("for the registry alone"), "{refused:?}");
            }
        }
        let metrics = guarded.with(&authorization, "GET", "/metrics").await;
        assert_eq!(metrics.status(), if may { 200 } else { 403 });
        assert_eq!(guarded.with(&authorization, "GET", "/healthz").await.status(), 200);
    }
    guarded.home.write("token", &guarded.team);
    let refused =
        guarded.home.vyr(["tasks", "--node", &format!("http://{}", guarded.node.address), "--token-file", "token"]);
    refused.expect(125).says(&["for the registry alone", "without --read and --write"]);
}
