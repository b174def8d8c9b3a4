//! A web server and its client, just large enough to move content and to hash it on both ends.
//!
//! ```text
//!   GET /bytes/LENGTH/SEED   that many octets of that seed (content.rs)
//!   PUT /anything            swallows the body, answers "LENGTH SHA256"
//! ```
//!
//! The client notes the longest silence within a transfer: what a person would feel of a failure.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::content::{self, Content, Hasher};
use super::netns::Netns;
use crate::ensure;
use crate::outcome::{Context, Result};

pub const PORT: u16 = 80;

/// Longest wait for a single read or write: a tunnel that stays away longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server, until it is dropped.
#[derive(Debug)]
pub struct Server {
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What a transfer came to.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub bytes: u64,
    pub sha256: String,
    pub elapsed: Duration,
    /// The longest time without progress.
    pub longest_silence: Duration,
}

impl Transfer {
    pub fn megabits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

/// What to move: `bytes` octets of `seed`, from or to `server`; `from` chooses one of several inner addresses.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub server: IpAddr,
    pub from: Option<IpAddr>,
    pub bytes: u64,
    pub seed: u64,
    /// Octets on the way at most, as the receive window of a download says; `None`: as the kernel likes.
    pub in_flight: Option<usize>,
}

impl Server {
    pub fn start(namespace: &Netns, port: u16) -> Result<Server> {
        let listener = namespace.within(move || -> Result<TcpListener> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_only_v6(false)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
            socket.listen(512)?;
            socket.set_nonblocking(true)?;
            Ok(socket.into())
        })??;
        let ending = Arc::new(AtomicBool::new(false));
        let seen = ending.clone();
        let thread = namespace.spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A connection that fails is the client's to notice.
                    Ok((stream, _)) => drop(std::thread::spawn(move || serve(stream))),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        })?;
        Ok(Server { ending, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream) -> Result {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream.try_clone()?);
    let (request, length) = read_head(&mut reader)?;
    let mut words = request.split_whitespace();
    match (words.next(), words.next()) {
        (Some("GET"), Some(path)) => {
            let mut parts = path.trim_start_matches("/bytes/").split('/');
            let bytes: u64 = parts.next().and_then(|n| n.parse().ok()).context("no length")?;
            let seed: u64 = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            write!(&stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n")?;
            send_content(&stream, bytes, seed)
        }
        (Some("PUT"), Some(_)) => {
            let got = receive(&mut reader, length)?;
            let body = format!("{} {}", got.bytes, got.sha256);
            write!(
                &stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .context("answer")
        }
        _ => Err(format!("not a request: {request}").into()),
    }
}

/// Fetches the content from inside `namespace` and wants the right hash.
pub fn download(namespace: &Netns, job: Job) -> Result<Transfer> {
    namespace.within(move || fetch(job))?
}

/// As `download`, in the background.
pub fn download_in_background(namespace: &Netns, job: Job) -> Result<JoinHandle<Result<Result<Transfer>>>> {
    namespace.spawn(move || fetch(job))
}

/// Sends the content from inside `namespace` and wants the server to have the right hash.
pub fn upload(namespace: &Netns, job: Job) -> Result<Transfer> {
    namespace.within(move || put(job))?
}

pub fn upload_in_background(namespace: &Netns, job: Job) -> Result<JoinHandle<Result<Result<Transfer>>>> {
    namespace.spawn(move || put(job))
}

/// Waits for a transfer in the background.
pub fn finish(transfer: JoinHandle<Result<Result<Transfer>>>) -> Result<Transfer> {
    transfer.join().map_err(|_| "the transfer panicked")??
}

/// The body of any page, for small ones.
pub fn page(namespace: &Netns, server: SocketAddr, path: &str) -> Result<String> {
    let path = path.to_owned();
    namespace.within(move || -> Result<String> {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(3)).context("connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(&stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut text = Vec::new();
        BufReader::new(&stream).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        Ok(body.to_owned())
    })?
}

fn fetch(job: Job) -> Result<Transfer> {
    let stream = connect(job)?;
    let start = Instant::now();
    write!(&stream, "GET /bytes/{}/{} HTTP/1.1\r\nHost: test\r\n\r\n", job.bytes, job.seed)?;
    let mut reader = BufReader::with_capacity(256 * 1024, &stream);
    let (_, length) = read_head(&mut reader)?;
    let mut transfer = receive(&mut reader, length)?;
    transfer.elapsed = start.elapsed();
    check(&transfer, job)?;
    Ok(transfer)
}

fn put(job: Job) -> Result<Transfer> {
    let stream = connect(job)?;
    let start = Instant::now();
    write!(&stream, "PUT /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", job.bytes)?;
    send_content(&stream, job.bytes, job.seed)?;
    let mut reader = BufReader::new(&stream);
    let (_, length) = read_head(&mut reader)?;
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body).context("answer")?;
    let (bytes, sha256) = body.split_once(' ').context("not an answer")?;
    let elapsed = start.elapsed();
    let transfer = Transfer {
        bytes: bytes.parse().context("length")?,
        sha256: sha256.to_owned(),
        elapsed,
        longest_silence: Duration::ZERO,
    };
    check(&transfer, job)?;
    Ok(transfer)
}

fn check(transfer: &Transfer, job: Job) -> Result {
    ensure!(transfer.bytes == job.bytes, "{} of {} octets arrived", transfer.bytes, job.bytes);
    let wanted = content::hash(job.seed, job.bytes);
    ensure!(transfer.sha256 == wanted, "the content changed on the way: {} for {wanted}", transfer.sha256);
    Ok(())
}

fn connect(job: Job) -> Result<TcpStream> {
    let server = SocketAddr::new(job.server, PORT);
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    if let Some(octets) = job.in_flight {
        // Linux doubles it for its own use.
        socket.set_recv_buffer_size(octets)?;
    }
    if let Some(from) = job.from {
        socket.bind(&SocketAddr::new(from, 0).into()).context(format!("bind to {from}"))?;
    }
    socket
        .connect_timeout(&server.into(), Duration::from_secs(10))
        .context(format!("connect to {server}"))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send_content(mut stream: &TcpStream, bytes: u64, seed: u64) -> Result {
    let mut content = Content::new(seed);
    let mut buffer = vec![0; 128 * 1024];
    let mut left = bytes;
    while left > 0 {
        let size = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        content.fill(&mut buffer[..size]);
        stream.write_all(&buffer[..size]).context(format!("send, {left} octets left"))?;
        left -= size as u64;
    }
    Ok(())
}

fn receive(reader: &mut impl Read, length: u64) -> Result<Transfer> {
    let (mut hasher, mut bytes) = (Hasher::default(), 0);
    let (start, mut progress) = (Instant::now(), Instant::now());
    let mut longest_silence = Duration::ZERO;
    let mut buffer = vec![0; 128 * 1024];
    while bytes < length {
        let count = reader.read(&mut buffer).context(format!("after {bytes} of {length} octets"))?;
        if count == 0 {
            break;
        }
        longest_silence = longest_silence.max(progress.elapsed());
        progress = Instant::now();
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
    Ok(Transfer { bytes, sha256: hasher.hex(), elapsed: start.elapsed(), longest_silence })
}

/// The first line, and the length of the body.
fn read_head(reader: &mut impl BufRead) -> Result<(String, u64)> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line).context("head")? > 0, "the connection closed before an answer");
        let line = line.trim_end();
        if line.is_empty() {
            return Ok((first, length));
        }
        if first.is_empty() {
            first = line.to_owned();
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("content length")?;
        }
    }
}
