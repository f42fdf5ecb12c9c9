//! Owns the way from a layer's compressed bytes to its tar stream: a thread that reads, decompresses and hashes while the
//! caller's writes files, with a fixed number of buffers going round between the two.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use aws_lc_rs::digest::{Context, SHA256};

/// The size of one buffer in bytes: large files are written in pieces of this.
const BUFFER: usize = 256 << 10;
/// How many go round.
const BUFFERS: usize = 16;
/// How much is read of the compressed layer at once, in bytes.
const READ: usize = 128 << 10;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Whether layers of this media type can be unpacked. How one is compressed is not taken from it.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md> and
/// <https://distribution.github.io/distribution/spec/manifest-v2-2/#media-types>
///
/// # Errors
/// Why not.
pub(super) fn known(media_type: &str) -> Result<(), &'static str> {
    let kind = media_type.split(';').next().unwrap_or_default().trim();
    if kind.contains("foreign") {
        return Err("a foreign layer isn't distributed with its image");
    }
    if kind.contains("encrypted") {
        return Err("the layer is encrypted");
    }
    let plain = kind.trim_end_matches("+gzip").trim_end_matches("+zstd");
    let plain = plain.trim_end_matches(".gzip").trim_end_matches(".gz").trim_end_matches(".zstd");
    if plain.ends_with(".tar") || plain.ends_with("/x-tar") || plain.ends_with(".layer") {
        return Ok(());
    }
    match kind {
        "" | "application/octet-stream" | "application/gzip" | "application/x-gzip" | "application/zstd" => Ok(()),
        _ => Err("it isn't a tar archive, plain or compressed with gzip or zstd"),
    }
}

/// Looks at the first bytes: media types lie, and a name that begins like a compressed stream still has a tar header.
fn compression(first: &[u8]) -> io::Result<Compression> {
    let ustar = first.get(257..262) == Some(b"ustar");
    match first {
        _ if ustar => Ok(Compression::None),
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(io::Error::other("xz compression isn't one of OCI's")),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(io::Error::other("bzip2 compression isn't one of OCI's")),
        _ => Ok(Compression::None),
    }
}

/// Tells how much was read.
struct Counted<'a> {
    inner: Box<dyn Read + Send>,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let some = self.inner.read(buffer)?;
        if some > 0 {
            (self.progress)(some as u64);
        }
        Ok(some)
    }
}

/// What the thread sends.
enum Piece {
    Data(Vec<u8>),
    End([u8; 32]),
    Failed(io::Error),
}

/// The writer's end: the uncompressed stream.
pub(super) struct Stream {
    pieces: Receiver<Piece>,
    spent: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    digest: Option<[u8; 32]>,
}

/// The thread's end.
pub(super) struct Pump {
    pieces: SyncSender<Piece>,
    spent: Receiver<Vec<u8>>,
}

/// Both ends.
pub(super) fn pipe() -> (Pump, Stream) {
    let (pieces, receive) = sync_channel(BUFFERS);
    let (spent, again) = sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        // There is room for as many.
        let _ = spent.try_send(Vec::new());
    }
    (Pump { pieces, spent: again }, Stream { pieces: receive, spent, current: Vec::new(), at: 0, digest: None })
}

impl Pump {
    /// Reads to the end. Stops when nobody listens any more.
    pub(super) fn run(
        self,
        open: &(dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) {
        let last = match self.pump(open, progress) {
            Ok(Some(digest)) => Piece::End(digest),
            Ok(None) => return,
            Err(e) => Piece::Failed(e),
        };
        let _ = self.pieces.send(last);
    }

    fn pump(
        &self,
        open: &(dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) -> io::Result<Option<[u8; 32]>> {
        let mut raw = Counted { inner: open()?, progress };
        let mut first = Vec::with_capacity(512);
        raw.by_ref().take(512).read_to_end(&mut first)?;
        let how = compression(&first)?;
        let whole = BufReader::with_capacity(READ, io::Cursor::new(first).chain(raw));
        match how {
            Compression::None => self.forward(whole),
            Compression::Gzip => self.forward(flate2::bufread::MultiGzDecoder::new(whole)),
            Compression::Zstd => self.forward(zstd::stream::read::Decoder::with_buffer(whole)?),
        }
    }

    fn forward(&self, mut from: impl Read) -> io::Result<Option<[u8; 32]>> {
        let mut hash = Context::new(&SHA256);
        loop {
            let Ok(mut buffer) = self.spent.recv() else {
                return Ok(None);
            };
            buffer.resize(BUFFER, 0);
            let mut filled = 0;
            let mut ended = false;
            while filled < BUFFER {
                match from.read(&mut buffer[filled..]) {
                    Ok(0) => {
                        ended = true;
                        break;
                    }
                    Ok(some) => filled += some,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            hash.update(&buffer[..filled]);
            buffer.truncate(filled);
            if filled > 0 && self.pieces.send(Piece::Data(buffer)).is_err() {
                return Ok(None);
            }
            if ended {
                let mut digest = [0; 32];
                digest.copy_from_slice(hash.finish().as_ref());
                return Ok(Some(digest));
            }
        }
    }
}

impl Stream {
    /// The digest of the whole stream, once it has been read to its end.
    pub(super) fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let some = self.fill_buf()?.read(buffer)?;
        self.consume(some);
        Ok(some)
    }
}

impl BufRead for Stream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.current.len() && self.digest.is_none() {
            // A full channel can't be: it has room for all buffers there are. One that nobody empties doesn't matter.
            let _ = self.spent.try_send(std::mem::take(&mut self.current));
            self.at = 0;
            match self.pieces.recv() {
                Ok(Piece::Data(buffer)) => self.current = buffer,
                Ok(Piece::End(digest)) => self.digest = Some(digest),
                Ok(Piece::Failed(e)) => return Err(e),
                Err(_) => return Err(io::Error::other("the thread that reads the layer has ended")),
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, some: usize) {
        self.at = (self.at + some).min(self.current.len());
    }
}
