//! A proxy between `vyr` and a real registry that spoils what a test says: one HTTP/1.1 exchange a connection, each by its
//! own fault.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What is done to an exchange.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// The answer comes so much later.
    Delay(Duration),
    /// The connection ends after so many bytes of the answer's body.
    Cut(usize),
    /// The connection is reset after so many.
    Reset(usize),
    /// One bit of this byte of the answer's body is another.
    Corrupt(usize),
    /// The answer says that it has so many bytes, and has them.
    Truncate(usize),
    /// The connection ends after so many bytes of the request's body, on both sides.
    CutUpload(usize),
    /// One bit of this byte of the request's body is another.
    CorruptUpload(usize),
    /// The request is done, and nobody hears of it.
    Lose,
    /// The connection ends, and nothing of it goes on.
    Refuse,
    /// The answer lacks this header, written in small letters.
    Strip(&'static str),
    /// The registry isn't asked: this status line with these headers, each ending in CRLF, and this body.
    Answer(&'static str, String, Vec<u8>),
}

/// A request that came through.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is for this blob's bytes.
    pub(crate) fn gets(&self, digest: &str) -> bool {
        self.method == "GET" && self.path.contains("/blobs/") && self.path.ends_with(digest)
    }
}

/// A running one; gone when dropped.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    runtime: Option<Runtime>,
}

type Script = dyn Fn(&Asked, usize) -> Fault + Send + Sync;

impl FaultProxy {
    /// Stands before `upstream` (`host:port`). `script` is asked for each request, with how many of its method and path
    /// came before it.
    pub(crate) fn start(upstream: &str, script: impl Fn(&Asked, usize) -> Fault + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, upstream, script): (_, _, Arc<Script>) = (Arc::clone(&asked), upstream.to_owned(), Arc::new(script));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, upstream, script) = (Arc::clone(&log), upstream.clone(), Arc::clone(&script));
                tokio::spawn(async move {
                    let _ = exchange(stream, &upstream, |request| {
                        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                        let before =
                            log.iter().filter(|r| r.method == request.method && r.path == request.path).count();
                        log.push(request.clone());
                        script(request, before)
                    })
                    .await;
                });
            }
        });
        Self { port, asked, runtime: Some(runtime) }
    }

    /// `localhost:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// What came through so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Reads up to the end of a head; what came after it is left over.
async fn head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes[..end]).into_owned(), rest));
        }
        // Nor is a TLS handshake waited for, which has no such end.
        if stream.read_buf(&mut bytes).await? == 0 || bytes.first() == Some(&0x16) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn headers(head: &str) -> Vec<(String, String)> {
    let pairs = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect()
}

/// A head again, without `connection` and what `leave` names: each exchange has a connection of its own.
fn written(head: &str, leave: Option<&str>, length: Option<usize>) -> String {
    let mut out = head.split("\r\n").next().unwrap_or_default().to_owned();
    for (name, value) in headers(head) {
        if name == "connection" || name == "keep-alive" || Some(name.as_str()) == leave {
            continue;
        }
        let value = if name == "content-length" { length.map_or(value, |n| n.to_string()) } else { value };
        out.push_str(&format!("\r\n{name}: {value}"));
    }
    out + "\r\nconnection: close\r\n\r\n"
}

async fn exchange(mut client: TcpStream, upstream: &str, decide: impl FnOnce(&Asked) -> Fault) -> std::io::Result<()> {
    let (request, begun) = head(&mut client).await?;
    let mut first = request.split(' ');
    let asked = Asked {
        method: first.next().unwrap_or_default().to_owned(),
        path: first.next().unwrap_or_default().to_owned(),
        headers: headers(&request),
    };
    let fault = decide(&asked);
    if let Fault::Answer(status, more, body) = &fault {
        let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        client.write_all(head.as_bytes()).await?;
        if asked.method != "HEAD" {
            client.write_all(body).await?;
        }
        // What was sent and isn't wanted is read, so that no reset overtakes the answer.
        client.shutdown().await?;
        let _ =
            tokio::time::timeout(Duration::from_secs(5), tokio::io::copy(&mut client, &mut tokio::io::sink())).await;
        return Ok(());
    }
    if matches!(fault, Fault::Refuse) {
        return Ok(());
    }
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(written(&request, None, None).as_bytes()).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();

    // The way there: the body as it comes.
    let sending = fault.clone();
    let there = async move {
        let (mut at, mut piece) = (0, begun);
        loop {
            match sending {
                Fault::CutUpload(most) if at + piece.len() > most => {
                    piece.truncate(most - at);
                    to_server.write_all(&piece).await?;
                    return Err(std::io::ErrorKind::ConnectionAborted.into());
                }
                Fault::CorruptUpload(byte) if (at..at + piece.len()).contains(&byte) => piece[byte - at] ^= 1,
                _ => {}
            }
            at += piece.len();
            to_server.write_all(&piece).await?;
            piece.clear();
            if from_client.read_buf(&mut piece).await? == 0 {
                // The other half stays open for the answer.
                std::future::pending::<()>().await;
            }
        }
    };
    let back = async {
        let mut answer = Vec::new();
        let end = loop {
            if let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            if from_server.read_buf(&mut answer).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
            }
        };
        let mut piece = answer.split_off(end + 4);
        let answer = String::from_utf8_lossy(&answer[..end]).into_owned();
        let (mut leave, mut length, mut most) = (None, None, usize::MAX);
        match fault {
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::Lose => return Ok(()),
            Fault::Strip(name) => leave = Some(name),
            Fault::Truncate(bytes) => (length, most) = (Some(bytes), bytes),
            Fault::Cut(bytes) | Fault::Reset(bytes) => most = bytes,
            _ => {}
        }
        to_client.write_all(written(&answer, leave, length).as_bytes()).await?;
        let mut at = 0;
        loop {
            piece.truncate(most - at);
            if let Fault::Corrupt(byte) = fault
                && (at..at + piece.len()).contains(&byte)
            {
                piece[byte - at] ^= 1;
            }
            at += piece.len();
            to_client.write_all(&piece).await?;
            piece.clear();
            if at == most || from_server.read_buf(&mut piece).await? == 0 {
                break;
            }
        }
        if matches!(fault, Fault::Reset(_)) {
            // Time for the other side to read what came before.
            tokio::time::sleep(Duration::from_millis(50)).await;
            // A close with a zero linger sends RST instead of FIN.
            rustix::net::sockopt::set_socket_linger(to_client.as_ref(), Some(Duration::ZERO))?;
        }
        Ok(())
    };
    let ended: std::io::Result<()> = tokio::select! {
        ended = back => ended,
        ended = there => ended,
    };
    ended
}
