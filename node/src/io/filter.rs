//! What the kernel throws away before a socket: packets of segments that are served elsewhere, where every node is
//! shown every packet.
//!
//! ```text
//!   protocol 50   SPI ──────────────────────────────────────────────┐
//!   UDP 4500      SPI ──────────────────────────────────────────────┤
//!                 0000, then as UDP 500                             ├─ segment ─ one bit of 256 ─ keep or drop
//!   UDP 500       Initiator flag clear: SPIi; set: SPIr, if not 0 ──┤
//!                 SPIr = 0: hash of source address, port and SPIi ──┘
//! ```
//!
//! Classic BPF, attached to the socket: it runs where the kernel has put fragments together, needs no right that the
//! socket did not need, and is replaced as a whole when segments come and go. What is too short to be judged is dropped.

use ipsec::spec::{IKE_AT_FLAGS, IKE_AT_SPI_R, IKE_FLAG_INITIATOR};
use ipsec::types::Segment;
use socket2::SockFilter;

use super::mmsg::Kind;

/// The segments whose packets are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept([u32; 8]);

impl Kept {
    pub fn of(segments: impl Iterator<Item = Segment>) -> Kept {
        let mut kept = Kept::default();
        segments.for_each(|segment| kept.0[usize::from(segment.0 / 32)] |= 1 << (segment.0 % 32));
        kept
    }

    pub fn holds(&self, segment: Segment) -> bool {
        self.0[usize::from(segment.0 / 32)] & 1 << (segment.0 % 32) != 0
    }
}

const UDP_HEADER: u32 = 8;
const MARKER: u32 = 4;

/// The program for a socket. `marked`: UDP 4500, where IKE stands behind a marker.
pub(super) fn program(kind: Kind, ipv6: bool, marked: bool, kept: &Kept) -> Vec<SockFilter> {
    let mut code = Program::default();
    match (kind, ipv6) {
        // A raw IPv4 socket sees the IP header, which may have options.
        (Kind::Esp, false) => {
            code.op(LOAD_X_IP_HEADER, 0);
            code.op(LOAD_BYTE_X, 0);
            code.keep(kept);
        }
        (Kind::Esp, true) => {
            code.op(LOAD_BYTE, 0);
            code.keep(kept);
        }
        (Kind::Udp, _) => {
            if marked {
                code.op(LOAD_WORD, UDP_HEADER);
                let ike = code.branch(JUMP_EQUAL, 0, |code| {
                    code.op(LOAD_BYTE, UDP_HEADER);
                    code.keep(kept);
                });
                code.land(ike);
            }
            code.ike(if marked { UDP_HEADER + MARKER } else { UDP_HEADER }, ipv6, kept);
        }
    }
    code.0
}

#[derive(Default)]
struct Program(Vec<SockFilter>);

/// A jump whose target is not known yet.
struct Pending(usize);

impl Program {
    fn op(&mut self, code: u16, k: u32) {
        self.0.push(SockFilter::new(code, 0, 0, k));
    }

    /// Where the comparison holds the program goes on at `land`, else with what `otherwise` writes, which must end it.
    fn branch(&mut self, comparison: u16, k: u32, otherwise: impl FnOnce(&mut Program)) -> Pending {
        // Conditional jumps reach 255 instructions, plain ones any.
        self.0.push(SockFilter::new(comparison, 0, 1, k));
        let jump = self.0.len();
        self.op(JUMP, 0);
        otherwise(self);
        Pending(jump)
    }

    fn land(&mut self, Pending(jump): Pending) {
        let over = self.0.len() - jump - 1;
        self.0[jump] = SockFilter::new(JUMP, 0, 0, over as u32);
    }

    /// An IKE message whose header is at octet `at` (RFC 7296, 3.1).
    fn ike(&mut self, at: u32, ipv6: bool, kept: &Kept) {
        self.op(LOAD_BYTE, at + IKE_AT_FLAGS as u32);
        self.op(AND, u32::from(IKE_FLAG_INITIATOR));
        // The peer is the responder of this IKE SA: our SPI is the initiator's.
        let from_initiator = self.branch(JUMP_GREATER, 0, |code| {
            code.op(LOAD_BYTE, at);
            code.keep(kept);
        });
        self.land(from_initiator);
        let spi_r = at + IKE_AT_SPI_R as u32;
        for half in [spi_r, spi_r + 4] {
            self.op(LOAD_WORD, half);
            let zero = self.branch(JUMP_EQUAL, 0, |code| {
                code.op(LOAD_BYTE, spi_r);
                code.keep(kept);
            });
            self.land(zero);
        }
        self.hash(at, ipv6);
        self.keep(kept);
    }

    /// `Segment::of_initiator`.
    fn hash(&mut self, at: u32, ipv6: bool) {
        let source = if ipv6 {
            NETWORK_HEADER + 8..NETWORK_HEADER + 24
        } else {
            NETWORK_HEADER + 12..NETWORK_HEADER + 16
        };
        let port = 0..2;
        let spi_i = at..at + 8;
        self.op(LOAD_X, Segment::HASH_START);
        for octet in source.chain(port).chain(spi_i) {
            self.op(LOAD_BYTE, octet);
            self.op(XOR_X, 0);
            self.op(MULTIPLY, Segment::HASH_FACTOR);
            self.op(A_TO_X, 0);
        }
        // X is the hash; its octets are folded into A.
        for shift in [8, 16, 24] {
            self.op(X_TO_A, 0);
            self.op(SHIFT_RIGHT, shift);
            self.op(STORE, shift / 8);
        }
        for part in 1..=3 {
            self.op(LOAD_STORED, part);
            self.op(XOR_X, 0);
            self.op(A_TO_X, 0);
        }
        self.op(X_TO_A, 0);
        self.op(AND, 0xff);
    }

    /// Ends the program: keeps the packet where the segment in A is kept.
    fn keep(&mut self, kept: &Kept) {
        const SEGMENT: u32 = 0;
        self.op(STORE, SEGMENT);
        self.op(AND, 31);
        self.op(A_TO_X, 0);
        self.op(LOAD_STORED, SEGMENT);
        self.op(SHIFT_RIGHT, 5);
        // For each word of the set: a comparison, and what to do with it.
        let words = kept.0.len();
        for (word, _) in kept.0.iter().enumerate() {
            let after = words - 1 - word;
            // Over the comparisons that follow, the drop, and the loads (two each) of the words before.
            self.0.push(SockFilter::new(JUMP_EQUAL, (after + 1 + 2 * word) as u8, 0, word as u32));
        }
        self.op(RETURN, 0);
        for (word, bits) in kept.0.iter().enumerate() {
            self.op(LOAD, *bits);
            self.op(JUMP, 2 * (words - 1 - word) as u32);
        }
        self.op(SHIFT_RIGHT_X, 0);
        self.op(AND, 1);
        self.0.push(SockFilter::new(JUMP_EQUAL, 1, 0, 0));
        self.op(RETURN, u32::MAX);
        self.op(RETURN, 0);
    }
}

/// Loads from here are counted from the network header (SKF_NET_OFF).
const NETWORK_HEADER: u32 = libc::SKF_NET_OFF as u32;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_IMM) as u16;
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_BYTE_X: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const LOAD_STORED: u16 = (libc::BPF_LD | libc::BPF_MEM) as u16;
const LOAD_X: u16 = (libc::BPF_LDX | libc::BPF_IMM) as u16;
const LOAD_X_IP_HEADER: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
const STORE: u16 = libc::BPF_ST as u16;
const A_TO_X: u16 = (libc::BPF_MISC | libc::BPF_TAX) as u16;
const X_TO_A: u16 = (libc::BPF_MISC | libc::BPF_TXA) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const MULTIPLY: u16 = (libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K) as u16;
const SHIFT_RIGHT: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K) as u16;
const SHIFT_RIGHT_X: u16 = (libc::BPF_ALU | libc::BPF_RSH | libc::BPF_X) as u16;
const XOR_X: u16 = (libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
