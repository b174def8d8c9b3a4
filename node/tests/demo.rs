//! `pontoon demo` from outside: the built program, a small file, a node killed or drained in the middle of it.
//!
//! Where the machine allows no namespaces or no TUN the test is skipped by name. All figures come from the document
//! that the command prints.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

/// Runs the demonstration; `None` where the machine does not let it, with a line that says so.
fn demo(test: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    let output = command.arg("demo").args(arguments).output().expect("the program starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    let forbidden = ["may not make namespaces", "/dev/net/tun", "cannot make the TUN device"];
    if !output.status.success() && forbidden.iter().any(|words| complaint.contains(words)) {
        println!("{test} is skipped: {}", complaint.trim());
        return None;
    }
    Some(output)
}

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

/// What must hold whatever has happened to which node.
fn must_be_sound(shown: &Value) {
    assert_eq!(shown["schema"], 1);
    for promise in ["file_intact", "same_sa", "digests_agree"] {
        assert_eq!(shown[promise], true, "{promise}: {shown}");
    }
    for never in ["numbers_twice", "ivs_twice", "ike_messages"] {
        assert_eq!(shown[never], 0, "{never}: {shown}");
    }
}

#[test]
fn a_download_survives_a_killed_owner() {
    let Some(output) = demo("a_download_survives_a_killed_owner", &["--size", "8MiB", "-o", "json"]) else {
        return;
    };
    let shown = document(&output);
    must_be_sound(&shown);
    assert_eq!((&shown["octets"], &shown["nodes"]), (&(8 << 20).into(), &3.into()));
    assert!(shown["killed"].as_str().is_some_and(|name| name.starts_with("edge-")), "{shown}");
    // 8 MiB in packets of at most 1,400 octets.
    assert!(shown["esp_packets"].as_u64().expect("a number") >= 5_992, "{shown}");
    let gap = |part: &str| shown["gap"][part].as_f64().expect("a number");
    assert!(gap("gap_ms") > 0.0, "{shown}");
    let parts = ["detect_ms", "commit_ms", "resume_ms", "rest_ms"].map(gap);
    assert!((parts.iter().sum::<f64>() - gap("gap_ms")).abs() < 0.001, "{shown}");
}

#[test]
fn a_download_survives_a_killed_leader() {
    let arguments = ["--size", "8MiB", "--kill", "leader", "-o", "json"];
    let Some(output) = demo("a_download_survives_a_killed_leader", &arguments) else { return };
    must_be_sound(&document(&output));
}

#[test]
fn a_drain_loses_nothing() {
    let Some(output) = demo("a_drain_loses_nothing", &["--size", "8MiB", "--drain", "-o", "json"]) else {
        return;
    };
    let shown = document(&output);
    must_be_sound(&shown);
    assert_eq!((&shown["killed"], &shown["probes_lost"]), (&Value::Null, &0.into()), "{shown}");
}

#[test]
fn one_node_goes_on_after_its_restart() {
    let arguments = ["--nodes", "1", "--size", "8MiB", "-o", "json"];
    let Some(output) = demo("one_node_goes_on_after_its_restart", &arguments) else { return };
    let shown = document(&output);
    must_be_sound(&shown);
    assert_eq!(shown["killed"], "edge-1");
}

#[test]
fn a_file_of_one_octet_without_a_failure() {
    let arguments = ["--size", "1B", "--kill", "none", "--nodes", "1", "-o", "json"];
    let Some(output) = demo("a_file_of_one_octet_without_a_failure", &arguments) else { return };
    let shown = document(&output);
    assert_eq!((&shown["octets"], &shown["killed"], &shown["gap"]), (&1.into(), &Value::Null, &Value::Null));
    assert_eq!(shown["file_intact"], true);
}

/// A demonstration of one node that has told `lines` of its story, and the folder of its files; `None` where the machine
/// does not let it.
fn begun(test: &str, lines: usize) -> Option<(Child, BufReader<ChildStdout>, PathBuf)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args(["demo", "--nodes", "1", "--size", "1GiB"]).stdout(Stdio::piped());
    let mut demo = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let dir = std::env::temp_dir().join(format!("pontoon-demo-{}", demo.id()));
    let mut story = BufReader::new(demo.stdout.take().expect("a pipe"));
    for _ in 0..lines {
        let mut line = String::new();
        if story.read_line(&mut line).expect("text") == 0 {
            let output = demo.wait_with_output().expect("it ends");
            let complaint = String::from_utf8_lossy(&output.stderr);
            let forbidden =
                complaint.contains("may not make namespaces") || complaint.contains("/dev/net/tun");
            assert!(forbidden, "{complaint}");
            println!("{test} is skipped: {}", complaint.trim());
            return None;
        }
    }
    Some((demo, story, dir))
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    // The opening, the node, the client, an empty line, and the beginning of the download.
    let Some((demo, _story, dir)) = begun("an_interrupted_demo_leaves_nothing", 5) else { return };
    assert!(dir.is_dir(), "its files are there while it runs");
    let parts = descendants(demo.id());
    assert_eq!(parts.len(), 4, "machine, node, client and server");
    let pid = nix::unistd::Pid::from_raw(demo.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let output = demo.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    nothing_is_left(&dir, &parts);
}

/// As with `pontoon demo | head -1`.
#[test]
fn a_demo_whose_output_is_cut_leaves_nothing() {
    let Some((demo, story, dir)) = begun("a_demo_whose_output_is_cut_leaves_nothing", 1) else { return };
    drop(story);
    let output = demo.wait_with_output().expect("it ends");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "whoever closes the output has seen enough: {complaint}");
    nothing_is_left(&dir, &[]);
}

fn nothing_is_left(dir: &Path, processes: &[u32]) {
    assert!(!dir.exists(), "its files are gone");
    for process in processes {
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "process {process} is gone");
    }
}

/// The processes that a process has started, and those that they have.
fn descendants(pid: u32) -> Vec<u32> {
    // One that has ended meanwhile has started nobody who is left.
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = list.split_whitespace().map(|pid| pid.parse().expect("a number")).collect();
    let below: Vec<u32> = children.iter().flat_map(|&child| descendants(child)).collect();
    [children, below].concat()
}
