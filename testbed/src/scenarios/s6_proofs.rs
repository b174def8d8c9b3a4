//! tshark decodes what we sent and finds every integrity value right; the checkers prove I1, I2, I3 and I8.
//!
//! The keys come from the client's log, so that nothing in the gateway has to tell them. Both kinds of judge must also
//! catch a planted fault, here on the very capture that they passed.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::Scenario;
use super::common::{ALICE, Connected, Gateway, MIB, both_ways, server};
use crate::charon::Settings;
use crate::checkers::i2_within_blocks::Grant;
use crate::checkers::{Network, i1_no_repeats, i2_within_blocks, i3_same_bytes, i8_closed, pcap};
use crate::ensure;
use crate::outcome::{Context, Result};
use crate::world::capture::Capture;
use crate::world::{Bed, NET, NET6, OUTER_DEVICE, POOL, POOL6, SERVICE, account, echo};
use crate::{keys, tshark};

pub(super) const LIST: &[Scenario] = &[
    Scenario {
        name: "s6-tshark-gcm",
        what: "tshark and the checkers on AES-GCM, with planted faults",
        run: gcm,
    },
    Scenario { name: "s6-tshark-cbc", what: "the same on AES-CBC with HMAC", run: cbc },
    Scenario {
        name: "s6-same-octets",
        what: "a reply repeated after a crash is the same octets",
        run: same_octets,
    },
    Scenario { name: "s6-closed", what: "nothing leaves in clear: no SA, a crash, a stop", run: closed },
];

fn gcm(bed: &Bed) -> Result {
    judged(bed, "aes256gcm16-prfsha384-ecp384", "aes256gcm16", "aes128gcm16")
}

fn cbc(bed: &Bed) -> Result {
    judged(bed, "aes256-sha384-prfsha512-modp2048", "aes256-sha384", "aes128-sha256")
}

fn judged(bed: &Bed, ike: &str, ike_suite: &str, esp: &str) -> Result {
    let gateway = Gateway { ike: vec![ike.to_owned()], esp: vec![esp.to_owned()], ..Gateway::default() };
    let settings = Settings { log_keys: true, ..Settings::default() };
    let connected = Connected::loaded(bed, &gateway, &settings, |connection| connection.suites(ike, esp))?;
    connected.world.turn_offloads_off()?;
    let (outside, inside) = (connected.world.capture_outside()?, connected.world.capture_inside()?);
    connected.client.initiate(ALICE)?;
    let first = connected.client.only(ALICE)?;
    both_ways(&connected.world.client, server(false), 2 * MIB)?;
    connected.client.rekey_child(ALICE)?;
    both_ways(&connected.world.client, server(true), MIB)?;
    connected.client.rekey_ike(ALICE)?;
    let second = connected.client.only(ALICE)?;
    connected.ping()?;
    let leased = addresses(&second.virtual_addresses)?;
    connected.client.terminate(ALICE)?;
    let (outside, inside) = (outside.stop()?, inside.stop()?);

    prove(bed, &connected, &outside, &[&first.spi_i])?;
    let inner = pcap::read(&inside)?;
    let (pools, protected) = (networks(&[POOL, POOL6])?, networks(&[NET, NET6])?);
    i8_closed::check_inside(&inner, &pools, &leased, &protected).must_hold("I8 inside")?;

    let spis = [(first.spi_i, first.spi_r), (second.spi_i, second.spi_r)];
    let keys = keys::from_charon(&connected.client.log(), &spis, ike_suite, esp)?;
    let opinion = tshark::judge(&outside, &keys)?;
    opinion.ike.must_hold("tshark on IKE")?;
    opinion.esp.must_hold("tshark on ESP")?;
    bed.note(format_args!(
        "tshark found {} IKE messages and {} ESP packets right",
        opinion.ike.judged, opinion.esp.judged
    ));
    planted_faults(&connected, &outside, &keys)
}

/// Every judge must catch a fault planted into the capture that it passed.
fn planted_faults(connected: &Connected, outside: &Path, keys: &keys::Keys) -> Result {
    let bad = connected.world.path("flipped.pcap");
    std::fs::write(&bad, with_flipped_bits(outside)?).context("flipped.pcap")?;
    let opinion = tshark::judge(&bad, keys)?;
    ensure!(opinion.ike.violations.len() == 1, "tshark missed a flipped IKE bit: {:?}", opinion.ike);
    ensure!(opinion.esp.violations.len() == 1, "tshark missed a flipped ESP bit: {:?}", opinion.esp);

    let us = IpAddr::V4(SERVICE);
    let mut packets = pcap::read(outside)?;
    let grants = grants(connected)?;
    let ours = |packet: &pcap::Packet| packet.source == us && matches!(packet.what, pcap::What::Esp(_));
    let at = packets.iter().rposition(ours).context("no ESP of ours")?;
    // The last packet again, with the same number and another content.
    let mut again = packets[at].clone();
    if let pcap::What::Esp(esp) = &mut again.what
        && let Some(last) = esp.last_mut()
    {
        *last ^= 1;
    }
    packets.push(again);
    let report = i1_no_repeats::check(&packets);
    ensure!(!report.violations.is_empty(), "I1 missed a repeated number");
    // The last packet with a number that no block holds.
    if let Some(pcap::Packet { what: pcap::What::Esp(esp), .. }) = packets.last_mut() {
        esp[4..8].copy_from_slice(&0xffff_0000u32.to_be_bytes());
    }
    let report = i2_within_blocks::check(&packets, us, &grants, SLACK_US);
    ensure!(report.violations.len() == 1, "I2 missed a number outside all blocks: {:?}", report.violations);
    // A reply that changed.
    let reply = packets.iter().rev().find(|packet| {
        packet.source == us
            && matches!(&packet.what, pcap::What::Ike(message)
                if pcap::IkeHeader::read(message).is_some_and(|header| header.exchange > pcap::IKE_AUTH))
    });
    let mut reply = reply.context("no reply of ours")?.clone();
    if let pcap::What::Ike(message) = &mut reply.what
        && let Some(last) = message.last_mut()
    {
        *last ^= 1;
    }
    packets.push(reply);
    let report = i3_same_bytes::check(&packets, us, &[], &[], SLACK_US);
    ensure!(report.violations.len() == 1, "I3 missed a changed reply: {:?}", report.violations);
    // A packet in clear.
    let mut clear = packets[at].clone();
    (clear.destination, clear.what) = (IpAddr::V4([10, 99, 0, 1].into()), pcap::What::Other(6));
    let report = i8_closed::check_outside(&[clear], &inner_networks()?);
    ensure!(report.violations.len() == 1, "I8 missed a packet in clear");
    Ok(())
}

/// The clocks of the account and of the cable are one clock; this is for rounding.
pub const SLACK_US: u64 = 2_000;

/// I1, I2, I3 and I8 on a capture of the outer cable; `established`: IKE SAs of which it holds the IKE_AUTH.
pub fn prove(bed: &Bed, connected: &Connected, file: &Path, established: &[&str]) -> Result {
    let established: Vec<u64> =
        established.iter().map(|spi| u64::from_str_radix(spi, 16).context(spi)).collect::<Result<_>>()?;
    let packets = pcap::read(file)?;
    let us = IpAddr::V4(SERVICE);
    let i1 = i1_no_repeats::check(&packets);
    i1.must_hold("I1")?;
    i2_within_blocks::check(&packets, us, &grants(connected)?, SLACK_US).must_hold("I2")?;
    i3_same_bytes::check(&packets, us, &established, &[], SLACK_US).must_hold("I3")?;
    i8_closed::check_outside(&packets, &inner_networks()?).must_hold("I8")?;
    bed.note(format_args!("I1, I2, I3 and I8 hold for {} protected packets", i1.judged));
    Ok(())
}

/// The blocks by the gateway's own account.
fn grants(connected: &Connected) -> Result<Vec<Grant>> {
    let grants = account::grants(&connected.node.log())?;
    ensure!(!grants.is_empty(), "the gateway tells of no block");
    Ok(grants)
}

/// The client does not get the reply of IKE_AUTH; the gateway is killed and started again; the client's repeated
/// request is answered with the same octets, which only the log can have kept.
fn same_octets(bed: &Bed) -> Result {
    let mut connected =
        Connected::loaded(bed, &Gateway::default(), &Settings::default(), |connection| connection)?;
    let world = &connected.world;
    let nft = |rule: &str| world.client.run("nft", &[rule]).map(drop);
    nft("add table inet loss; add chain inet loss in { type filter hook input priority 0; }; \
         add rule inet loss in udp sport 4500 drop")?;
    let capture = world.capture_outside()?;
    std::thread::scope(|scope| -> Result {
        let client = &connected.client;
        let connecting = scope.spawn(|| client.initiate(ALICE));
        std::thread::sleep(Duration::from_millis(700));
        connected.node.kill()?;
        connected.node.restart()?;
        connected.node.wait_ready_again()?;
        world.client.run("nft", &["delete table inet loss"])?;
        connecting.join().map_err(|_| "the client panicked")?
    })?;
    connected.ping()?;
    let established = u64::from_str_radix(&connected.client.only(ALICE)?.spi_i, 16).context("SPI")?;
    let packets = pcap::read(&capture.stop()?)?;
    i1_no_repeats::check(&packets).must_hold("I1")?;
    let report = i3_same_bytes::check(&packets, SERVICE.into(), &[established], &[], SLACK_US);
    report.must_hold("I3")?;
    let replies = packets.iter().filter(|packet| {
        packet.source == IpAddr::V4(SERVICE)
            && matches!(&packet.what, pcap::What::Ike(message)
                if pcap::IkeHeader::read(message).is_some_and(|header| header.exchange == pcap::IKE_AUTH))
    });
    let replies = replies.count();
    bed.note(format_args!("{replies} equal replies of IKE_AUTH, the first before the crash"));
    ensure!(replies >= 2, "the reply of IKE_AUTH left {replies} times; the test wants a repetition");
    Ok(())
}

/// The server's route leads over the gateway machine's own addresses, so that its packets reach a kernel whose default
/// route would carry them out in clear, whatever becomes of the daemon.
fn closed(bed: &Bed) -> Result {
    let mut connected = Connected::new(bed)?;
    let leased = addresses(&connected.client.only(ALICE)?.virtual_addresses)?;
    connected.world.server.ip(&format!("route add {POOL} via 10.10.0.2"))?;
    connected.world.server.ip(&format!("-6 route add {POOL6} via fd00:10::2"))?;
    connected.world.gateway.ip("-6 route add default dev eth0")?;
    let outside = connected.world.capture_outside()?;
    let knock = |connected: &Connected| -> Result {
        let to = leased.clone();
        connected.world.server.within(move || to.into_iter().try_for_each(knock_at))?
    };
    connected.ping()?;
    knock(&connected)?;
    connected.client.terminate(ALICE)?;
    knock(&connected)?;
    connected.client.initiate(ALICE)?;
    connected.node.kill()?;
    knock(&connected)?;
    connected.node.restart()?;
    connected.node.wait_ready_again()?;
    connected.ping()?;
    connected.node.stop()?;
    knock(&connected)?;
    let packets = pcap::read(&outside.stop()?)?;
    let report = i8_closed::check_outside(&packets, &inner_networks()?);
    report.must_hold("I8")?;
    bed.note(format_args!("{} packets on the outer cable, none in clear", report.judged));

    // Without the routes that stay behind, the same packets must be seen: else this proved nothing.
    connected.world.gateway.ip("route flush type blackhole")?;
    connected.world.gateway.ip("-6 route flush type blackhole")?;
    let outside = Capture::start(&connected.world.gateway, OUTER_DEVICE, &connected.world.path("open.pcap"))?;
    knock(&connected)?;
    let packets = pcap::read(&outside.stop()?)?;
    let report = i8_closed::check_outside(&packets, &inner_networks()?);
    ensure!(!report.violations.is_empty(), "the planted leak was not seen");
    Ok(())
}

/// Three datagrams that should reach nobody.
fn knock_at(address: IpAddr) -> Result {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    for _ in 0..3 {
        // An error that an earlier one brought back is as good as silence.
        let _ = socket.send_to(b"knock", (address, echo::PORT));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A capture with one bit flipped in the last octet of one encrypted IKE message and of one ESP packet.
pub fn with_flipped_bits(file: &Path) -> Result<Vec<u8>> {
    let mut octets = std::fs::read(file).context(file.display())?;
    let (mut at, mut ike_done, mut esp_done) = (24, false, false);
    while at + 16 <= octets.len() && !(ike_done && esp_done) {
        let mut length = [0; 4];
        length.copy_from_slice(&octets[at + 8..at + 12]);
        let end = at + 16 + u32::from_le_bytes(length) as usize;
        let Some(frame) = octets.get(at + 16..end) else { break };
        // Ethernet, IPv4 without options, UDP from or to port 4500.
        let nat_t = frame.len() > 60 && frame[12..14] == [8, 0] && frame[23] == 17 && {
            let ports =
                [u16::from_be_bytes([frame[34], frame[35]]), u16::from_be_bytes([frame[36], frame[37]])];
            ports.contains(&4500)
        };
        if nat_t {
            let done = if frame[42..46] == [0; 4] { &mut ike_done } else { &mut esp_done };
            if !std::mem::replace(done, true) {
                octets[end - 1] ^= 1;
            }
        }
        at = end;
    }
    ensure!(ike_done && esp_done, "the capture holds no IKE or no ESP over UDP");
    Ok(octets)
}

/// What must never be seen on the outer cable.
pub fn inner_networks() -> Result<Vec<Network>> {
    networks(&[NET, NET6, POOL, POOL6])
}

/// Prefixes, as configuration files write them.
pub fn networks(texts: &[&str]) -> Result<Vec<Network>> {
    texts.iter().map(|text| text.parse()).collect()
}

fn addresses(texts: &[String]) -> Result<Vec<IpAddr>> {
    texts.iter().map(|text| text.parse().context(text)).collect()
}
