//! A registry that misbehaves in one way: a fault injector, and the only registry here that isn't a real one.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What it answers to one request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A whole answer: status, content type, body.
    Whole(u16, &'static str, Vec<u8>),
    /// Says that so many bytes come, sends the body, closes.
    Cut(usize, Vec<u8>),
    /// Nothing, for as long as the client waits.
    Hang,
}

/// Its address, and how often it was asked.
#[derive(Debug)]
pub(crate) struct BadRegistry {
    pub(crate) host: String,
    asked: Arc<AtomicUsize>,
}

impl BadRegistry {
    /// Answers each request by `answer(path)`.
    pub(crate) fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("localhost:{}", listener.local_addr().unwrap().port());
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, count) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
                std::thread::spawn(move || drop(serve(&stream, &*answer, &count)));
            }
        });
        Self { host, asked }
    }

    /// How many requests came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(stream: &TcpStream, answer: &dyn Fn(&str) -> Reply, count: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let mut words = request.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        count.fetch_add(1, Ordering::SeqCst);
        let mut out = stream;
        match answer(path) {
            Reply::Hang => loop {
                std::thread::park();
            },
            Reply::Whole(status, kind, body) => {
                write!(out, "HTTP/1.1 {status} It\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len())?;
                if method != "HEAD" {
                    out.write_all(&body)?;
                }
            }
            Reply::Cut(length, body) => {
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
                )?;
                out.write_all(&body)?;
                return out.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}
