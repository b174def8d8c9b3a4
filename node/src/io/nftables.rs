//! A table of our own in the kernel's packet filter, over netlink (nf_tables), without the `nft` program.
//!
//! ```text
//!   Table ── commit([Set, Chain, Rule, Put, Take, Clear ...]) ──> the kernel takes all of it, or nothing
//! ```
//!
//! The table belongs to the socket that made it (`flags owner`): nobody else can change it, and it goes with the
//! process, however that ends. Only what steering needs is here: sets and maps with keys and values of a fixed length,
//! rules of a few expressions over one register. Messages and attributes are those of linux/netfilter/nf_tables.h.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// In the order of this machine.
    Number,
    Ipv4,
    Ipv6,
}

impl Key {
    /// The type, by which `nft` shows it, and the length.
    fn kind(self) -> (u32, u32) {
        match self {
            Key::Number => (TYPE_MARK, NUMBER_LEN),
            Key::Ipv4 => (TYPE_IPV4, 4),
            Key::Ipv6 => (TYPE_IPV6, 16),
        }
    }
}

const NUMBER_LEN: u32 = 4;

/// How long the kernel may take for one commit.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Octets of one commit, which is one datagram; longer ones are split.
const COMMIT_LEN_MAX: usize = 128 * 1_024;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A set of keys, or with `maps` a map from keys to numbers. `intervals`: keys come in pairs, a start and an end.
    Set {
        name: &'static str,
        key: Key,
        maps: bool,
        intervals: bool,
    },
    /// A chain at the first hook, before everything else that looks at packets. It accepts what no rule drops.
    Chain {
        name: &'static str,
    },
    Rule {
        chain: &'static str,
        expressions: Vec<Expression>,
    },
    Put {
        set: &'static str,
        elements: Vec<Element>,
    },
    Take {
        set: &'static str,
        elements: Vec<Element>,
    },
    /// Takes out all elements.
    Clear {
        set: &'static str,
    },
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    /// For a map.
    pub number: Option<u32>,
    /// The first key behind an interval.
    pub is_end: bool,
}

/// One step of a rule. Each works on the same register; a comparison or lookup that fails ends the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads what the kernel knows of the packet (`NFT_META_...`).
    Meta(u32),
    /// Sets the packet's type (`PACKET_HOST`).
    SetPacketType(u32),
    /// Loads octets of the network header and what follows.
    Network {
        at: u32,
        len: u32,
    },
    /// Loads octets of the transport header.
    Transport {
        at: u32,
        len: u32,
    },
    /// Loads how the destination is routed (`RTN_LOCAL`, ...).
    DestinationType,
    Is(Vec<u8>),
    IsNot(Vec<u8>),
    Load(Vec<u8>),
    In(&'static str),
    /// Puts the number that the map has for the register into the register. It goes by way of the packet's priority,
    /// which is set anew when the packet is forwarded: `nft` aborts when it lists a rule that looks up what was looked up.
    Map(&'static str),
    Accept,
    Drop,
}

/// A table, as long as this value lives.
pub struct Table {
    socket: Socket,
    name: String,
    sequence: u32,
}

impl Table {
    /// Makes the table, for IPv4 and IPv6. Needs CAP_NET_ADMIN in the network namespace of the calling thread. Another
    /// process's table of that name is an error (EPERM).
    pub fn create(name: &str) -> io::Result<Table> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(libc::NETLINK_NETFILTER)),
        )?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.set_send_buffer_size(4 * COMMIT_LEN_MAX)?;
        let mut table = Table { socket, name: name.to_owned(), sequence: 0 };
        let flags = NLM_F_CREATE;
        let make = message(libc::NFT_MSG_NEWTABLE, flags, |body| {
            body.text(TABLE_NAME, name);
            body.number(TABLE_FLAGS, TABLE_F_OWNER);
        });
        table.send(vec![make])?;
        Ok(table)
    }

    /// Makes all changes at once, or none; very many elements in several parts.
    pub fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut part = Vec::new();
        let mut len = 0;
        for change in changes {
            for message in self.write(change) {
                if len + message.len() > COMMIT_LEN_MAX {
                    self.send(std::mem::take(&mut part))?;
                    len = 0;
                }
                len += message.len();
                part.push(message);
            }
        }
        self.send(part)
    }

    fn write(&self, change: &Change) -> Vec<Vec<u8>> {
        let table = self.name.as_str();
        match change {
            Change::Set { name, key, maps, intervals } => {
                let (key_type, key_len) = key.kind();
                vec![message(libc::NFT_MSG_NEWSET, NLM_F_CREATE, |body| {
                    let mut flags = 0;
                    body.text(SET_TABLE, table);
                    body.text(SET_NAME, name);
                    if *maps {
                        flags |= libc::NFT_SET_MAP as u32;
                        body.number(SET_DATA_TYPE, TYPE_MARK);
                        body.number(SET_DATA_LEN, NUMBER_LEN);
                    }
                    if *intervals {
                        flags |= libc::NFT_SET_INTERVAL as u32;
                    }
                    body.number(SET_FLAGS, flags);
                    body.number(SET_KEY_TYPE, key_type);
                    body.number(SET_KEY_LEN, key_len);
                    body.number(SET_ID, 1);
                })]
            }
            Change::Chain { name } => vec![message(libc::NFT_MSG_NEWCHAIN, NLM_F_CREATE, |body| {
                body.text(CHAIN_TABLE, table);
                body.text(CHAIN_NAME, name);
                body.nested(CHAIN_HOOK, |hook| {
                    hook.number(HOOK_NUMBER, libc::NF_INET_PRE_ROUTING as u32);
                    hook.number(HOOK_PRIORITY, PRIORITY as u32);
                });
                body.number(CHAIN_POLICY, libc::NF_ACCEPT as u32);
                body.text(CHAIN_TYPE, "filter");
            })],
            Change::Rule { chain, expressions } => {
                vec![message(libc::NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |body| {
                    body.text(RULE_TABLE, table);
                    body.text(RULE_CHAIN, chain);
                    body.nested(RULE_EXPRESSIONS, |list| {
                        expressions.iter().for_each(|expression| expression.write(list));
                    });
                })]
            }
            Change::Put { set, elements } => elements
                .chunks(ELEMENTS_PER_MESSAGE)
                .map(|part| {
                    message(libc::NFT_MSG_NEWSETELEM, NLM_F_CREATE, |body| list(body, table, set, part))
                })
                .collect(),
            Change::Take { set, elements } => elements
                .chunks(ELEMENTS_PER_MESSAGE)
                .map(|part| message(libc::NFT_MSG_DELSETELEM, 0, |body| list(body, table, set, part)))
                .collect(),
            Change::Clear { set } => vec![message(libc::NFT_MSG_DELSETELEM, 0, |body| {
                body.text(LIST_TABLE, table);
                body.text(LIST_SET, set);
            })],
        }
    }

    /// One transaction: begin, the messages, end. The last message is acknowledged when the kernel has done all.
    fn send(&mut self, messages: Vec<Vec<u8>>) -> io::Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut batch = frame(libc::NFNL_MSG_BATCH_BEGIN);
        messages.iter().for_each(|message| batch.extend(message));
        batch.extend(frame(libc::NFNL_MSG_BATCH_END));
        let first = self.sequence.wrapping_add(1);
        let last = self.number(&mut batch);
        self.socket.send(&batch)?;
        let mut refused = None;
        let mut answer = vec![0; 64 * 1_024];
        loop {
            let len = self.socket.read(&mut answer)?;
            for (sequence, error) in errors(&answer[..len]) {
                // What an earlier commit that timed out is still told is not ours.
                if sequence.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                if error != 0 && refused.is_none() {
                    refused = Some(io::Error::from_raw_os_error(-error));
                }
                if sequence == last || error != 0 {
                    // After an error nothing more is acknowledged.
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Numbers the messages and asks for the acknowledgement of the last one that is a change; its number.
    fn number(&mut self, batch: &mut [u8]) -> u32 {
        let (mut at, mut last) = (0, None);
        while let Some(len) = word(batch, at).map(|len| len as usize).filter(|len| *len >= HEADER_LEN) {
            self.sequence = self.sequence.wrapping_add(1);
            batch[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            if batch[at + 5] == libc::NFNL_SUBSYS_NFTABLES as u8 {
                last = Some((at, self.sequence));
            }
            at += len;
        }
        let Some((at, sequence)) = last else { return self.sequence };
        batch[at + 6] |= libc::NLM_F_ACK as u8;
        sequence
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({})", self.name)
    }
}

impl Expression {
    fn write(&self, list: &mut Body) {
        let mut put = |name: &str, data: &dyn Fn(&mut Body)| {
            list.nested(LIST_ELEM, |expression| {
                expression.text(EXPR_NAME, name);
                expression.nested(EXPR_DATA, |body| data(body));
            });
        };
        let value = |body: &mut Body, kind: u16, octets: &[u8]| {
            body.nested(kind, |data| data.octets(DATA_VALUE, octets));
        };
        let payload = |body: &mut Body, base: libc::c_int, at: u32, len: u32| {
            body.number(PAYLOAD_DREG, REGISTER);
            body.number(PAYLOAD_BASE, base as u32);
            body.number(PAYLOAD_OFFSET, at);
            body.number(PAYLOAD_LEN, len);
        };
        let verdict = |body: &mut Body, code: libc::c_int| {
            body.number(IMMEDIATE_DREG, REGISTER_VERDICT);
            body.nested(IMMEDIATE_DATA, |data| {
                data.nested(DATA_VERDICT, |verdict| verdict.number(VERDICT_CODE, code as u32));
            });
        };
        let compare = |body: &mut Body, operation: u32, octets: &[u8]| {
            body.number(CMP_SREG, REGISTER);
            body.number(CMP_OP, operation);
            value(body, CMP_DATA, octets);
        };
        let load = |body: &mut Body, octets: &[u8]| {
            body.number(IMMEDIATE_DREG, REGISTER);
            value(body, IMMEDIATE_DATA, octets);
        };
        match self {
            Expression::Meta(key) => put("meta", &|body| {
                body.number(META_DREG, REGISTER);
                body.number(META_KEY, *key);
            }),
            Expression::SetPacketType(kind) => {
                put("immediate", &|body| load(body, &[*kind as u8]));
                put("meta", &|body| {
                    body.number(META_KEY, libc::NFT_META_PKTTYPE as u32);
                    body.number(META_SREG, REGISTER);
                });
            }
            Expression::Network { at, len } => {
                put("payload", &|body| payload(body, libc::NFT_PAYLOAD_NETWORK_HEADER, *at, *len));
            }
            Expression::Transport { at, len } => {
                put("payload", &|body| payload(body, libc::NFT_PAYLOAD_TRANSPORT_HEADER, *at, *len));
            }
            Expression::DestinationType => put("fib", &|body| {
                body.number(FIB_DREG, REGISTER);
                body.number(FIB_RESULT, FIB_RESULT_ADDRTYPE);
                body.number(FIB_FLAGS, FIB_F_DADDR);
            }),
            Expression::Is(octets) => put("cmp", &|body| compare(body, libc::NFT_CMP_EQ as u32, octets)),
            Expression::IsNot(octets) => put("cmp", &|body| compare(body, libc::NFT_CMP_NEQ as u32, octets)),
            Expression::Load(octets) => put("immediate", &|body| load(body, octets)),
            Expression::In(set) => put("lookup", &|body| {
                body.text(LOOKUP_SET, set);
                body.number(LOOKUP_SREG, REGISTER);
            }),
            Expression::Map(set) => {
                put("lookup", &|body| {
                    body.text(LOOKUP_SET, set);
                    body.number(LOOKUP_SREG, REGISTER);
                    body.number(LOOKUP_DREG, REGISTER);
                });
                put("meta", &|body| {
                    body.number(META_KEY, libc::NFT_META_PRIORITY as u32);
                    body.number(META_SREG, REGISTER);
                });
                put("meta", &|body| {
                    body.number(META_DREG, REGISTER);
                    body.number(META_KEY, libc::NFT_META_PRIORITY as u32);
                });
            }
            Expression::Accept => put("immediate", &|body| verdict(body, libc::NF_ACCEPT)),
            Expression::Drop => put("immediate", &|body| verdict(body, libc::NF_DROP)),
        }
    }
}

/// Elements in one message, whose list may have 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 512;

fn list(body: &mut Body, table: &str, set: &str, elements: &[Element]) {
    body.text(LIST_TABLE, table);
    body.text(LIST_SET, set);
    body.nested(LIST_ELEMENTS, |list| {
        for element in elements {
            list.nested(LIST_ELEM, |body| {
                body.nested(ELEM_KEY, |key| key.octets(DATA_VALUE, &element.key));
                if let Some(number) = element.number {
                    body.nested(ELEM_DATA, |data| data.octets(DATA_VALUE, &number.to_ne_bytes()));
                }
                if element.is_end {
                    body.number(ELEM_FLAGS, ELEM_INTERVAL_END);
                }
            });
        }
    });
}

/// struct nlmsghdr and struct nfgenmsg.
const HEADER_LEN: usize = 16 + 4;

fn message(kind: libc::c_int, flags: u16, fill: impl FnOnce(&mut Body)) -> Vec<u8> {
    let mut body = Body(Vec::with_capacity(256));
    body.0.extend([0; 4]);
    body.0.extend(((libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | kind as u16).to_ne_bytes());
    body.0.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    body.0.extend([0; 8]);
    body.0.extend([libc::NFPROTO_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0]);
    fill(&mut body);
    let len = body.0.len() as u32;
    body.0[..4].copy_from_slice(&len.to_ne_bytes());
    body.0
}

/// The begin or the end of a batch.
fn frame(kind: libc::c_int) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN);
    message.extend((HEADER_LEN as u32).to_ne_bytes());
    message.extend((kind as u16).to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]);
    // The subsystem is in network order here.
    message.extend([libc::AF_UNSPEC as u8, libc::NFNETLINK_V0 as u8]);
    message.extend((libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes());
    message
}

/// The sequence numbers that are answered, with zero or a negative errno.
fn errors(mut octets: &[u8]) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    while let Some(len) = word(octets, 0).map(|len| len as usize).filter(|len| *len >= 16) {
        let kind = octets.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
        if let (Some(sequence), Some(error)) = (word(octets, 8), word(octets, 16))
            && kind == Some(libc::NLMSG_ERROR as u16)
        {
            found.push((sequence, error as i32));
        }
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn word(octets: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(octets.get(at..at + 4)?.try_into().ok()?))
}

/// Attributes: length, kind, value, padding to four octets. Numbers are in network order.
struct Body(Vec<u8>);

impl Body {
    fn octets(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((4 + value.len() as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.octets(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.octets(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Body)) {
        let start = self.0.len();
        self.octets(kind | libc::NLA_F_NESTED as u16, &[]);
        fill(self);
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
const NLM_F_APPEND: u16 = libc::NLM_F_APPEND as u16;

/// Before connection tracking and everything else but defragmentation (NF_IP_PRI_RAW).
const PRIORITY: i32 = -300;

/// The one register of rules, 16 octets (NFT_REG_1), and that of verdicts.
const REGISTER: u32 = libc::NFT_REG_1 as u32;
const REGISTER_VERDICT: u32 = libc::NFT_REG_VERDICT as u32;

/// The kernel stores these types, `nft` shows keys and values by them.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_MARK: u32 = 19;

// linux/netfilter/nf_tables.h, as far as the libc crate does not have it.
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_F_OWNER: u32 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_ID: u16 = 10;
const LIST_ELEM: u16 = 1;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_INTERVAL_END: u32 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_SREG: u16 = 3;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const LOOKUP_DREG: u16 = 3;
const FIB_DREG: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_DADDR: u32 = 2;
