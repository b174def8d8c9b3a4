//! What nodes ask each other apart from Raft: a topic, and a message of that topic's own.
//!
//! ```text
//!   ask(node, topic, question) ── link ──> desk of the topic ──> answer
//! ```
//!
//! A question to this node itself is answered without a link, so that who asks need not care where he is. What cannot be
//! read, or has no desk yet (the other node has just started), is answered with nothing, which reads as an error here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prost::Message;
use raft::links::{AskHandler, BoxFuture, LinkError, TlsLinks};
use raft::state::NodeId;

/// What a question is about. The numbers travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Topic {
    /// A promise to acknowledge a silent owner no more (`takeover`).
    Promise = 1,
    /// Open for segments, take what comes along with them, give segments away (`moves`).
    Move = 2,
    /// Half-open IKE SAs for the standby.
    Mirror = 3,
    /// How a node is: how far it has applied, its digest, what it counts.
    Figures = 4,
    /// A command of an administrator for the owner of an SA.
    Command = 5,
}

const TOPICS: usize = 6;

/// Carries a question to another node and its answer back.
pub trait Carry: Send + Sync {
    fn carry(
        &self,
        to: NodeId,
        question: Vec<u8>,
        within: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, LinkError>>;
}

impl Carry for TlsLinks {
    fn carry(
        &self,
        to: NodeId,
        question: Vec<u8>,
        within: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, LinkError>> {
        Box::pin(self.ask(to, question, within))
    }
}

/// For a node without links: nobody is there.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Carry for Nobody {
    fn carry(&self, to: NodeId, _: Vec<u8>, _: Duration) -> BoxFuture<'_, Result<Vec<u8>, LinkError>> {
        Box::pin(async move { Err(LinkError::Unreachable(format!("there is no link to node {to}"))) })
    }
}

type Desk = Box<dyn Fn(NodeId, Vec<u8>) -> BoxFuture<'static, Option<Vec<u8>>> + Send + Sync>;

/// Clones are one.
#[derive(Clone)]
pub struct Asks {
    carry: Arc<dyn Carry>,
    desks: Arc<[ArcSwapOption<Desk>; TOPICS]>,
    me: Arc<ArcSwapOption<NodeId>>,
}

impl Asks {
    pub fn new(carry: Arc<dyn Carry>) -> Asks {
        let desks = Arc::new([const { ArcSwapOption::const_empty() }; TOPICS]);
        Asks { carry, desks, me: Arc::default() }
    }

    /// Which node we are, once we are one.
    pub fn is(&self, me: NodeId) {
        self.me.store(Some(Arc::new(me)));
    }

    /// This node belongs to no cluster any more: nothing is answered, and what the answers needed is let go of.
    pub fn leave(&self) {
        self.me.store(None);
        self.desks.iter().for_each(|desk| desk.store(None));
    }

    /// Sets who answers a topic from now on.
    pub fn on<Q, A, F>(&self, topic: Topic, answer: impl Fn(NodeId, Q) -> F + Send + Sync + 'static)
    where
        Q: Message + Default,
        A: Message,
        F: Future<Output = A> + Send + 'static,
    {
        let desk: Desk = Box::new(move |from, question| match Q::decode(&question[..]) {
            Ok(question) => {
                let answer = answer(from, question);
                Box::pin(async move { Some(answer.await.encode_to_vec()) })
            }
            Err(_) => Box::pin(async { None }),
        });
        self.desks[topic as usize].store(Some(Arc::new(desk)));
    }

    /// What the links call for a question that came in. One octet before an answer says that there is one.
    pub fn handler(&self) -> AskHandler {
        let asks = self.clone();
        Arc::new(move |from, question| {
            let asks = asks.clone();
            Box::pin(async move {
                match asks.answer(from, question).await {
                    Some(mut answer) => {
                        answer.insert(0, 1);
                        answer
                    }
                    None => Vec::new(),
                }
            })
        })
    }

    /// Asks `to`, which may be this node.
    pub async fn ask<A: Message + Default>(
        &self,
        to: NodeId,
        topic: Topic,
        question: &impl Message,
        within: Duration,
    ) -> Result<A, LinkError> {
        let mut octets = vec![topic as u8];
        question.encode(&mut octets).map_err(|error| LinkError::Failed(error.to_string()))?;
        let answer = if self.me.load().as_deref() == Some(&to) {
            let answer = tokio::time::timeout(within, self.answer(to, octets)).await;
            answer.map_err(|_| LinkError::TimedOut)?
        } else {
            let answer = self.carry.carry(to, octets, within).await?;
            answer.split_first().map(|(_, answer)| answer.to_vec())
        };
        let unanswered = || LinkError::Failed(format!("node {to} does not answer that"));
        A::decode(&answer.ok_or_else(unanswered)?[..]).map_err(|_| unanswered())
    }

    async fn answer(&self, from: NodeId, question: Vec<u8>) -> Option<Vec<u8>> {
        let (&topic, question) = question.split_first()?;
        let desk = self.desks.get(usize::from(topic))?.load_full()?;
        desk(from, question.to_vec()).await
    }
}

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asks(node {:?})", self.me.load())
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A wire between nodes of one process, which can be cut.
    #[derive(Clone, Default)]
    #[expect(missing_debug_implementations, reason = "a test's")]
    pub struct Wire(Arc<Mutex<HashMap<NodeId, AskHandler>>>);

    struct End {
        wire: Wire,
        me: NodeId,
    }

    impl Wire {
        pub fn plug(&self, me: NodeId) -> Asks {
            let asks = Asks::new(Arc::new(End { wire: self.clone(), me }));
            asks.is(me);
            self.lock().insert(me, asks.handler());
            asks
        }

        pub fn cut(&self, node: NodeId) {
            self.lock().remove(&node);
        }

        fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, AskHandler>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Carry for End {
        fn carry(
            &self,
            to: NodeId,
            question: Vec<u8>,
            within: Duration,
        ) -> BoxFuture<'_, Result<Vec<u8>, LinkError>> {
            let desk = self.wire.lock().get(&to).cloned();
            let me = self.me;
            Box::pin(async move {
                let desk = desk.ok_or_else(|| LinkError::Unreachable("cut".into()))?;
                tokio::time::timeout(within, desk(me, question)).await.map_err(|_| LinkError::TimedOut)
            })
        }
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Number {
        #[prost(uint64, tag = "1")]
        n: u64,
    }

    #[tokio::test]
    async fn a_question_finds_its_desk_here_and_elsewhere() {
        let wire = Wire::default();
        let (a, b) = (wire.plug(NodeId(1)), wire.plug(NodeId(2)));
        for asks in [&a, &b] {
            asks.on(Topic::Figures, |from: NodeId, question: Number| async move {
                Number { n: 10 * question.n + from.0 }
            });
        }
        let ask = async |to: u64, topic| {
            let within = Duration::from_secs(1);
            a.ask::<Number>(NodeId(to), topic, &Number { n: 4 }, within).await.map(|answer| answer.n)
        };
        assert_eq!(ask(1, Topic::Figures).await, Ok(41));
        assert_eq!(ask(2, Topic::Figures).await, Ok(41), "it is told who asks");
        assert!(matches!(ask(2, Topic::Command).await, Err(LinkError::Failed(_))), "nobody answers that");
        assert!(matches!(ask(3, Topic::Figures).await, Err(LinkError::Unreachable(_))));
        wire.cut(NodeId(2));
        assert!(matches!(ask(2, Topic::Figures).await, Err(LinkError::Unreachable(_))));
    }

    #[tokio::test]
    async fn an_empty_answer_is_one_and_rubbish_has_none() {
        let wire = Wire::default();
        let a = wire.plug(NodeId(1));
        a.on(Topic::Mirror, |_, _: Number| async { Number { n: 0 } });
        let handler = a.handler();
        assert_eq!(handler(NodeId(2), vec![Topic::Mirror as u8]).await, [1]);
        for rubbish in [vec![], vec![0], vec![99, 1], vec![Topic::Mirror as u8, 0xff]] {
            assert!(handler(NodeId(2), rubbish).await.is_empty());
        }
    }
}
