//! What a voter has promised: to acknowledge a silent process no more, so that its segments can be given away.
//!
//! ```text
//!   probe of X  ──> acknowledge ──> noted: when                     leader ──> promise ──> how long ago the last was
//! ```
//!
//! Both go through one lock, so an acknowledgement is either noted before the promise, and told with it, or not given.
//! A promise is about one process of X under one standing. It ends when this voter has applied a `Pardon` of X or a new
//! process of X; a takeover does not end it, since it may come in several parts.
//!
//! The model of takeovers in `testbed` fails without any one of these rules.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ipsec::types::{Incarnation, Millis};
use raft::state::{Members, NodeId};

/// What a voter goes by, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The applied state.
    pub members: &'a Members,
    /// The log index of the voters that this node goes by.
    pub voters_at: u64,
}

/// What a probe says of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub incarnation: Incarnation,
    pub applied: u64,
    pub voters_at: u64,
}

/// Whether a probe is acknowledged, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    Acknowledged,
    /// This voter's own start is not committed, or not applied here.
    Starting,
    /// Another process of the sender runs, as far as this voter has applied the log.
    NotRunning,
    /// The sender has not applied what was taken from it, or does not know the voters.
    Behind,
    /// This voter has promised to acknowledge it no more.
    Promised,
}

impl Verdict {
    pub const ALL: [Verdict; 5] =
        [Verdict::Acknowledged, Verdict::Starting, Verdict::NotRunning, Verdict::Behind, Verdict::Promised];
}

/// What is to be promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub standing: u64,
}

/// A promise, as it is told to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promised {
    /// The process that promised: another one will have forgotten it.
    pub by: Incarnation,
    /// How long ago it last acknowledged that process, or an earlier process of this node may have.
    pub ago_ms: u64,
}

/// The book of one voter's process.
#[derive(Debug)]
pub struct Book {
    me: NodeId,
    incarnation: Incarnation,
    /// What this process knows nothing of may have been acknowledged by the one before it, until now.
    began: Millis,
    pages: Mutex<BTreeMap<NodeId, Page>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    last_acknowledged: Option<Millis>,
    promised: Option<(Incarnation, u64)>,
}

impl Book {
    pub fn new(me: NodeId, incarnation: Incarnation, now: Millis) -> Book {
        Book { me, incarnation, began: now, pages: Mutex::default() }
    }

    /// Judges a probe of `from`, which may be this node itself.
    pub fn acknowledge(&self, from: NodeId, claim: Claim, known: Known<'_>, now: Millis) -> Verdict {
        if !known.members.runs(self.me, self.incarnation) {
            return Verdict::Starting;
        }
        let Some(member) = known.members.get(from) else { return Verdict::NotRunning };
        if !known.members.runs(from, claim.incarnation) {
            return Verdict::NotRunning;
        }
        if claim.applied < member.taken_at || claim.voters_at < known.voters_at {
            return Verdict::Behind;
        }
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = pages.entry(from).or_default();
        if page.promised == Some((claim.incarnation, member.standing)) {
            return Verdict::Promised;
        }
        // Whatever was promised is about an earlier process or standing: applied here, so over for good.
        page.promised = None;
        page.last_acknowledged = Some(now);
        Verdict::Acknowledged
    }

    /// Promises, if what is asked for is the state of affairs here: who asks about another process or standing is behind
    /// this voter, or ahead of it and will ask again.
    pub fn promise(&self, wanted: Wanted, known: Known<'_>, now: Millis) -> Option<Promised> {
        let Wanted { node, incarnation, standing } = wanted;
        let current = known.members.get(node).is_some_and(|member| member.standing == standing)
            && known.members.runs(node, incarnation)
            && known.members.runs(self.me, self.incarnation);
        // Nobody can promise about itself: it is the others who must not acknowledge it.
        if !current || node == self.me {
            return None;
        }
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = pages.entry(node).or_default();
        page.promised = Some((incarnation, standing));
        let last = page.last_acknowledged.unwrap_or(self.began);
        Some(Promised { by: self.incarnation, ago_ms: now.since(last) })
    }

    /// True while a promise about this process stands.
    pub fn has_promised(&self, wanted: Wanted) -> bool {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages
            .get(&wanted.node)
            .is_some_and(|page| page.promised == Some((wanted.incarnation, wanted.standing)))
    }
}

#[cfg(test)]
mod tests {
    use crypto::Secret;
    use raft::state::{
        AddMember, Assign, Authority, Cause, ClusterId, Command, CreateCluster, CreateToken, Effect, KeyHash,
        NewMember, Pardon, Start, State, Suffrage, TokenId, TokenProof, TokenUse,
    };

    use super::*;

    const ME: NodeId = NodeId(1);
    const OUR_RUN: Incarnation = Incarnation(0xa1);
    const THEIR_RUN: Incarnation = Incarnation(0xb1);

    /// A cluster of two whose processes run.
    struct World {
        state: State,
        index: u64,
        them: NodeId,
    }

    impl World {
        fn new() -> World {
            let mut world = World { state: State::default(), index: 1, them: ME };
            let new = |name: &str| NewMember {
                name: name.into(),
                address: "192.0.2.1:7400".into(),
                software: "1".into(),
                speaks: 1,
            };
            let at = Millis(1);
            world.done(Command::CreateCluster(CreateCluster {
                name: "lab".into(),
                id: ClusterId([1; 16]),
                founder: ME,
                founder_as: new("a"),
                founder_key: KeyHash([1; 32]),
                authority: Authority { certificate: vec![1], key: Secret::from([1; 32]) },
                at,
            }));
            world.start(ME, OUR_RUN);
            let token = TokenUse { id: TokenId(1), proof: TokenProof([1; 32]) };
            let TokenUse { id, proof } = token;
            let (role, uses, expires_at) = (Suffrage::Voter, 1, Millis(u64::MAX));
            world.done(Command::CreateToken(CreateToken { id, proof, role, uses, expires_at, at }));
            let (key, replaces) = (KeyHash([2; 32]), None);
            let add = AddMember { member: new("b"), key, token, replaces, at };
            let Effect::Joined(them) = world.done(Command::AddMember(add)) else { panic!("it joined") };
            world.them = them;
            world.start(world.them, THEIR_RUN);
            world
        }

        fn done(&mut self, command: Command) -> Effect {
            self.index += 1;
            self.state.apply(self.index, &command).result.unwrap()
        }

        fn start(&mut self, node: NodeId, incarnation: Incarnation) {
            let expected = self.state.members().get(node).unwrap().incarnation;
            let start = Start {
                incarnation,
                address: "192.0.2.1:7400".into(),
                software: "1".into(),
                speaks: 1,
                at: Millis(2),
            };
            self.done(Command::Incarnate { node, expected, start });
        }

        fn assign(&mut self, to: NodeId, incarnation: Incarnation) {
            let segment = ipsec::types::Segment(7);
            let segments = vec![(segment, self.state.segment(segment).epoch)];
            let (standby, cause, at, takeover) = (None, Cause::Moved, Millis(3), None);
            self.done(Command::Assign(Assign { segments, to, incarnation, standby, cause, at, takeover }));
        }

        fn known(&self) -> Known<'_> {
            Known { members: self.state.members(), voters_at: 5 }
        }

        fn wanted(&self) -> Wanted {
            Wanted { node: self.them, incarnation: THEIR_RUN, standing: 0 }
        }

        fn claim(&self) -> Claim {
            Claim { incarnation: THEIR_RUN, applied: self.index, voters_at: 5 }
        }
    }

    fn book() -> Book {
        Book::new(ME, OUR_RUN, Millis(1_000))
    }

    #[test]
    fn what_is_acknowledged() {
        let mut world = World::new();
        world.assign(world.them, THEIR_RUN);
        world.assign(ME, OUR_RUN);
        let taken_at = world.index;
        let claim = world.claim();
        for (claim, verdict) in [
            (claim, Verdict::Acknowledged),
            (Claim { incarnation: OUR_RUN, ..claim }, Verdict::NotRunning),
            (Claim { incarnation: Incarnation(0), ..claim }, Verdict::NotRunning),
            (Claim { applied: taken_at - 1, ..claim }, Verdict::Behind),
            (Claim { voters_at: 4, ..claim }, Verdict::Behind),
            (Claim { voters_at: 6, ..claim }, Verdict::Acknowledged),
        ] {
            assert_eq!(book().acknowledge(world.them, claim, world.known(), Millis(1)), verdict, "{claim:?}");
        }
        assert_eq!(book().acknowledge(NodeId(99), claim, world.known(), Millis(1)), Verdict::NotRunning);
        // Our own start is not applied yet.
        let young = Book::new(ME, Incarnation(0xa2), Millis(1));
        assert_eq!(young.acknowledge(world.them, claim, world.known(), Millis(1)), Verdict::Starting);
        assert_eq!(young.promise(world.wanted(), world.known(), Millis(2)), None);
    }

    #[test]
    fn a_promise_tells_when_the_last_acknowledgement_was_and_is_kept() {
        let world = World::new();
        let book = book();
        let judge = |at| book.acknowledge(world.them, world.claim(), world.known(), Millis(at));
        assert_eq!(judge(1_040), Verdict::Acknowledged);
        assert_eq!(judge(1_060), Verdict::Acknowledged);
        let promised = book.promise(world.wanted(), world.known(), Millis(1_075)).unwrap();
        assert_eq!(promised, Promised { by: OUR_RUN, ago_ms: 15 });
        assert!(book.has_promised(world.wanted()));
        assert_eq!(judge(1_080), Verdict::Promised);
        let again = book.promise(world.wanted(), world.known(), Millis(1_090)).unwrap();
        assert_eq!(again.ago_ms, 30, "asked twice, nothing was acknowledged in between");
    }

    /// The process before this one may have acknowledged until it ended.
    #[test]
    fn never_acknowledged_means_since_this_process_began() {
        let world = World::new();
        let promised = book().promise(world.wanted(), world.known(), Millis(1_020)).unwrap();
        assert_eq!(promised.ago_ms, 20);
    }

    #[test]
    fn a_promise_ends_with_a_pardon_or_a_new_process_and_not_with_a_takeover() {
        let judge = |book: &Book, world: &World, claim| {
            book.acknowledge(world.them, claim, world.known(), Millis(2_000))
        };
        let mut world = World::new();
        world.assign(world.them, THEIR_RUN);
        let book = book();
        book.promise(world.wanted(), world.known(), Millis(1_100)).unwrap();
        world.assign(ME, OUR_RUN);
        assert_eq!(judge(&book, &world, world.claim()), Verdict::Promised);
        let pardon = Command::Pardon(Pardon { node: world.them, standing: 0 });
        world.done(pardon);
        assert_eq!(judge(&book, &world, world.claim()), Verdict::Acknowledged);
        assert_eq!(book.promise(world.wanted(), world.known(), Millis(2_100)), None, "the old standing");

        let wanted = Wanted { standing: 1, ..world.wanted() };
        book.promise(wanted, world.known(), Millis(2_200)).unwrap();
        let next = Incarnation(0xb2);
        world.start(world.them, next);
        let claim = Claim { incarnation: next, ..world.claim() };
        assert_eq!(judge(&book, &world, claim), Verdict::Acknowledged);
        assert_eq!(book.promise(wanted, world.known(), Millis(2_300)), None, "a process that is gone");
    }

    #[test]
    fn nobody_promises_about_itself_or_the_unknown() {
        let world = World::new();
        for wanted in [
            Wanted { node: ME, incarnation: OUR_RUN, standing: 0 },
            Wanted { node: NodeId(99), ..world.wanted() },
            Wanted { standing: 1, ..world.wanted() },
            Wanted { incarnation: OUR_RUN, ..world.wanted() },
        ] {
            assert_eq!(book().promise(wanted, world.known(), Millis(1_100)), None, "{wanted:?}");
        }
    }
}
