//! The binary as a script sees it: streams, exit codes, pipes, colours. No daemon is needed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn pontoon(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pontoon"))
        .args(args)
        .env("PONTOON_SOCKET", "/nowhere/control.sock")
        .env_remove("NO_COLOR")
        .output()
        .expect("the binary is there")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).expect("what is printed is UTF-8")
}

#[test]
fn results_go_to_stdout_and_faults_to_stderr() {
    let version = pontoon(&["version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(text(&version.stdout).starts_with("pontoon ") && version.stderr.is_empty());

    let status = pontoon(&["status"]);
    assert_eq!(status.status.code(), Some(3));
    assert!(status.stdout.is_empty());
    assert_eq!(
        text(&status.stderr),
        "cannot reach pontoon on /nowhere/control.sock: not running\n\
         \x20 try   sudo systemctl start pontoon\n\
         \x20 or    pontoon run --config node.toml\n\
         \x20 or    name its socket with --socket or PONTOON_SOCKET, if it is another one\n"
    );

    let bench = pontoon(&["bench", "esp"]);
    assert_eq!(bench.status.code(), Some(2));
    assert!(text(&bench.stderr).starts_with("`pontoon bench` is not built yet\n  why   "));
}

#[test]
fn no_colour_where_nobody_looks() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gateway.toml");
    std::fs::write(&file, "version = 2\n").expect("written");
    let check = pontoon(&["check", file.to_str().expect("UTF-8")]);
    assert_eq!(check.status.code(), Some(2));
    let drawn = text(&check.stdout);
    assert!(drawn.contains("gateway.toml:1:11]") && !drawn.contains('\u{1b}'), "{drawn}");
}

#[test]
fn a_closed_pipe_is_success() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pontoon"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is there");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn the_files_that_are_shipped_are_right() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let node = pontoon(&["check", dist.join("node.toml").to_str().expect("UTF-8")]);
    assert_eq!(node.status.code(), Some(0), "{}", text(&node.stdout));

    let dir = tempfile::tempdir().expect("a directory");
    let gateway = dir.path().join("gateway.toml");
    std::fs::copy(dist.join("gateway.toml"), &gateway).expect("copied");
    for name in ["branch1.psk", "staff.psk"] {
        let path = dir.path().join(name);
        std::fs::write(&path, "a secret that is long enough\n").expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("changed");
    }
    let check = pontoon(&["check", gateway.to_str().expect("UTF-8")]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stdout));
    assert!(text(&check.stdout).ends_with("gateway.toml: no mistakes\n"), "{}", text(&check.stdout));
}

#[test]
fn the_completions_are_scripts_that_the_shells_accept() {
    for (shell, flags) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("completions");
        std::fs::write(&file, pontoon(&["completions", shell]).stdout).expect("written");
        match Command::new(shell).args(flags).arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", text(&output.stderr)),
            Err(_) => println!("skipped: {shell} is not installed"),
        }
    }
}
