//! Who has no business here is refused, counted, and harms nobody.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::frame::{self, GREETING_LEN_MAX};
use super::super::message::{Body, Frame, Hello, Welcome};
use super::super::tls::{ALPN_MEMBER, VERSION};
use super::*;

/// Comes in as `says` with these credentials; the answer to its greeting.
async fn come(
    to: &TlsLinks,
    node: u64,
    credentials: &Credentials,
    hello: Hello,
) -> Result<(TlsStream<TcpStream>, Body), String> {
    let config = Arc::new(credentials.client_config(ALPN_MEMBER).unwrap());
    let tcp = TcpStream::connect(to.address()).await.map_err(|error| error.to_string())?;
    let connect = TlsConnector::from(config).connect(pki::server_name(CLUSTER, NodeId(node)), tcp);
    let mut stream = connect.await.map_err(|error| error.to_string())?;
    let octets = frame::encode(Frame::new(0, Body::Hello(hello)), GREETING_LEN_MAX).unwrap();
    stream.write_all(octets.as_bytes()).await.map_err(|error| error.to_string())?;
    let (_, body) = frame::read(&mut stream, GREETING_LEN_MAX).await.map_err(|error| error.to_string())?;
    Ok((stream, body))
}

fn hello(from: u64, to: u64) -> Hello {
    Hello { speaks_min: VERSION, speaks_max: VERSION, cluster: CLUSTER.0.to_vec(), from, to, lane: 1 }
}

#[test]
fn who_does_not_belong_is_told_why() {
    run(async {
        let three = Sites::start(3).await;
        three.connected(&three.ids()).await;
        let to = three.links(1);
        let of = |id| credentials(&three.authority, CLUSTER, id);
        let foreign = ClusterId([8; 16]);
        let cases = [
            (of(77), hello(77, 1), Refused::NotMember, "not known here yet"),
            (of(2), hello(3, 1), Refused::OtherNode, "its certificate is for node 2"),
            (of(2), hello(2, 3), Refused::OtherNode, "looks for node 3"),
            (of(1), hello(1, 1), Refused::OtherNode, "this is node 1"),
            (
                of(2),
                Hello { speaks_min: 2, speaks_max: 9, ..hello(2, 1) },
                Refused::Greeting,
                "versions 2 to 9",
            ),
            (of(2), Hello { lane: 9, ..hello(2, 1) }, Refused::Greeting, "no lane 9"),
            (
                of(2),
                Hello { cluster: foreign.0.to_vec(), ..hello(2, 1) },
                Refused::OtherCluster,
                "belongs to cluster",
            ),
        ];
        for (credentials, hello, reason, why) in cases {
            let before = to.counters().refused(reason);
            let answer = come(to, 1, &credentials, hello.clone()).await;
            let Ok((_, Body::Refused(said))) = answer else { panic!("{hello:?}: {answer:?}") };
            assert!(said.contains(why), "{hello:?}: {said}");
            eventually("it is counted", || to.counters().refused(reason) == before + 1).await;
        }
        three.first().propose(rotate(0)).await.unwrap();
        three.alike().await;
        // Signed by the cluster, for the first node, but not the key that this one joined with.
        let answer = come(three.links(2), 2, &of(1), hello(1, 2)).await;
        let Ok((_, Body::Refused(said))) = answer else { panic!("{answer:?}") };
        assert!(said.contains("another key"), "{said}");
        eventually("it is counted", || three.links(2).counters().refused(Refused::OtherKey) == 1).await;
        three.stop().await;
    });
}

#[test]
fn what_is_not_signed_by_the_cluster_does_not_get_to_speak() {
    run(async {
        let three = Sites::start(3).await;
        let to = three.links(1);
        let other = pki::found(CLUSTER).unwrap();
        let theirs = credentials(&other, CLUSTER, 2);
        // It trusts us, and shows what another authority has signed; or what ours has signed into another cluster.
        let forged = Credentials { authority: three.authority.certificate.clone(), ..theirs };
        let foreign = credentials(&three.authority, ClusterId([8; 16]), 2);
        for (count, shown) in [forged, foreign].iter().enumerate() {
            let refused = come(to, 1, shown, hello(2, 1)).await;
            assert!(refused.is_err(), "{refused:?}");
            eventually("it is counted", || to.counters().refused(Refused::Handshake) > count as u64).await;
        }
        three.stop().await;
    });
}

#[test]
fn garbage_is_counted_and_harms_nobody() {
    run(async {
        let three = Sites::start(3).await;
        three.connected(&three.ids()).await;
        let to = three.links(1);
        let plain: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[0x16; 4096], &[0; 9], &[0xff; 100_000]];
        for octets in plain {
            let before = to.counters().refused(Refused::Handshake);
            let mut tcp = TcpStream::connect(to.address()).await.unwrap();
            // It may be cut off before all is written.
            let _ = tcp.write_all(octets).await;
            let _ = tcp.shutdown().await;
            let _ = tcp.read(&mut [0; 64]).await;
            eventually("it is counted", || to.counters().refused(Refused::Handshake) > before).await;
        }
        let good = credentials(&three.authority, CLUSTER, 2);
        let frames: [&[u8]; 4] = [
            // 4 GiB are announced.
            &[0xff, 0xff, 0xff, 0xff, 1, 2, 3],
            &[0, 0, 0, 3, 0xff, 0xff, 0xff],
            &[0, 0, 0, 0],
            // An answer where requests belong.
            &[0, 0, 0, 4, 0x08, 0x01, 0x32, 0x00],
        ];
        for octets in frames {
            let before = to.counters().refused(Refused::Frame);
            let (mut stream, body) = come(to, 1, &good, hello(2, 1)).await.unwrap();
            assert_eq!(body, Body::Welcome(Welcome { version: VERSION }));
            stream.write_all(octets).await.unwrap();
            eventually("it is counted", || to.counters().refused(Refused::Frame) == before + 1).await;
        }
        // Those that were replaced by the intruder's are back.
        three.connected(&three.ids()).await;
        three.node(2).propose(rotate(0)).await.unwrap();
        three.alike().await;
        three.stop().await;
    });
}
