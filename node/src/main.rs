//! The binary: daemon and tool are one. What there is to do stands in `cli`; here the parts are put together.

use std::process::ExitCode;

use node::cli::{Entries, main as run};
use node::fault::Fault;

fn main() -> ExitCode {
    run(Entries {
        daemon: node::daemon::run,
        demo: |_, _| Err(Fault::usage("`pontoon demo` is not built yet")),
    })
}
