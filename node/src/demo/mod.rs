//! `pontoon demo`: a gateway, a client and a server on this machine, a download through the tunnel, and a failure in
//! the middle of it, with nothing installed and, where user namespaces are allowed, without root.
//!
//! ```text
//!   demo ── user, mount and network namespace: the gateway machine ── node (`pontoon run`), killed and started again
//!     ├──── client: network namespace, ipsec::client, TUN, HTTP client, records what it sees
//!     └──── server: network namespace, HTTP server
//! ```
//!
//! `sandbox` makes the namespaces, `net` the cables, `part` the processes, which speak `protocol`; `gateway` is the
//! node as an administrator handles it, `client` and `server` are the lives of the other parts (`tunnel`, `ledger`,
//! `transfer`); `show` tells the story and `verdict` judges it. All of it is also the smoke test of a release.

mod client;
mod gateway;
mod ledger;
mod net;
mod part;
mod protocol;
mod sandbox;
mod server;
mod show;
mod transfer;
mod tunnel;
mod verdict;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crypto::rng::{OsRng, Rng};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{DemoArgs, Kill, Output};
use crate::fault::{Exit, Fault, StartError};

use gateway::Gateway;
use net::Net;
use part::{Part, Role};
use protocol::{FromClient, FromServer, ToClient, ToServer, Up};
use sandbox::Sandbox;
use show::Show;
use verdict::Evidence;

/// The failure comes when this part of the file is there, in percent, and the server keeps the end of the file back
/// from this part on until it has come: however small the file, the failure is in the middle of the download.
const KILL_AT: u64 = 35;
const HOLD_AT: u64 = 75;

/// Runs the demonstration, or the part of it that this process is.
pub fn run(args: &DemoArgs, out: &Output) -> Result<(), Fault> {
    if let Some(role) = Role::of_this_process() {
        part::end_with_parent()?;
        return match role {
            Role::Node => gateway::become_node(),
            Role::Client => client::live(),
            Role::Server => server::live(),
        };
    }
    refuse(args)?;
    let sandbox = sandbox::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fault::failed("cannot start a runtime").why(error))?;
    let ended = runtime.block_on(stage(args, out, sandbox));
    // A call to a node that is gone may still wait for its time limit.
    runtime.shutdown_background();
    ended
}

/// What this version does not show yet.
fn refuse(args: &DemoArgs) -> Result<(), Fault> {
    let why = "this version has no links between nodes yet and demonstrates one node";
    match args.nodes {
        None | Some(1) => {}
        Some(nodes) => {
            return Err(Fault::usage(format!("`--nodes {nodes}` is not built yet"))
                .why(why)
                .attempt("pontoon demo   (one node is killed and started again)"));
        }
    }
    if args.drain {
        return Err(Fault::usage("`--drain` is not built yet").why(why).attempt("pontoon demo --kill owner"));
    }
    Ok(())
}

/// Builds the world, plays in it, and takes it down whatever came of it.
async fn stage(args: &DemoArgs, out: &Output, sandbox: Sandbox) -> Result<(), Fault> {
    let mut interrupts = Interrupts::new()?;
    let mut world = World::new()?;
    let ended = tokio::select! {
        ended = play(args, out, sandbox, &mut world) => ended,
        () = interrupts.next() => Err(Fault::new(Exit::Interrupted, "interrupted; everything is taken down")),
    };
    world.down().await;
    ended
}

async fn play(args: &DemoArgs, out: &Output, sandbox: Sandbox, world: &mut World) -> Result<(), Fault> {
    let mut show = Show::new(out);
    show.say(&format!(
        "One gateway, one client and one server in network namespaces of this machine; {}.",
        sandbox.in_words()
    ))?;
    if args.nodes.is_none() {
        show.say("This version demonstrates one node: it is killed, and goes on after its restart.")?;
    }
    let (mut cast, up) = world.build(args.size).await?;
    show.say(&format!(
        "  {}  {}  owner and leader      service address {}",
        gateway::NAME,
        net::NODE,
        net::SERVICE
    ))?;
    show.say(&format!(
        "  client up: IKE_SA_INIT and IKE_AUTH in {:.0} ms, inner address {}, tunnel owned by {}",
        up.took_ms,
        up.inner,
        gateway::NAME
    ))?;
    let evidence = download(args, &mut show, &mut cast, up).await?;
    let summary = verdict::judge(&evidence);
    out.document(&summary, |summary| format!("\n{}", summary.text()), verdict::Summary::rows)?;
    summary.outcome()?;
    if args.keep {
        return keep(&show, &mut cast, sandbox).await;
    }
    show.say("\nNext:  pontoon demo --size 2GiB     pontoon demo --keep   (then: pontoon status)")
}

/// The download with the failure in the middle.
async fn download(args: &DemoArgs, show: &mut Show, cast: &mut Cast<'_>, up: Up) -> Result<Evidence, Fault> {
    let size = args.size;
    let mut to_kill = match args.kill {
        Kill::Owner => Some("the owner of this tunnel"),
        // Of one node they are the same.
        Kill::Leader => Some("the leader, which also owns this tunnel"),
        Kill::None => None,
    };
    let killed = to_kill.map(|_| gateway::NAME);
    if to_kill.is_none() {
        cast.server.tell(&ToServer::Release).await?;
    }
    show.begin(size)?;
    cast.client.tell(&ToClient::Download { octets: size }).await?;
    let mut resumed = Vec::new();
    let done = loop {
        match cast.client.hear().await? {
            FromClient::Progress(arrived) => {
                show.progress(arrived);
                if let Some(whom) = to_kill.take_if(|_| arrived >= share(size, KILL_AT)) {
                    show.happened(&format!("kill -9 of {}, {whom}", gateway::NAME))?;
                    cast.gateway.crash().await?;
                    show.happened(&format!("{} starts again on its data directory", gateway::NAME))?;
                    cast.server.tell(&ToServer::Release).await?;
                }
            }
            FromClient::Resumed(part) => {
                show.happened(&format!(
                    "{} goes on with the same keys: epoch {}, numbers from {}",
                    gateway::NAME,
                    part.epoch,
                    show::grouped(part.first.into())
                ))?;
                resumed.push(part);
            }
            FromClient::Done(done) => break done,
            FromClient::Failed(fault) => return Err(fault),
            FromClient::Ready | FromClient::Up(_) => {}
        }
    };
    show.progress(done.octets);
    show.happened(&format!("done, {:.0} Mbit/s", done.octets as f64 * 8.0 / 1e6 / done.seconds))?;
    show.end();
    let sent_sha256 = match cast.server.hear().await? {
        FromServer::Sent { sha256 } => sha256,
        FromServer::Failed(fault) => return Err(fault),
        FromServer::Ready | FromServer::Listening => return Err(out_of_turn("server")),
    };
    cast.gateway.wait_ready().await?;
    let handover = cast.gateway.handover().await?;
    let sas = cast.gateway.sas().await?;
    Ok(Evidence { size, sent_sha256, killed, up, done, resumed, handover, sas })
}

/// Leaves all of it running until it is interrupted. A node that is killed by hand is started again.
async fn keep(show: &Show, cast: &mut Cast<'_>, sandbox: Sandbox) -> Result<(), Fault> {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("pontoon"));
    let entrance = sandbox.entrance(std::process::id());
    show.say(&format!(
        "\nKept until Ctrl-C. In another terminal:\n  {entrance} {program} status\n  \
         and likewise `sas --long`, `segments`, `events -f`, `members`",
        program = program.display()
    ))?;
    let how_to_kill = |pid: Option<u32>| match pid {
        Some(pid) => show.say(&format!("  kill -9 {pid}   kills the node; it is started again")),
        None => Ok(()),
    };
    how_to_kill(cast.gateway.pid())?;
    loop {
        tokio::select! {
            () = cast.gateway.ended() => {
                cast.gateway.restart()?;
                show.say(&format!("{} has ended and starts again", gateway::NAME))?;
                how_to_kill(cast.gateway.pid())?;
            }
            report = cast.client.hear_ever() => match report? {
                FromClient::Resumed(part) => show.say(&format!(
                    "{} goes on: {:.0} ms without a packet, epoch {}, numbers from {}",
                    gateway::NAME, part.silence_ms, part.epoch, show::grouped(part.first.into())
                ))?,
                FromClient::Failed(fault) => return Err(fault),
                _ => {}
            },
        }
    }
}

fn share(size: u64, percent: u64) -> u64 {
    (u128::from(size) * u128::from(percent) / 100) as u64
}

fn out_of_turn(who: &str) -> Fault {
    Fault::failed(format!("the {who} of the demo has said something out of turn"))
}

/// Everything that must be taken down.
#[derive(Debug)]
struct World {
    dir: PathBuf,
    gateway: Option<Gateway>,
    client: Option<Part>,
    server: Option<Part>,
}

/// The parts, all of them there.
struct Cast<'a> {
    gateway: &'a mut Gateway,
    client: &'a mut Part,
    server: &'a mut Part,
}

impl World {
    fn new() -> Result<World, Fault> {
        let dir = std::env::temp_dir().join(format!("pontoon-demo-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| StartError::file(&dir, "make the directory", error).fault())?;
        Ok(World { dir, gateway: None, client: None, server: None })
    }

    /// Cables first, then server and gateway, then the client, which connects.
    async fn build(&mut self, size: u64) -> Result<(Cast<'_>, Up), Fault> {
        let dir: &Path = &self.dir;
        let server = self.server.insert(Part::start(Role::Server, dir)?);
        let client = self.client.insert(Part::start(Role::Client, dir)?);
        match server.hear().await? {
            FromServer::Ready => {}
            FromServer::Failed(fault) => return Err(fault),
            _ => return Err(out_of_turn("server")),
        }
        match client.hear().await? {
            FromClient::Ready => {}
            FromClient::Failed(fault) => return Err(fault),
            _ => return Err(out_of_turn("client")),
        }
        lay_cables(client, server).await?;
        let (seed, hold) = (OsRng.u64(), share(size, HOLD_AT));
        server.tell(&ToServer::Begin { octets: size, seed, hold }).await?;
        match server.hear().await? {
            FromServer::Listening => {}
            FromServer::Failed(fault) => return Err(fault),
            _ => return Err(out_of_turn("server")),
        }
        let gateway = self.gateway.insert(Gateway::start(dir).await?);
        client.tell(&ToClient::Begin { psk: gateway.psk().to_owned() }).await?;
        match client.hear().await? {
            FromClient::Up(up) => Ok((Cast { gateway, client, server }, up)),
            FromClient::Failed(fault) => Err(fault),
            _ => Err(out_of_turn("client")),
        }
    }

    /// Ends all processes, in any state, and removes the files. The namespaces go with the processes.
    async fn down(self) {
        for part in [self.client, self.server].into_iter().flatten() {
            part.end().await;
        }
        if let Some(gateway) = self.gateway {
            gateway.end().await;
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// The gateway machine's side of the network: this process's own namespace.
async fn lay_cables(client: &Part, server: &Part) -> Result<(), Fault> {
    let gone = || Fault::failed("a part of the demo has ended at once");
    let net = Net::open()?;
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        // A reverse path filter drops what comes out of a TUN, and the host's redirects would teach the client a way
        // around the gateway.
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.default.send_redirects", "0"),
    ] {
        net::set(key, value)?;
    }
    net.up("lo").await?;
    net.cable(net::OUTSIDE_DEVICE, net::CLIENT_DEVICE, client.pid().ok_or_else(gone)?).await?;
    net.address(net::OUTSIDE_DEVICE, net::NODE, net::PREFIX).await?;
    net.cable(net::INSIDE_DEVICE, net::SERVER_DEVICE, server.pid().ok_or_else(gone)?).await?;
    net.address(net::INSIDE_DEVICE, net::NODE_INSIDE, net::PREFIX).await
}

/// The signals that end the demonstration.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> Result<Interrupts, Fault> {
        let listen =
            |kind| signal(kind).map_err(|error| Fault::failed("cannot listen for signals").why(error));
        Ok(Interrupts([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(nodes: Option<u8>, drain: bool) -> DemoArgs {
        DemoArgs { nodes, kill: Kill::Owner, drain, size: 1 << 20, keep: false }
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        for (nodes, drain, refused) in [
            (None, false, None),
            (Some(1), false, None),
            (Some(3), false, Some("--nodes 3")),
            (None, true, Some("--drain")),
        ] {
            match (refuse(&args(nodes, drain)), refused) {
                (Ok(()), None) => {}
                (Err(fault), Some(name)) => {
                    assert!(fault.what.contains(name), "{fault}");
                    assert_eq!(fault.exit, Exit::Usage);
                }
                (result, _) => panic!("{nodes:?} {drain}: {result:?}"),
            }
        }
    }

    #[test]
    fn the_failure_is_in_the_middle_whatever_the_size() {
        for size in [1, 2, 100, 8 << 20, u64::MAX] {
            let (kill, hold) = (share(size, KILL_AT), share(size, HOLD_AT));
            assert!(kill <= hold && hold < size, "{size}");
        }
    }
}
