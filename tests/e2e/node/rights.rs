//! Who may do what in the node's registry: `login` and what follows by the clients that people use, rights by repository.

use super::access::Authority;
use crate::support::{Home, Node, Output, run, sha256, tar_of, tool};

/// A node with a token file, and the tokens of three: for everything, for a team, for readers.
struct Guarded {
    home: Home,
    node: Node,
    all: String,
    team: String,
    reader: String,
}

impl Guarded {
    /// With this `config.toml`.
    fn start(config: &str) -> Self {
        let home = Home::new();
        std::fs::create_dir_all(home.vyr_home()).unwrap();
        std::fs::write(home.vyr_home().join("config.toml"), config).unwrap();
        let token = |words: &[&str]| home.vyr([&["token", "add"], words].concat()).expect(0).stdout.trim().to_owned();
        let all = token(&["all"]);
        let team = token(&["team", "--write", "team", "--read", "public"]);
        let reader = token(&["reader", "--read", "public", "--read", "team/app"]);
        let tokens = home.vyr_home().join("tokens");
        let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
        Self { home, node, all, team, reader }
    }

    /// Logs one of the clients in. It ends with 1 where the token isn't known.
    fn log_in(&self, client: &'static str, token: &str) -> Output {
        let host = self.node.host();
        let words: &[&str] = match client {
            "crane" => &["auth", "login", "-u", "me", "-p", token, &host],
            "skopeo" => {
                &["login", "--tls-verify=false", "--authfile", "auth.json", "-u", "me", "--password-stdin", &host]
            }
            _ => &["login", "-u", "me", "--password-stdin", &host],
        };
        let mut command = self.home.command(tool(client));
        command.args(words);
        run(command, token.as_bytes())
    }

    /// Pushes something with one of them.
    fn push(&self, client: &'static str, reference: &str) -> Output {
        match client {
            "crane" => {
                self.home.write("layer.tar", tar_of(&[("file", reference.as_bytes())]));
                self.home.tool(client, ["append", "-f", "layer.tar", "-t", reference])
            }
            "skopeo" => self.skopeo("copy", &["oci:image:made", &format!("docker://{reference}")]),
            _ => {
                self.home.write("file.txt", reference);
                self.home.tool(client, ["push", reference, "file.txt:text/plain"])
            }
        }
    }

    fn pull(&self, client: &'static str, reference: &str) -> Output {
        match client {
            "crane" => self.home.tool(client, ["pull", "--format", "oci", reference, "pulled-by-crane"]),
            "skopeo" => self.skopeo("copy", &[&format!("docker://{reference}"), "oci:pulled-by-skopeo:v1"]),
            _ => self.home.tool(client, ["pull", "-o", "pulled-by-oras", reference]),
        }
    }

    fn delete(&self, client: &'static str, reference: &str) -> Output {
        match client {
            "crane" => self.home.tool(client, ["delete", reference]),
            "skopeo" => self.home.tool(
                client,
                ["delete", "--tls-verify=false", "--authfile", "auth.json", &format!("docker://{reference}")],
            ),
            _ => self.home.tool(client, ["manifest", "delete", "-f", reference]),
        }
    }

    fn skopeo(&self, verb: &str, words: &[&str]) -> Output {
        let options =
            ["--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--authfile", "auth.json"];
        // `--dest-tls-verify` is no word for a folder, and harmless.
        self.home.tool("skopeo", [&[verb], &options[..], words].concat())
    }

    /// What skopeo pushes: an image of one layer, as a layout.
    fn image(&self) {
        self.home.write("seed.tar", tar_of(&[("file", b"seed")]));
        self.home.tool("umoci", ["init", "--layout", "image"]).expect(0);
        self.home.tool("umoci", ["new", "--image", "image:made"]).expect(0);
        self.home.tool("umoci", ["raw", "add-layer", "--image", "image:made", "seed.tar"]).expect(0);
    }
}

#[test]
fn each_client_logs_in_and_pushes_pulls_and_deletes_where_it_may() {
    let guarded = Guarded::start("");
    let host = guarded.node.host();
    guarded.image();
    for client in ["oras", "oras-older", "crane", "skopeo"] {
        let reference = |repository: &str| format!("{host}/{repository}/{client}:v1");
        // Not by who hasn't logged in.
        let nobody = guarded.push(client, &reference("team"));
        assert_ne!(nobody.status, 0, "{client} pushed without a credential");
        // crane only writes down what it is told.
        if client != "crane" {
            assert_ne!(guarded.log_in(client, "vyr_other").status, 0, "{client} logged in with a token of nobody's");
        }
        guarded.log_in(client, &guarded.all).expect(0);
        for repository in ["public", "team", "secret"] {
            guarded.push(client, &reference(repository)).expect(0);
        }

        guarded.log_in(client, &guarded.team).expect(0);
        guarded.push(client, &reference("team/deeper")).expect(0);
        guarded.pull(client, &reference("team/deeper")).expect(0);
        guarded.pull(client, &reference("public")).expect(0);
        for refused in [
            // What is there already a client may not push again, and so not be refused.
            guarded.push(client, &reference("public/new")),
            guarded.push(client, &reference("teams")),
            guarded.pull(client, &reference("secret")),
            guarded.delete(client, &reference("public")),
        ] {
            let said = format!("{}{}", refused.stdout, refused.stderr).to_lowercase();
            // oras 1.2 panics over two refusals at once.
            let told = client == "oras-older" || (said.contains("denied") || said.contains("403"));
            assert!(refused.status != 0 && told, "{client}: {refused:?}");
        }
        if client == "crane" {
            let copied = guarded.home.tool(client, ["copy", &reference("public"), &reference("team/copied")]).expect(0);
            copied.says(&["mounted blob"]);
        }
        guarded.delete(client, &reference("team/deeper")).expect(0);

        guarded.log_in(client, &guarded.reader).expect(0);
        guarded.pull(client, &reference("public")).expect(0);
        assert_ne!(guarded.push(client, &reference("public/new")).status, 0);
        assert_ne!(guarded.pull(client, &reference("team")).status, 0, "team is not team/app");
        guarded.log_in(client, &guarded.all).expect(0);
        assert_ne!(guarded.pull(client, &reference("public/new")).status, 0, "nothing of it was taken");
        guarded.log_in(client, &guarded.reader).expect(0);
        if client != "skopeo" {
            let verb: &[&str] = if client == "crane" { &["catalog", &host] } else { &["repo", "ls", &host] };
            let listed = guarded.home.tool(client, verb).expect(0).stdout;
            assert!(listed.contains(&format!("public/{client}")), "{listed}");
            assert!(!listed.contains("secret") && !listed.lines().any(|l| l.starts_with("team/")), "{listed}");
        }
    }
}

#[test]
fn an_identity_token_is_the_token_itself() {
    let guarded = Guarded::start("");
    let host = guarded.node.host();
    for (client, reference) in [("oras", format!("{host}/team/one:v1")), ("oras-older", format!("{host}/team/two:v1"))]
    {
        let mut command = guarded.home.command(tool(client));
        command.args(["login", "--identity-token-stdin", &host]);
        run(command, guarded.team.as_bytes()).expect(0);
        guarded.push(client, &reference).expect(0);
        guarded.pull(client, &reference).expect(0);
        assert_ne!(guarded.push(client, &format!("{host}/other:v1")).status, 0);
    }
}

#[test]
fn signatures_and_vyr_itself_go_where_the_token_may_write() {
    let guarded = Guarded::start("");
    let (home, host) = (&guarded.home, guarded.node.host());
    let wasm = vyr_guests::guest("hello-p1");
    let key = home.key("alice");
    home.credentials(&host, "me", &guarded.team);
    let digest = home.oras_push(&format!("{host}/team/app:v1"), &wasm);
    let signed = format!("{host}/team/app@{digest}");
    home.cosign2_sign(&signed, &key);
    home.cosign3_sign(&signed, &key);

    let other = Home::new();
    other.credentials(&host, "me", &guarded.reader);
    for cosign in ["cosign", "cosign-older"] {
        other.cosign_verify(cosign, &signed, &key.public).expect(0);
    }
    // The reader can read it, verify it and run it, and put nothing beside it.
    other.trust(&key);
    other.vyr(["run", &signed]).expect(0);
    let mut sign = other.command(tool("cosign-older"));
    // By another: a signature that is there isn't pushed again.
    let other_key = other.key("bob");
    sign.args(["sign", "-y", "--tlog-upload=false", "--key"]).arg(&other_key.private).arg(&signed);
    let refused = run(sign, b"");
    assert!(refused.status != 0 && refused.stderr.contains("DENIED"), "{refused:?}");
    let refused = other.vyr(["push", &format!("{host}/team/app:v2"), wasm.to_str().unwrap()]).expect(125);
    refused.says(&["403", "reader has no right to repository:team/app:pull,push", "next: "]);
    let refused = other.vyr(["pull", &format!("{host}/secret/app:v1")]).expect(125);
    refused.says(&["403", "ask for access", "next: "]);
    other.credentials(&host, "me", "vyr_other");
    other.vyr(["pull", &format!("{host}/team/app:v1")]).expect(125).says(&["token service", "401", "next: "]);

    let pusher = Home::new();
    pusher.credentials(&host, "me", &guarded.team);
    let pushed = pusher.vyr(["push", &format!("{host}/team/by-vyr:v1"), wasm.to_str().unwrap()]).expect(0);
    pusher.vyr(["run", pushed.stdout.trim()]).expect(0);
}

#[test]
fn what_is_open_to_read_needs_no_login_and_the_rest_does() {
    let guarded = Guarded::start("[serve]\nanonymous-read = [\"public\"]\n");
    let (home, host) = (&guarded.home, guarded.node.host());
    home.credentials(&host, "me", &guarded.all);
    for repository in ["public/app", "team/app"] {
        guarded.push("oras", &format!("{host}/{repository}:v1")).expect(0);
        guarded.push("crane", &format!("{host}/{repository}:v2")).expect(0);
    }
    home.tool("oras", ["logout", &host]).expect(0);
    for client in ["oras", "oras-older", "crane", "skopeo"] {
        let reference =
            |repository: &str| format!("{host}/{repository}:{}", if client.starts_with("oras") { "v1" } else { "v2" });
        let words = ["inspect", "--tls-verify=false", "--raw"];
        let pull = |repository: &str| match client {
            // Without the file that `skopeo login` writes, which isn't there.
            "skopeo" => home.tool(client, [&words[..], &[&format!("docker://{}", reference(repository))]].concat()),
            _ => guarded.pull(client, &reference(repository)),
        };
        pull("public/app").expect(0);
        assert_ne!(pull("team/app").status, 0, "{client}");
        if client != "skopeo" {
            assert_ne!(guarded.push(client, &reference("public/new")).status, 0, "{client}");
        }
    }
    let other = Home::new();
    other.vyr(["pull", &format!("{host}/public/app:v1")]).expect(0);
    other.vyr(["pull", &format!("{host}/team/app:v1")]).expect(125).says(&["401", "next: "]);
}

#[test]
fn rights_that_make_no_sense_are_refused_at_the_command() {
    let home = Home::new();
    for bad in ["UPPER", "../x", "a b", "te*", ""] {
        home.vyr(["token", "add", "x", "--read", bad]).expect(2).says(&["can't be the beginning"]);
        home.vyr(["serve", "--anonymous-read", bad]).expect(2).says(&["can't be the beginning"]);
    }
    home.vyr(["serve", "--anonymous-read", "public"]).expect(2).says(&["--token-file"]);
    home.vyr(["token", "add", "one", "--read", "*", "--write", "team/"]).expect(0);
    home.vyr(["token", "add", "two"]).expect(0);
    let listed = home.vyr(["token", "ls", "--output", "json"]).expect(0).stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        listed,
        serde_json::json!([
            { "name": "one", "api": false, "read": ["*"], "write": ["team"] },
            { "name": "two", "api": true, "read": ["*"], "write": ["*"] },
        ])
    );
    let text = std::fs::read_to_string(home.vyr_home().join("tokens")).unwrap();
    assert!(text.starts_with("one sha256:") && text.lines().next().unwrap().ends_with(" read:* write:team"), "{text}");
    assert!(!text.contains(&sha256(b"")), "each is another");
}

#[test]
fn over_tls_the_realm_is_by_tls_too() {
    let home = Home::new();
    let token = home.vyr(["token", "add", "team", "--write", "team"]).expect(0).stdout.trim().to_owned();
    let tokens = home.vyr_home().join("tokens");
    let authority = Authority::new();
    let (certificate, key) = authority.issue();
    let files = [("node.pem", &certificate), ("node.key", &key), ("ca.pem", &authority.pem)];
    let [cert, key, ca] = files.map(|(name, text)| home.write(name, text).to_str().unwrap().to_owned());
    let more = ["--token-file", tokens.to_str().unwrap(), "--tls-cert", &cert, "--tls-key", &key];
    let node = Node::start(&home, &more);
    let host = node.host();
    let mut asked = home.command("curl");
    asked.args(["-sik", &format!("https://{host}/v2/")]);
    let asked = run(asked, b"").expect(0).stdout.to_lowercase();
    assert!(asked.contains(&format!("bearer realm=\"https://{host}/v2/token\"")), "{asked}");
    let other = Home::new();
    other.credentials(&host, "me", &token);
    let wasm = vyr_guests::guest("hello-p1");
    let push = |repository: &str| {
        other.vyr(["--ca-file", &ca, "push", &format!("{host}/{repository}:v1"), wasm.to_str().unwrap()])
    };
    let pushed = push("team/app").expect(0);
    other.vyr(["--ca-file", &ca, "pull", pushed.stdout.trim()]).expect(0);
    push("other").expect(125).says(&["403"]);
    home.write("file.txt", "x");
    let mut login = home.command(tool("oras"));
    login.args(["login", "--plain-http=false", "--ca-file", &ca, "-u", "me", "--password-stdin", &host]);
    run(login, token.as_bytes()).expect(0);
    for (repository, code) in [("team/x", 0), ("other", 1)] {
        let reference = format!("{host}/{repository}:v1");
        home.tool("oras", ["push", "--plain-http=false", "--ca-file", &ca, &reference, "file.txt:text/plain"])
            .expect(code);
    }
}
