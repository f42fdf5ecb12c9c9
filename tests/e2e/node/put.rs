//! Artifacts by the API: streamed in, verified, listed, got.

use futures_util::stream;
use tonic::Code;
use vyr_proto::v0::put_artifact_request::Part;
use vyr_proto::v0::*;

use crate::support::{Client, Home, Node, sha256, spec};

fn header(manifest: &str, tag: &str) -> PutArtifactRequest {
    let header = PutArtifactHeader {
        digest: sha256(manifest.as_bytes()),
        manifest: manifest.as_bytes().to_vec().into(),
        tag: tag.to_owned(),
        ..PutArtifactHeader::default()
    };
    PutArtifactRequest { part: Some(Part::Header(header)) }
}

fn chunks(blob: &[u8], size: usize) -> Vec<PutArtifactRequest> {
    let digest = sha256(blob);
    blob.chunks(size)
        .map(|data| BlobChunk { digest: digest.clone(), data: data.to_vec().into() })
        .map(|chunk| PutArtifactRequest { part: Some(Part::Chunk(chunk)) })
        .collect()
}

fn manifest(layer: &[u8]) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/wasm","digest":"{}","size":{}}}]}}"#,
        sha256(b"{}"),
        sha256(layer),
        layer.len()
    )
}

async fn put(client: &mut Client, parts: Vec<PutArtifactRequest>) -> Result<Artifact, tonic::Status> {
    Ok(client.0.put_artifact(stream::iter(parts)).await?.into_inner().artifact.unwrap())
}

/// A home whose policy takes what nobody signed.
fn accepts_all() -> Home {
    let home = Home::new();
    std::fs::create_dir_all(home.vyr_home()).unwrap();
    std::fs::write(home.vyr_home().join("trust.toml"), "version = 1\ndefault = \"accept-unsigned\"\n").unwrap();
    home
}

#[tokio::test]
async fn an_artifact_comes_in_by_its_parts_and_runs_by_its_digest() {
    let home = accepts_all();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let wasm = std::fs::read(vyr_guests::guest("hello-p1")).unwrap();
    let manifest = manifest(&wasm);
    let parts =
        || [vec![header(&manifest, "registry.example/app:v1")], chunks(b"{}", 10), chunks(&wasm, 1000)].concat();

    let mut altered = parts();
    if let Some(Part::Chunk(chunk)) = &mut altered[20].part {
        chunk.data = vec![0; chunk.data.len()].into();
    }
    let refused = put(&mut client, altered).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let mut short = parts();
    short.truncate(10);
    assert!(put(&mut client, short).await.is_err());
    let missing = put(&mut client, vec![header(&manifest, "")]).await.unwrap_err();
    assert!(matches!(missing.code(), Code::NotFound | Code::FailedPrecondition), "{missing:?}");
    let listed = client.0.list_artifacts(ListArtifactsRequest::default()).await.unwrap().into_inner();
    assert!(listed.artifacts.is_empty(), "nothing is listed unless all of it is there: {listed:?}");

    let artifact = put(&mut client, parts()).await.unwrap();
    assert_eq!((artifact.digest.as_str(), artifact.form.as_str()), (&*sha256(manifest.as_bytes()), "oras-wasm"));
    assert!(artifact.trust.clone().unwrap().accepted, "{artifact:?}");
    assert_eq!(artifact.tags, ["registry.example/app:v1"]);
    let by_name = GetArtifactRequest { reference: "registry.example/app:v1".into() };
    let got = client.0.get_artifact(by_name).await.unwrap().into_inner();
    assert_eq!((got.artifact.unwrap().digest, &got.manifest[..]), (artifact.digest.clone(), manifest.as_bytes()));
    let task = client.run(spec(&artifact.digest, &[])).await;
    assert_eq!(task.status(), TaskStatus::Succeeded, "{task:?}");
    // What is there needs no blobs.
    put(&mut client, vec![header(&manifest, "")]).await.unwrap();
    let unknown = GetArtifactRequest { reference: "registry.example/other:v1".into() };
    assert_eq!(client.0.get_artifact(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_put_under_the_node_s_own_name_is_in_its_registry() {
    let home = accepts_all();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let wasm = std::fs::read(vyr_guests::guest("hello-p1")).unwrap();
    let manifest = manifest(&wasm);
    let name = format!("localhost:{}/app:v1", node.host().rsplit_once(':').unwrap().1);
    put(&mut client, [vec![header(&manifest, &name)], chunks(b"{}", 10), chunks(&wasm, 100_000)].concat())
        .await
        .unwrap();
    assert_eq!(client.run(spec(&name, &[])).await.status(), TaskStatus::Succeeded);
    // Others pull it from there, blobs and all.
    assert_eq!(home.crane_digest(&name), sha256(manifest.as_bytes()));
    home.tool("oras", ["pull", "--output", "pulled", &name]).expect(0);
    home.vyr(["run", &name]).expect(0);
}
