//! The file and its way: deterministic octets, a small HTTP server, a small HTTP client (RFC 9112, as far as one GET
//! needs it). Both ends take the hash of what passes through their hands.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crypto::rng::{Rng, SeededRng};
use sha2::{Digest, Sha256};

/// Octets made, sent and read in one go.
const CHUNK: usize = 64 * 1024;
/// Most octets of the head of a request or reply.
const HEAD_LEN_MAX: usize = 8 * 1024;
/// How long a connection may stand still: far longer than any failure that the demonstration shows.
pub const STALL_MAX: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const PATH: &str = "/file";

/// What the server gives: the first `octets` of the stream that `seed` makes.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    pub octets: u64,
    pub seed: u64,
    /// From here on nothing is sent before the gate is open.
    pub hold: u64,
}

/// Holds the end of the file back until what is to be shown has happened.
#[derive(Debug, Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.opened.wait_timeout_while(open, STALL_MAX, |open| !*open);
        match waited {
            Ok((_, result)) if result.timed_out() => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

/// Answers one request on the next connection. Gives the hash of the file, `None` when something else was asked for.
pub fn serve(listener: &TcpListener, content: Content, gate: &Gate) -> io::Result<Option<String>> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL_MAX))?;
    stream.set_write_timeout(Some(STALL_MAX))?;
    let (head, _) = read_head(&mut stream)?;
    if !head.starts_with(&format!("GET {PATH} HTTP/1.1\r\n")) {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return Ok(None);
    }
    let octets = content.octets;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {octets}\r\nConnection: close\r\n\r\n")?;
    let (mut rng, mut hash, mut sent) = (SeededRng::new(content.seed), Sha256::new(), 0u64);
    let mut chunk = vec![0; CHUNK];
    while sent < octets {
        if sent >= content.hold {
            gate.pass()?;
        }
        let until = if sent < content.hold { content.hold.min(octets) } else { octets };
        let len = chunk.len().min(usize::try_from(until - sent).unwrap_or(CHUNK));
        rng.fill(&mut chunk[..len]);
        hash.update(&chunk[..len]);
        stream.write_all(&chunk[..len])?;
        sent += len as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(Some(hex(&hash.finalize())))
}

/// What came of a download.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    pub octets: u64,
    pub sha256: String,
    pub took: Duration,
    /// The longest time in which nothing came.
    pub stood_still: Duration,
}

/// Gets the file; `arrived` counts its octets meanwhile.
pub fn fetch(server: SocketAddr, arrived: &AtomicU64) -> io::Result<Fetched> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(STALL_MAX))?;
    write!(stream, "GET {PATH} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.ip())?;
    let (head, mut rest) = read_head(&mut stream)?;
    let announced = length(&head)?;
    let (mut hash, mut octets) = (Sha256::new(), 0u64);
    let (mut last, mut stood_still) = (Instant::now(), Duration::ZERO);
    let mut chunk = vec![0; CHUNK];
    loop {
        hash.update(&rest);
        octets += rest.len() as u64;
        arrived.store(octets, Ordering::Relaxed);
        if octets >= announced {
            break;
        }
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{octets} of {announced} octets came"),
            ));
        }
        let now = Instant::now();
        stood_still = stood_still.max(now - last);
        last = now;
        rest.clear();
        rest.extend_from_slice(&chunk[..len]);
    }
    Ok(Fetched { octets, sha256: hex(&hash.finalize()), took: begun.elapsed(), stood_still })
}

/// The head with its empty line, and what came behind it.
fn read_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut octets = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        octets.extend_from_slice(&chunk[..len]);
        if let Some(end) = octets.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = octets.split_off(end + 4);
            let head = String::from_utf8(octets).map_err(|_| wrong("the head is no text"))?;
            return Ok((head, rest));
        }
        if octets.len() > HEAD_LEN_MAX {
            return Err(wrong("the head is too long"));
        }
    }
}

fn length(head: &str) -> io::Result<u64> {
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        return Err(wrong(format!("the server answered: {status}")));
    }
    let field = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut lengths = field.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().and_then(|(_, value)| value.trim().parse().ok());
    length.ok_or_else(|| wrong("no Content-Length"))
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn start(
        content: Content,
    ) -> (SocketAddr, Arc<Gate>, std::thread::JoinHandle<io::Result<Option<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate::default());
        let ours = gate.clone();
        (address, gate, std::thread::spawn(move || serve(&listener, content, &ours)))
    }

    #[test]
    fn what_arrives_is_what_was_sent() {
        for octets in [1, CHUNK as u64, 300_001] {
            let (address, gate, server) = start(Content { octets, seed: 7, hold: octets / 2 });
            gate.open();
            let fetched = fetch(address, &AtomicU64::new(0)).unwrap();
            assert_eq!(fetched.octets, octets);
            assert_eq!(Some(fetched.sha256.clone()), server.join().unwrap().unwrap());
            let mut whole = vec![0; octets as usize];
            SeededRng::new(7).fill(&mut whole);
            assert_eq!(fetched.sha256, hex(&Sha256::digest(&whole)), "the hash is known in advance");
        }
    }

    #[test]
    fn the_end_is_held_back_until_the_gate_opens() {
        let hold = 100_000;
        let (address, gate, server) = start(Content { octets: 200_000, seed: 1, hold });
        let arrived = Arc::new(AtomicU64::new(0));
        let seen = arrived.clone();
        let client = std::thread::spawn(move || fetch(address, &seen).unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while arrived.load(Ordering::Relaxed) < hold {
            assert!(Instant::now() < deadline, "the beginning comes at once");
            std::thread::yield_now();
        }
        assert!(!client.is_finished());
        assert_eq!(arrived.load(Ordering::Relaxed), hold);
        gate.open();
        assert_eq!(client.join().unwrap().octets, 200_000);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn a_reply_that_is_none_is_refused() {
        for head in [
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
        ] {
            assert!(length(head).is_err(), "{head}");
        }
        assert_eq!(length("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n").unwrap(), 12);
    }
}
