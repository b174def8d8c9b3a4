//! `cargo verify`: everything that must hold, in order, with a summary that names what was skipped.
//!
//! ```text
//!   format  clippy  docs  tests (tidy among them)  spec  compose  scenarios
//! ```
//!
//! A step that fails does not stop the later ones: one run tells all. The last line is `N passed, N failed, N skipped`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::compose;
use crate::outcome::{Context, Result, Stop};
use crate::scenarios::{self, Ended};
use crate::spec;
use crate::world::{exec, sandbox};

/// One line of the summary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    pub name: String,
    /// `None` passed.
    pub fault: Option<String>,
    pub skipped: bool,
    pub seconds: f64,
}

/// What the command line chose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Leaves the scenarios out, and says so.
    pub without_scenarios: bool,
}

/// Runs all steps; true when nothing failed.
pub fn verify(choice: Choice) -> Result<bool> {
    let root = root();
    let mut items = Vec::new();
    let doc = [("RUSTDOCFLAGS", "-D warnings")];
    cargo(&mut items, "format", &["fmt", "--all", "--check"], &[]);
    cargo(
        &mut items,
        "clippy",
        &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
        &[],
    );
    cargo(
        &mut items,
        "docs",
        &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"],
        &doc,
    );
    tests(&mut items);
    step(&mut items, "spec", || {
        let coverage = spec::cover(&root)?;
        print!("{}", coverage.table(false));
        match coverage.faults.as_slice() {
            [] => Ok(()),
            faults => Err(Stop::Failed(format!("{} faults:\n  {}", faults.len(), faults.join("\n  ")))),
        }
    });
    step(&mut items, "compose", compose::check);
    if choice.without_scenarios {
        skip_scenarios(&mut items, "left out by request");
    } else if let Err(stop) = sandbox::require() {
        skip_scenarios(&mut items, &stop.to_string());
    } else {
        run_scenarios(&mut items);
    }
    Ok(summarise(&items))
}

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Builds the program under test beside this one, in the same profile.
pub fn build_program() -> Result {
    let mut command = cargo_command(&["build", "--quiet", "--workspace", "--bin", "pontoon"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("cargo")?;
    match status.success() {
        true => Ok(()),
        false => Err("the program `pontoon` does not build".into()),
    }
}

/// `cargo fix-all`: what can be put right by a program.
pub fn fix() -> Result {
    for arguments in [
        &["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"][..],
        &["fmt", "--all"],
    ] {
        let status = cargo_command(arguments).status().context("cargo")?;
        if !status.success() {
            return Err(format!("`cargo {}` ended with {status}", arguments.join(" ")).into());
        }
    }
    Ok(())
}

/// The results of scenarios as summary lines.
pub fn items(ended: &[Ended]) -> Vec<Item> {
    let item = |one: &Ended| Item {
        name: one.name.to_owned(),
        fault: one.result.as_ref().err().map(Stop::to_string),
        skipped: one.result.as_ref().is_err_and(Stop::is_skip),
        seconds: one.took.as_secs_f64(),
    };
    ended.iter().map(item).collect()
}

/// Prints what was skipped and what failed, then the one line of figures; true when nothing failed.
pub fn summarise(items: &[Item]) -> bool {
    let skipped: Vec<&Item> = items.iter().filter(|item| item.skipped).collect();
    let failed: Vec<&Item> = items.iter().filter(|item| item.fault.is_some() && !item.skipped).collect();
    println!();
    for item in &skipped {
        println!("skipped  {:<28} {}", item.name, item.fault.as_deref().unwrap_or(""));
    }
    for item in &failed {
        println!("FAILED   {:<28} {}", item.name, item.fault.as_deref().unwrap_or(""));
    }
    let seconds: f64 = items.iter().map(|item| item.seconds).sum();
    println!("in {seconds:.0} s");
    println!(
        "{} passed, {} failed, {} skipped",
        items.len() - failed.len() - skipped.len(),
        failed.len(),
        skipped.len()
    );
    failed.is_empty()
}

fn step(items: &mut Vec<Item>, name: &str, work: impl FnOnce() -> Result) {
    println!("== {name}");
    let start = Instant::now();
    let result = work();
    let took = start.elapsed();
    report(name, &result, took);
    items.push(Item {
        name: name.to_owned(),
        skipped: result.as_ref().is_err_and(Stop::is_skip),
        fault: result.err().map(|stop| stop.to_string()),
        seconds: took.as_secs_f64(),
    });
}

fn report(name: &str, result: &Result, took: Duration) {
    match result {
        Ok(()) => println!("   {name} ok in {:.1} s", took.as_secs_f64()),
        Err(stop) if stop.is_skip() => println!("   {name} skipped: {stop}"),
        Err(stop) => println!("   {name} FAILED after {:.1} s: {stop}", took.as_secs_f64()),
    }
}

fn cargo(items: &mut Vec<Item>, name: &str, arguments: &[&str], environment: &[(&str, &str)]) {
    step(items, name, || {
        let status = cargo_command(arguments).envs(environment.iter().copied()).status().context("cargo")?;
        match status.success() {
            true => Ok(()),
            false => Err(Stop::Failed(format!("`cargo {}` ended with {status}", arguments.join(" ")))),
        }
    });
}

/// All tests of all crates: one summary line a test. A test that lacks something prints `skipped: why`.
fn tests(items: &mut Vec<Item>) {
    step(items, "tests build", || {
        let status =
            cargo_command(&["test", "--workspace", "--quiet", "--no-run"]).status().context("cargo")?;
        if status.success() { Ok(()) } else { Err("the tests do not build".into()) }
    });
    println!("== tests");
    exec::settle_disk();
    let start = Instant::now();
    let mut command = cargo_command(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    command.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = match command.spawn().and_then(std::process::Child::wait_with_output) {
        Ok(output) => output,
        Err(error) => {
            items.push(Item {
                name: "tests".into(),
                fault: Some(error.to_string()),
                skipped: false,
                seconds: 0.0,
            });
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let found = read_test_output(&text);
    if !output.status.success() {
        println!("{text}");
    }
    let failed = found.iter().filter(|item| item.fault.is_some() && !item.skipped).count();
    println!("   {} tests, {failed} failed, in {:.1} s", found.len(), start.elapsed().as_secs_f64());
    let none_failed = failed == 0;
    items.extend(found);
    // A crash of a whole test program shows only in the status.
    let whole = Item {
        name: "tests".into(),
        fault: (none_failed && !output.status.success())
            .then(|| format!("cargo test ended with {}", output.status)),
        skipped: false,
        seconds: start.elapsed().as_secs_f64(),
    };
    items.push(whole);
}

/// Lines of what a failed test has printed that the summary repeats: its output is far above.
const REPEATED_LINES: usize = 30;

/// One item a test. A passing test that printed `skipped ...` counts as skipped, with what it printed as the reason.
fn read_test_output(text: &str) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut speaking = String::new();
    let mut repeated = 0;
    for line in text.lines() {
        if let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let (fault, skipped) = match result.split([' ', ',']).next() {
                Some("ok") => (None, false),
                Some("ignored") => (Some(result.to_owned()), true),
                _ => (Some("failed".to_owned()), false),
            };
            items.push(Item { name: name.to_owned(), fault, skipped, seconds: 0.0 });
        } else if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            name.clone_into(&mut speaking);
            repeated = 0;
        } else if line == "failures:" || line == "successes:" {
            speaking.clear();
        } else if repeated < REPEATED_LINES
            && let Some(item) = items.iter_mut().rev().find(|item| item.name == speaking)
            && let (Some(fault), false) = (&mut item.fault, item.skipped)
        {
            repeated += 1;
            fault.push_str("\n    ");
            fault.push_str(line);
        } else if line.trim_start().get(..7).is_some_and(|word| word.eq_ignore_ascii_case("skipped"))
            && let Some(item) = items.iter_mut().rev().find(|item| item.name == speaking)
            && (item.fault.is_none() || item.skipped)
        {
            item.skipped = true;
            let why = line.trim_start()[7..].trim_start_matches([':', ' ']);
            item.fault = Some(match &item.fault {
                Some(before) => format!("{before}; {why}"),
                None => why.to_owned(),
            });
        }
    }
    items
}

fn skip_scenarios(items: &mut Vec<Item>, why: &str) {
    println!("== scenarios skipped: {why}");
    items.extend(scenarios::all().iter().map(|scenario| Item {
        name: scenario.name.to_owned(),
        fault: Some(why.to_owned()),
        skipped: true,
        seconds: 0.0,
    }));
}

/// Runs the scenarios in their sandbox, which is another process, and takes its results over.
fn run_scenarios(items: &mut Vec<Item>) {
    println!("== scenarios");
    let run = || -> Result<Vec<Item>> {
        build_program()?;
        let report = tempfile::NamedTempFile::new().context("report file")?;
        let own = exec::own_program()?;
        let mut command = Command::new(own);
        command.args(["netns", "--built", "--report"]).arg(report.path());
        let status = command.status().context(exec::show(&command))?;
        let text = std::fs::read_to_string(report.path()).context("report file")?;
        serde_json::from_str(&text).context(format!("the scenarios ended with {status} and left no report"))
    };
    match run() {
        Ok(found) => items.extend(found),
        Err(stop) => items.push(Item {
            name: "scenarios".into(),
            skipped: stop.is_skip(),
            fault: Some(stop.to_string()),
            seconds: 0.0,
        }),
    }
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_a_test_run() {
        let text = "\
running 4 tests
test a::b ... ok
test a::c ... FAILED
test a::d ... ignored, slow
test a::e ... ok
successes:
---- a::e stdout ----
SKIPPED a::e: no vectors here
skipped: again
failures:
---- a::c stdout ----
thread 'a::c' panicked: no
failures:
    a::c
";
        let items = read_test_output(text);
        let shown: Vec<(&str, bool, bool)> =
            items.iter().map(|item| (item.name.as_str(), item.fault.is_some(), item.skipped)).collect();
        let wanted =
            [("a::b", false, false), ("a::c", true, false), ("a::d", true, true), ("a::e", true, true)];
        assert_eq!(shown, wanted);
        assert_eq!(items[1].fault.as_deref(), Some("failed\n    thread 'a::c' panicked: no"));
    }
}
