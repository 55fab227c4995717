//! Two real meshes over loopback: who gets in, and what becomes of a member that talks nonsense.

use std::num::NonZeroU8;

use groundswell_protocol::{
    ids::{Digest, FleetName, HostName, Labels},
    time::UnixSeconds,
    trust::{
        Electorate, Genesis, Member, MemberCert, Role, Roles, Root, Signed, Signer, Trust,
        TrustBundle, Voter,
    },
    wire::PROTOCOL,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn trust(root_key: u8) -> Arc<Trust> {
    let role = || Role { keys: vec![key(root_key).public_key()], threshold: NonZeroU8::MIN };
    let root = Root {
        name: FleetName::new("test").unwrap(),
        roles: Roles { root: role(), release: role(), operator: role(), enrolment: role() },
        version: 1,
        review_by: UnixSeconds(0),
    };
    let voter = Voter { host: key(10).public_key().into(), name: HostName::new("v").unwrap() };
    let genesis = Genesis { voters: vec![voter], generation: 0 };
    let (_, bundle) = TrustBundle::found(&root, &genesis, &[&key(root_key)]).unwrap();
    Arc::new(Trust::new(bundle, None).unwrap())
}

/// Lets in whoever the trust lets in.
struct Door {
    trust: Arc<Trust>,
    cert: MemberCert,
}

impl Gatekeeper for Door {
    fn hello(&self, epoch: u64) -> Hello {
        let (cert, voter_lists) = (self.cert.clone(), Vec::new());
        Hello { cert, epoch, protocol: PROTOCOL, voter_lists }
    }

    fn judge(&self, peer: HostId, hello: &Hello) -> Verdict {
        match hello.cert.verify(&self.trust, &Electorate::of(&self.trust), UnixSeconds(0)) {
            Ok(member) if member.content().host == peer => Verdict::Admit,
            Ok(_) => Verdict::Refuse("the certificate is another host's".into()),
            Err(error) => Verdict::Refuse(error.to_string()),
        }
    }

    fn outcome_at(&self, _: HostId, _: &Welcome) {}
}

struct Host {
    id: HostId,
    mesh: Mesh,
    events: mpsc::Receiver<MeshEvent>,
    address: Multiaddr,
}

/// A host with key `number` and a certificate for the key `certified`.
async fn host(number: u8, certified: u8, root_key: u8) -> Host {
    let trust = trust(root_key);
    let member = Member {
        host: key(certified).public_key().into(),
        name: HostName::new(format!("h{number}")).unwrap(),
        zone: None,
        labels: Labels::default(),
        not_after: UnixSeconds(u64::MAX),
        incarnation: 0,
    };
    let member = Signed::new(&member, trust.fleet(), &[&key(root_key)]).unwrap();
    let cert = MemberCert { token: None, member, receipts: Vec::new() };
    let config = MeshConfig {
        key: key(number),
        fleet: trust.fleet(),
        epoch: 1,
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
    };
    let (mesh, events, addresses) = start(config, Arc::new(Door { trust, cert })).await.unwrap();
    let id = key(number).public_key().into();
    Host { id, mesh, events, address: addresses[0].clone() }
}

impl Host {
    /// What happens next, beside an attempt to connect that went well: a link that is up says more.
    async fn next(&mut self) -> MeshEvent {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            match event.expect("something").expect("events") {
                MeshEvent::Dialled { .. } => {}
                event => return event,
            }
        }
    }
}

#[tokio::test]
async fn members_talk_and_ask() {
    let (mut a, mut b) = (host(10, 10, 1).await, host(11, 11, 1).await);
    a.mesh.dial(b.address.clone());
    assert!(matches!(a.next().await, MeshEvent::Up { peer } if peer == b.id));
    assert!(matches!(b.next().await, MeshEvent::Up { peer } if peer == a.id));
    let said = Message::WantLedger { first: 7, follows: true };
    a.mesh.send(b.id, &said);
    assert!(
        matches!(b.next().await, MeshEvent::Message { from, message } if from == a.id && message == said)
    );
    let call = Call::Frame { manifest: Digest::ZERO, index: 7 };
    let asked = tokio::spawn({
        let (mesh, peer, call) = (a.mesh.clone(), b.id, call.clone());
        async move { mesh.call(peer, call).await }
    });
    match b.next().await {
        MeshEvent::Call { from, call: came, reply } => {
            assert_eq!((from, came), (a.id, call));
            reply.send(Reply::Bytes(vec![5; 100_000]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(asked.await.unwrap().unwrap(), Reply::Bytes(vec![5; 100_000]));
}

#[tokio::test]
async fn a_host_that_is_not_connected_is_asked_where_it_is_said_to_be() {
    let (a, mut b, c) = (host(10, 10, 1).await, host(11, 11, 1).await, host(12, 12, 1).await);
    let ask = |peer, addresses: &[&Multiaddr]| {
        let (mesh, call) = (a.mesh.clone(), Call::Frame { manifest: Digest::ZERO, index: 7 });
        let addresses = addresses.iter().map(|address| (*address).clone()).collect();
        tokio::spawn(async move { mesh.call_at(peer, addresses, call).await })
    };
    // Nobody listens at the one, and another host at the other.
    let nobody: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let refused = ask(b.id, &[&nobody]).await.unwrap().unwrap_err().to_string();
    assert_eq!(refused, "/ip4/127.0.0.1/tcp/1: Connection refused (os error 111)");
    let other = ask(b.id, &[&c.address]).await.unwrap().unwrap_err().to_string();
    assert!(other.contains("peer ID"), "{other}");
    let asked = ask(b.id, &[&b.address]);
    assert!(matches!(b.next().await, MeshEvent::Up { peer } if peer == a.id));
    let MeshEvent::Call { from, reply, .. } = b.next().await else { panic!("no call") };
    assert_eq!(from, a.id);
    reply.send(Reply::Absent);
    assert_eq!(asked.await.unwrap().unwrap(), Reply::Absent);
}

#[tokio::test]
async fn strangers_stay_out() {
    let mut inside = host(10, 10, 1).await;
    // Another fleet; and a certificate that is another host's.
    for mut stranger in [host(11, 11, 2).await, host(11, 12, 1).await] {
        stranger.mesh.dial(inside.address.clone());
        let event = stranger.next().await;
        let address = inside.address.to_string();
        assert!(
            matches!(&event, MeshEvent::DialFailed { asked, .. } if *asked == address),
            "{event:?}"
        );
    }
    assert!(inside.events.try_recv().is_err(), "nothing was heard of them");
}

#[tokio::test]
async fn what_comes_of_a_dial_is_told_by_the_name_that_was_asked_for() {
    let (mut a, b) = (host(10, 10, 1).await, host(11, 11, 1).await);
    let port = b.address.to_string().rsplit('/').next().unwrap().to_owned();
    let name: Seed = format!("/dns4/localhost/tcp/{port}").parse().unwrap();
    a.mesh.dial_seed(name.clone());
    let asked = tokio::time::timeout(PATIENCE, a.events.recv()).await.unwrap().unwrap();
    assert!(
        matches!(&asked, MeshEvent::Dialled { asked } if *asked == name.to_string()),
        "{asked:?}"
    );
    let wrong: Seed = "/dns4/localhost/tcp/1".parse().unwrap();
    a.mesh.dial_seed(wrong.clone());
    let failed = loop {
        if let MeshEvent::DialFailed { asked, error } = a.next().await {
            break (asked, error);
        }
    };
    assert_eq!(failed.0, wrong.to_string());
    assert!(failed.1.starts_with("/ip4/127.0.0.1/tcp/1: Connection refused"), "{}", failed.1);
}

#[tokio::test]
async fn a_member_that_talks_nonsense_is_hung_up_on() {
    for nonsense in [vec![0xff; 100], b"GET / HTTP/1.1".to_vec(), vec![0x81; 100_000]] {
        let (mut a, mut b) = (host(10, 10, 1).await, host(11, 11, 1).await);
        a.mesh.dial(b.address.clone());
        assert!(matches!(a.next().await, MeshEvent::Up { .. }));
        assert!(matches!(b.next().await, MeshEvent::Up { .. }));
        a.mesh.outboxes.send(b.id, nonsense);
        assert!(matches!(b.next().await, MeshEvent::Down { peer } if peer == a.id));
        assert!(matches!(a.next().await, MeshEvent::Down { peer } if peer == b.id));
    }
}

#[tokio::test]
async fn a_link_that_is_closed_is_down_on_both_sides() {
    let (mut a, mut b) = (host(10, 10, 1).await, host(11, 11, 1).await);
    a.mesh.dial(b.address.clone());
    assert!(matches!(a.next().await, MeshEvent::Up { .. }));
    assert!(matches!(b.next().await, MeshEvent::Up { .. }));
    a.mesh.close(b.id);
    assert!(matches!(a.next().await, MeshEvent::Down { peer } if peer == b.id));
    assert!(matches!(b.next().await, MeshEvent::Down { peer } if peer == a.id));
    a.mesh.dial(b.address.clone());
    assert!(matches!(a.next().await, MeshEvent::Up { .. }), "it can come back");
}
