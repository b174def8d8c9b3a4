//! The tool's side of the control socket. Blocking: the tool does one thing at a time.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crypto::Secret;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::wire::{Call, REPLY_LEN_MAX, Reply, ReplyBody, Request, VERSION};
use crate::fault::{Exit, Fault};

#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects, or says how to start the daemon.
    pub fn connect(path: &Path) -> Result<Client, Fault> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Client { stream: BufReader::new(stream), path: path.to_owned() }),
            Err(error) => Err(unreachable(path, &error)),
        }
    }

    /// One request and its answer, within `limit`.
    pub fn call<T: DeserializeOwned>(&mut self, call: Call, limit: Duration) -> Result<T, Fault> {
        let deadline = Instant::now() + limit;
        self.send(call)?;
        match self.receive(Some(deadline))? {
            ReplyBody::Ok(value) => serde_json::from_value(value).map_err(|error| self.other_release(&error)),
            ReplyBody::Fault(fault) => Err(fault),
            ReplyBody::Event(_) => {
                Err(Fault::failed("the daemon answered with an event that was not asked for"))
            }
        }
    }

    /// Hands every event to `each`, until that or the daemon ends it.
    pub fn events(
        &mut self,
        follow: bool,
        limit: Duration,
        mut each: impl FnMut(Map<String, Value>) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<(), Fault> {
        let deadline = (!follow).then(|| Instant::now() + limit);
        self.send(Call::Events { follow })?;
        loop {
            match self.receive(deadline)? {
                ReplyBody::Event(event) => {
                    if each(event)?.is_break() {
                        return Ok(());
                    }
                }
                ReplyBody::Fault(fault) => return Err(fault),
                ReplyBody::Ok(_) => return Ok(()),
            }
        }
    }

    fn send(&mut self, call: Call) -> Result<(), Fault> {
        let line = serde_json::to_vec(&Request { v: VERSION, call });
        let mut line = line.map_err(|error| Fault::failed("the request cannot be written").why(error))?;
        line.push(b'\n');
        // It may hold secrets of a configuration.
        let line = Secret::from(line);
        self.stream.get_mut().write_all(line.as_bytes()).map_err(|error| self.broken(&error))
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<ReplyBody, Fault> {
        let mut line = Vec::new();
        loop {
            let left = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(late()),
                left => left,
            };
            self.stream.get_ref().set_read_timeout(left).map_err(|error| self.broken(&error))?;
            let room = (REPLY_LEN_MAX - line.len()) as u64;
            match (&mut self.stream).take(room).read_until(b'\n', &mut line) {
                Ok(0) if room == 0 => return Err(Fault::failed("the daemon's answer is too long")),
                Ok(0) => return Err(self.broken(&io::ErrorKind::UnexpectedEof.into())),
                Ok(_) if line.last() == Some(&b'\n') => break,
                Ok(_) => {}
                // What came before the timeout is in `line` already.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(self.broken(&error)),
            }
        }
        let reply: Reply = serde_json::from_slice(&line).map_err(|error| self.other_release(&error))?;
        Ok(reply.body)
    }

    fn broken(&self, error: &io::Error) -> Fault {
        let fault =
            Fault::new(Exit::Unreachable, format!("the daemon on {} has hung up", self.path.display()));
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                fault.why("it stopped while it was asked")
            }
            _ => fault.why(error),
        }
        .attempt("journalctl -u pontoon -n 20")
    }

    fn other_release(&self, error: &serde_json::Error) -> Fault {
        Fault::failed("the daemon's answer is not understood")
            .why(format!("the tool and the daemon are of different releases? ({error})"))
            .attempt("systemctl restart pontoon   (so that the installed release runs)")
    }
}

fn late() -> Fault {
    Fault::timed_out("the daemon has not answered in time")
        .why("what was asked for may still be done")
        .attempt("pontoon status")
        .attempt("a longer --timeout")
}

fn unreachable(path: &Path, error: &io::Error) -> Fault {
    let fault = |why: &str| {
        Fault::new(Exit::Unreachable, format!("cannot reach pontoon on {}: {why}", path.display()))
    };
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => fault("not running")
            .attempt("sudo systemctl start pontoon")
            .attempt("pontoon run --config node.toml")
            .attempt("name its socket with --socket or PONTOON_SOCKET, if it is another one"),
        io::ErrorKind::PermissionDenied => {
            fault("permission denied").why("the socket is for root and its group").attempt("sudo pontoon …")
        }
        _ => fault(&error.to_string()),
    }
}
