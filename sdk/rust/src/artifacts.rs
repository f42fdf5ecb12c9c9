//! Owns the calls about artifacts: putting one into the node's store from its parts, asking for what is there.

use std::fmt;
use std::future::IntoFuture;
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;
use tonic::{Response, Status};
use vyr_proto::v0::put_artifact_request::Part;
use vyr_proto::v0::{
    Artifact, BlobChunk, GetArtifactRequest, ListArtifactsRequest, PutArtifactHeader, PutArtifactRequest,
    PutArtifactResponse,
};

use crate::client::{Client, Pending};
use crate::error::{Error, Result};

/// What one message carries of a blob, in bytes. The bound is 1 MiB.
const CHUNK: usize = 512 << 10;
/// The most artifacts that one answer has.
const PAGE: u32 = 1000;

impl Client {
    /// Puts an artifact into the node's store: `client.put_artifact(digest, manifest).blob(digest, bytes).await?`.
    /// `manifest` is the manifest byte for byte, and `digest` what its digest must be.
    pub fn put_artifact(&self, digest: impl Into<String>, manifest: impl Into<Bytes>) -> PutArtifact {
        let header =
            PutArtifactHeader { digest: digest.into(), manifest: manifest.into(), ..PutArtifactHeader::default() };
        PutArtifact { client: self.clone(), header, blobs: Vec::new() }
    }

    /// An artifact of the node's store by its digest or a name in the store, with what the trust policy says of it. Nothing
    /// is pulled.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), and those of any call.
    pub async fn get_artifact(&self, reference: impl Into<String>) -> Result<StoredArtifact> {
        let request = GetArtifactRequest { reference: reference.into() };
        let answer = self.call(None, request, |mut c, r| async move { c.get_artifact(r).await }).await?;
        let artifact = answer.artifact.ok_or_else(|| Error::lacks("artifact"))?;
        Ok(StoredArtifact { artifact, manifest: answer.manifest })
    }

    /// What the node's store lists, in the order of digests. Signatures are listed too.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn list_artifacts(&self) -> Result<Vec<Artifact>> {
        let (mut artifacts, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListArtifactsRequest { page_size: PAGE, page_token };
            let page = self.call(None, request, |mut c, r| async move { c.list_artifacts(r).await }).await?;
            artifacts.extend(page.artifacts);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(artifacts);
            }
        }
    }
}

/// An artifact of a node's store: [`Client::get_artifact`].
#[derive(Debug, Clone, PartialEq)]
pub struct StoredArtifact {
    /// As it stands.
    pub artifact: Artifact,
    /// Its manifest, byte for byte.
    pub manifest: Bytes,
}

/// Where a blob's bytes come from.
pub enum Blob {
    /// From memory.
    Bytes(Bytes),
    /// From a file.
    File(PathBuf),
    /// From a reader. It can be read once: an artifact with one is not sent again after a failure.
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl Blob {
    /// From a reader, which can be read once.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::Reader(Box::new(reader))
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Reader(_) => f.write_str("a reader"),
        }
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<PathBuf> for Blob {
    fn from(file: PathBuf) -> Self {
        Self::File(file)
    }
}

/// An artifact on its way into a node's store: [`Client::put_artifact`]. Await it for the [`Artifact`].
///
/// There is no limit on how long it takes; a connection on which nothing moves for half a minute is given up.
#[derive(Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct PutArtifact {
    client: Client,
    header: PutArtifactHeader,
    blobs: Vec<(String, Blob)>,
}

impl PutArtifact {
    /// Adds a blob that the manifest names. One that the store has already may be left out.
    pub fn blob(mut self, digest: impl Into<String>, blob: impl Into<Blob>) -> Self {
        self.blobs.push((digest.into(), blob.into()));
        self
    }

    /// Adds a signature over the manifest's digest: a Sigstore bundle, as `cosign sign --bundle` writes it.
    pub fn signature(mut self, bundle: impl Into<Bytes>) -> Self {
        self.header.signatures.push(bundle.into());
        self
    }

    /// The name to give it: `host[:port]/repository:tag`. It also says which rules of the trust policy apply.
    pub fn tag(mut self, name: impl Into<String>) -> Self {
        self.header.tag = name.into();
        self
    }

    /// The manifest's media type. Without it: what the manifest says.
    pub fn media_type(mut self, media_type: impl Into<String>) -> Self {
        self.header.media_type = media_type.into();
        self
    }

    async fn send(self) -> Result<Artifact> {
        let once = self.blobs.iter().any(|(_, blob)| matches!(blob, Blob::Reader(_)));
        let mut tries = self.client.tries();
        let Self { client, header, mut blobs } = self;
        loop {
            let sent = if once { std::mem::take(&mut blobs) } else { again(&blobs) };
            match put(&client, header.clone(), sent).await {
                Err(error) if !once => tries.again(error).await?,
                answer => return answer,
            }
        }
    }
}

impl IntoFuture for PutArtifact {
    type Output = Result<Artifact>;
    type IntoFuture = Pending<Artifact>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

type Answer<'a> = BoxFuture<'a, Result<Response<PutArtifactResponse>, Status>>;

/// Those that can be read again.
fn again(blobs: &[(String, Blob)]) -> Vec<(String, Blob)> {
    let again = |blob: &Blob| match blob {
        Blob::Bytes(bytes) => Some(Blob::Bytes(bytes.clone())),
        Blob::File(file) => Some(Blob::File(file.clone())),
        Blob::Reader(_) => None,
    };
    blobs.iter().filter_map(|(digest, blob)| Some((digest.clone(), again(blob)?))).collect()
}

async fn put(client: &Client, header: PutArtifactHeader, blobs: Vec<(String, Blob)>) -> Result<Artifact> {
    let (failed, failure) = oneshot::channel();
    let (mut control, request) = (client.control(), client.request(parts(header, blobs, failed)));
    // By its own name: of the generic future the compiler can't see that it may be sent to another thread.
    let answer: Answer<'_> = Box::pin(control.put_artifact(request));
    tokio::select! {
        biased;
        Ok(error) = failure => Err(error),
        answer = answer => {
            let answer = answer.map_err(|status| client.error(&status))?.into_inner();
            answer.artifact.ok_or_else(|| Error::lacks("artifact"))
        }
    }
}

/// All messages of an artifact. One that can't be made is told to `failed`, and nothing follows, not even the end: the call is
/// given up then, and the node shouldn't take what it has for all.
fn parts(
    header: PutArtifactHeader,
    blobs: Vec<(String, Blob)>,
    failed: oneshot::Sender<Error>,
) -> BoxStream<'static, PutArtifactRequest> {
    let header = PutArtifactRequest { part: Some(Part::Header(header)) };
    let chunks: Vec<_> = blobs.into_iter().map(|(digest, blob)| chunks(digest, blob)).collect();
    let parts = stream::iter([Ok(header)]).chain(stream::iter(chunks).flatten());
    stream::unfold((parts, Some(failed)), |(mut parts, mut failed)| async move {
        match parts.next().await? {
            Ok(part) => Some((part, (parts, failed))),
            Err(error) => {
                drop(failed.take().map(|failed| failed.send(error)));
                std::future::pending().await
            }
        }
    })
    .boxed()
}

/// A blob as the messages that carry it: at least one.
fn chunks(digest: String, blob: Blob) -> BoxStream<'static, Result<PutArtifactRequest>> {
    let what = format!("{blob:?}");
    let pieces: BoxStream<'static, std::io::Result<Bytes>> = match blob {
        Blob::Bytes(bytes) => stream::iter(sliced(bytes)).map(Ok).boxed(),
        Blob::File(path) => stream::once(tokio::fs::File::open(path)).map_ok(pieces).try_flatten().boxed(),
        Blob::Reader(reader) => pieces(reader).boxed(),
    };
    pieces
        .map_ok(move |data| PutArtifactRequest { part: Some(Part::Chunk(BlobChunk { digest: digest.clone(), data })) })
        .map_err(move |e| Error::usage(format_args!("the blob from {what} can't be read: {e}")))
        .boxed()
}

/// A reader's bytes; an empty piece where there are none.
fn pieces(reader: impl AsyncRead + Send) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let read = ReaderStream::with_capacity(reader, CHUNK);
    stream::once(async { Ok(Bytes::new()) }).chain(read)
}

fn sliced(bytes: Bytes) -> impl Iterator<Item = Bytes> + Send {
    let pieces = bytes.len().div_ceil(CHUNK).max(1);
    (0..pieces).map(move |i| bytes.slice(i * CHUNK..bytes.len().min((i + 1) * CHUNK)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    async fn sizes(blob: Blob) -> Result<Vec<usize>> {
        chunks("sha256:0".into(), blob)
            .map_ok(|message| match message.part {
                Some(Part::Chunk(chunk)) => chunk.data.len(),
                _ => usize::MAX,
            })
            .try_collect()
            .await
    }

    #[tokio::test]
    async fn a_blob_comes_whole_whatever_it_comes_from() {
        let folder = tempfile::tempdir().unwrap();
        for size in [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let bytes = vec![7; size];
            let file = folder.path().join("blob");
            std::fs::write(&file, &bytes).unwrap();
            let readers = [Blob::from(bytes.clone()), file.into(), Blob::reader(std::io::Cursor::new(bytes))];
            for blob in readers {
                let shown = format!("{size} from {blob:?}");
                let sizes = sizes(blob).await.unwrap();
                assert!(!sizes.is_empty() && sizes.iter().all(|piece| *piece <= CHUNK), "{shown}: {sizes:?}");
                assert_eq!(sizes.iter().sum::<usize>(), size, "{shown}");
            }
        }
        let missing = sizes(folder.path().join("none").into()).await.unwrap_err();
        assert!(missing.kind() == ErrorKind::Usage && missing.message().contains("none"), "{missing}");
    }
}
