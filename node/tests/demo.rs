//! `pontoon demo` from outside: the built program, a small file, a node killed in the middle of it.
//!
//! Where the machine allows no namespaces or no TUN the test is skipped by name. All figures come from the document
//! that the command prints.

use std::path::Path;
use std::process::{Command, Output};

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

#[test]
fn a_download_survives_a_killed_node() {
    let Some(output) = demo("a_download_survives_a_killed_node", &["--size", "8MiB", "-o", "json"]) else {
        return;
    };
    let shown = document(&output);
    assert_eq!(shown["schema"], 1);
    assert_eq!(shown["octets"], 8 << 20);
    assert_eq!(shown["killed"], "edge-1");
    assert_eq!((&shown["file_intact"], &shown["same_sa"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(shown["numbers_twice"], 0);
    assert_eq!(shown["ivs_twice"], 0);
    assert_eq!(shown["ike_messages"], 0);
    // 8 MiB in packets of at most 1,400 octets.
    assert!(shown["esp_packets"].as_u64().expect("a number") >= 5_992, "{shown}");
    assert!(shown["gap"]["gap_ms"].as_f64().expect("a number") > 0.0, "{shown}");
}

#[test]
fn a_file_of_one_octet_without_a_failure() {
    let arguments = ["--size", "1B", "--kill", "none", "--nodes", "1", "-o", "json"];
    let Some(output) = demo("a_file_of_one_octet_without_a_failure", &arguments) else { return };
    let shown = document(&output);
    assert_eq!((&shown["octets"], &shown["killed"], &shown["gap"]), (&1.into(), &Value::Null, &Value::Null));
    assert_eq!(shown["file_intact"], true);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    use std::io::{BufRead as _, BufReader};
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args(["demo", "--size", "1GiB"]).stdout(std::process::Stdio::piped());
    let mut demo = command.stderr(std::process::Stdio::piped()).spawn().expect("the program starts");
    let dir = std::env::temp_dir().join(format!("pontoon-demo-{}", demo.id()));
    let story = BufReader::new(demo.stdout.take().expect("a pipe")).lines();
    let begun = story.map_while(Result::ok).any(|line| line.contains("download of"));
    if !begun {
        let output = demo.wait_with_output().expect("it ends");
        let complaint = String::from_utf8_lossy(&output.stderr);
        let forbidden = complaint.contains("may not make namespaces") || complaint.contains("/dev/net/tun");
        assert!(forbidden, "{complaint}");
        println!("an_interrupted_demo_leaves_nothing is skipped: {}", complaint.trim());
        return;
    }
    assert!(dir.is_dir(), "its files are there while it runs");
    let children = children(demo.id());
    assert_eq!(children.len(), 3, "node, client and server");
    let pid = nix::unistd::Pid::from_raw(demo.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let output = demo.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!dir.exists(), "its files are gone");
    for child in children {
        assert!(!Path::new(&format!("/proc/{child}")).exists(), "process {child} is gone");
    }
}

/// The processes that a process has started.
fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    list.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}
