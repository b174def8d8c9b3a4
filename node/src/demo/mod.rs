//! `pontoon demo`: a gateway of several nodes, a client and a server on this machine, a download through the tunnel,
//! and a failure in the middle of it, with nothing installed and, where user namespaces are allowed, without root.
//!
//! ```text
//!   demo ── user, mount and network namespace: the bridges
//!     ├──── edge-1, edge-2, ...: network namespace each ── node (`pontoon run`), killed without its machine
//!     ├──── client: network namespace, ipsec::client, TUN, HTTP client, records what it sees
//!     └──── server: network namespace, HTTP server
//! ```
//!
//! `sandbox` makes the namespaces, `net` the bridges and cables, `part` the processes, which speak `protocol`; `gateway`
//! is the cluster as an administrator handles it, `machine`, `client` and `server` are the lives of the parts (`tunnel`,
//! `ledger`, `transfer`); `show` tells the story and `verdict` judges it. All of it is also the smoke test of a release.

mod client;
mod gateway;
mod ledger;
mod machine;
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
use protocol::{FromClient, FromMachine, FromServer, ToClient, ToServer, Up};
use sandbox::Sandbox;
use show::Show;
use verdict::{Evidence, Failure};

/// How many nodes, unless it is said: the smallest number that survives the loss of one.
const NODES: u8 = 3;

/// The failure comes when this part of the file is there, in percent, and the server keeps the end of the file back
/// from this part on until it has come: however small the file, the failure is in the middle of the download.
const KILL_AT: u64 = 35;
const HOLD_AT: u64 = 75;

/// Runs the demonstration, or the part of it that this process is.
pub fn run(args: &DemoArgs, out: &Output) -> Result<(), Fault> {
    if let Some(role) = Role::of_this_process() {
        part::end_with_parent()?;
        return match role {
            Role::Machine => machine::live(),
            Role::Node => machine::become_node(),
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
    match ended {
        // Whoever has closed the output has seen enough.
        Err(fault) if fault.exit == Exit::Done => Ok(()),
        ended => ended,
    }
}

/// What cannot be shown with so many nodes.
fn refuse(args: &DemoArgs) -> Result<(), Fault> {
    match (args.nodes, args.drain) {
        (Some(2), _) => Err(Fault::usage("two nodes survive no failure")
            .why("with one of them gone the other is no majority")
            .attempt("pontoon demo --nodes 3")),
        (Some(1), true) => Err(Fault::usage("one node has nobody to drain to")
            .attempt("pontoon demo --drain")
            .attempt("pontoon demo --nodes 1   (it is killed and started again)")),
        _ => Ok(()),
    }
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
    let nodes = args.nodes.unwrap_or(NODES);
    show.say(&format!(
        "{} and one client in network namespaces of this machine; {}.",
        show::gateways(nodes),
        sandbox.in_words()
    ))?;
    let (mut cast, up) = world.build(nodes, args.size).await?;
    for standing in cast.gateway.standings().await? {
        show.say(&show::standing(&standing))?;
    }
    let owner = cast.gateway.owner().await?;
    show.say(&format!(
        "  client up at {}: IKE_SA_INIT and IKE_AUTH in {:.0} ms, inner address {}, tunnel owned by {owner}",
        net::SERVICE,
        up.took_ms,
        up.inner,
    ))?;
    let evidence = download(args, nodes, &mut show, &mut cast, up).await?;
    let summary = verdict::judge(&evidence);
    let text = out.render(&summary, |summary| format!("\n{}", summary.text()), verdict::Summary::rows)?;
    show::print(out, &text)?;
    summary.outcome()?;
    if args.keep {
        return keep(&show, &mut cast, sandbox).await;
    }
    show.say("\nNext:  pontoon demo --kill leader     pontoon demo --drain     pontoon demo --keep   (then: pontoon status)")?;
    show.say("Real:  pontoon init  on the first machine, pontoon token create, pontoon join on the others")
}

/// The download with the failure in the middle.
async fn download(
    args: &DemoArgs,
    nodes: u8,
    show: &mut Show,
    cast: &mut Cast<'_>,
    up: Up,
) -> Result<Evidence, Fault> {
    let size = args.size;
    let mut planned = args.drain || args.kill != Kill::None;
    let mut failure = Failure::None;
    if !planned {
        cast.server.tell(&ToServer::Release).await?;
    }
    show.begin(size)?;
    cast.client.tell(&ToClient::Download { octets: size }).await?;
    let mut resumed = Vec::new();
    let done = loop {
        match cast.client.hear().await? {
            FromClient::Progress(arrived) => {
                show.progress(arrived);
                if planned && arrived >= share(size, KILL_AT) {
                    planned = false;
                    failure = break_something(args, nodes, show, cast.gateway).await?;
                    cast.server.tell(&ToServer::Release).await?;
                }
            }
            FromClient::Resumed(part) => {
                show.happened(&format!(
                    "{} goes on with the same keys: epoch {}, numbers from {}",
                    cast.gateway.owner().await?,
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
    let handover = match failure.causes() {
        [] => None,
        causes => cast.gateway.handover(&cast.gateway.owner().await?, causes).await?,
    };
    let (sas, digests) = (cast.gateway.sas().await?, cast.gateway.digests().await?);
    Ok(Evidence { nodes, size, sent_sha256, failure, up, done, resumed, handover, sas, digests })
}

/// Kills or drains what the arguments name, and says so.
async fn break_something(
    args: &DemoArgs,
    nodes: u8,
    show: &mut Show,
    gateway: &mut Gateway,
) -> Result<Failure, Fault> {
    let (owner, leader) = (gateway.owner().await?, gateway.leader().await?);
    if args.drain {
        show.happened(&format!("drain of {owner}, the owner of this tunnel"))?;
        gateway.drain(&owner).await?;
        return Ok(Failure::Drained { node: owner });
    }
    let (node, role) = match args.kill {
        Kill::Leader if leader == owner => (leader, "the leader, which also owns this tunnel"),
        Kill::Leader => (leader, "the leader; another node owns this tunnel"),
        Kill::Owner | Kill::None => (owner.clone(), "the owner of this tunnel"),
    };
    show.happened(&format!("kill -9 of {node}, {role}"))?;
    gateway.kill(&node).await?;
    let owned = node == owner;
    if nodes > 1 {
        return Ok(Failure::Killed { node, owned });
    }
    show.happened(&format!("{node} starts again on its data directory"))?;
    gateway.restart(&node).await?;
    Ok(Failure::Restarted { node })
}

/// Leaves all of it running until it is interrupted. A node that is killed by hand is started again.
async fn keep(show: &Show, cast: &mut Cast<'_>, sandbox: Sandbox) -> Result<(), Fault> {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("pontoon"));
    let entrance = sandbox.entrance(std::process::id());
    show.say(&format!(
        "\nKept until Ctrl-C. In another terminal:\n  {entrance} {program} --socket {run}/{first}.sock status\n  \
         and likewise `sas --long`, `segments`, `events -f`, `members`, with any node's socket",
        program = program.display(),
        run = sandbox::RUN_DIR,
        first = gateway::name(0),
    ))?;
    let pids: Vec<String> = cast.gateway.pids().iter().map(|(name, pid)| format!("{name} {pid}")).collect();
    show.say(&format!("  kill -9 PID   kills a node, and it is started again: {}", pids.join(", ")))?;
    loop {
        tokio::select! {
            name = cast.gateway.ended() => {
                let name = name?;
                cast.gateway.restart(&name).await?;
                show.say(&format!("{name} has ended and starts again"))?;
            }
            report = cast.client.hear_ever() => match report? {
                FromClient::Resumed(part) => show.say(&format!(
                    "another process goes on with the tunnel: {:.0} ms without a packet, epoch {}, numbers from {}",
                    part.silence_ms, part.epoch, show::grouped(part.first.into())
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
    gateway: Option<Gateway>,
    client: Option<Part>,
    server: Option<Part>,
    /// Last: the files of the parts go after them.
    dir: Files,
}

/// The folder of the demonstration, gone with it however it ends.
#[derive(Debug)]
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
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
        Ok(World { gateway: None, client: None, server: None, dir: Files(dir) })
    }

    /// Machines and cables first, then the nodes, then the client, which connects.
    async fn build(&mut self, nodes: u8, size: u64) -> Result<(Cast<'_>, Up), Fault> {
        let dir: &Path = &self.dir.0;
        let server = self.server.insert(Part::start(Role::Server, "server", dir)?);
        let client = self.client.insert(Part::start(Role::Client, "client", dir)?);
        let machines: Result<Vec<Part>, Fault> =
            (0..nodes).map(|place| Part::start(Role::Machine, &gateway::name(place), dir)).collect();
        let mut machines = machines?;
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
        for machine in &mut machines {
            match machine.hear().await? {
                FromMachine::Ready => {}
                FromMachine::Failed(fault) => return Err(fault),
                _ => return Err(out_of_turn(machine.name())),
            }
        }
        let gateway = self.gateway.insert(Gateway::new(dir, machines)?);
        lay_cables(client, server, gateway).await?;
        let (seed, hold) = (OsRng.u64(), share(size, HOLD_AT));
        server.tell(&ToServer::Begin { octets: size, seed, hold }).await?;
        match server.hear().await? {
            FromServer::Listening => {}
            FromServer::Failed(fault) => return Err(fault),
            _ => return Err(out_of_turn("server")),
        }
        gateway.form().await?;
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
    }
}

/// The bridges in this process's own namespace, and the cables to all machines.
async fn lay_cables(client: &Part, server: &Part, gateway: &Gateway) -> Result<(), Fault> {
    let net = Net::open()?;
    for bridge in net::BRIDGES {
        net.bridge(bridge).await?;
    }
    let mut cables = vec![(client, net::OUTSIDE_DEVICE), (server, net::INSIDE_DEVICE)];
    cables.extend(gateway.machines().flat_map(|machine| net::BRIDGES.map(|bridge| (machine, bridge))));
    for (part, bridge) in cables {
        let pid = part.pid().ok_or_else(|| Fault::failed("a part of the demo has ended at once"))?;
        net.cable(bridge, part.name(), pid).await?;
    }
    Ok(())
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

    #[test]
    fn what_cannot_be_shown_is_refused_by_name() {
        for (nodes, drain, refused) in [
            (None, false, None),
            (Some(1), false, None),
            (Some(3), true, None),
            (Some(2), false, Some("two nodes")),
            (Some(1), true, Some("one node")),
        ] {
            let args = DemoArgs { nodes, kill: Kill::Owner, drain, size: 1 << 20, keep: false };
            match (refuse(&args), refused) {
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
