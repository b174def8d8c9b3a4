//! What the gateway costs: processor seconds per gigabyte, measured so that two contenders can be compared.
//!
//! ```text
//!   measure   processor time of a process and of the whole machine while something runs
//!   iperf     the traffic: iperf3 between two namespaces, its JSON
//!   pairs     A-B-B-A rounds, the median of the ratios and how sure it is
//! ```
//!
//! Throughput alone says little on a machine where client, gateway and server share two processors. So: cost per byte,
//! at the same offered load for all, and ratios within one run. Packets that pass a virtual cable as super-packets cost
//! a fraction; publish both rows, with the offloads of the cables on and off (`World::turn_offloads_off`).

pub mod iperf;
pub mod measure;
pub mod pairs;

pub use iperf::{Iperf, Traffic};
pub use measure::{Figures, measure};
pub use pairs::{Ratio, compare};
