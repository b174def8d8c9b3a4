//! `pontoon completions SHELL` and `pontoon man`, from the one definition of the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Context};
use crate::fault::{Exit, Fault};

const EXIT_CODES: &str = "\n.SH EXIT CODES\n0 done, 1 failed, 2 usage or invalid file, 3 daemon not reachable, \
4 no quorum or leader, 5 not found, 6 refused as dangerous, 7 timed out and the work goes on, \
8 degraded (status \\-\\-check), 130 interrupted\n";

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which one
    pub shell: Shell,
}

pub fn execute(args: &CompletionsArgs, context: &Context) -> Result<Exit, Fault> {
    context.out.print(&completions(args.shell))?;
    Ok(Exit::Done)
}

pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pontoon", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

pub fn man(context: &Context) -> Result<Exit, Fault> {
    let page = manual().map_err(|error| Fault::failed("cannot write the manual page").why(error))?;
    context.out.print(&page)?;
    Ok(Exit::Done)
}

pub fn manual() -> std::io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned() + EXIT_CODES)
}
