//! The binary: daemon and tool are one. What there is to do stands in `cli`; here the parts are put together.

use std::process::ExitCode;

use node::cli::{Entries, main as run};

fn main() -> ExitCode {
    run(Entries { daemon: node::daemon::run, demo: node::demo::run })
}
