//! What each crate does not know, who may import whom, and how files look: rules that a compiler does not check.
//!
//! Every rule is a function over the text of a file, and is shown to catch a planted fault.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use testbed::spec::files_below;
use testbed::verify::root;

/// A source file: its path below the workspace, its text, and the part of it before its tests.
struct Source {
    path: String,
    text: String,
    is_test: bool,
}

impl Source {
    /// Lines of code with their numbers: comments and unit tests left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<(usize, &str)> =
            self.text.lines().enumerate().map(|(at, line)| (at + 1, line)).collect();
        let tests = lines.windows(2).position(|pair| is_inline_tests(pair[0].1, pair[1].1));
        let end = if self.is_test { 0 } else { tests.unwrap_or(lines.len()) };
        lines.into_iter().take(end).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn is_inline_tests(line: &str, next: &str) -> bool {
    line.starts_with("#[cfg(test)]") && next.contains("mod ") && next.trim_end().ends_with('{')
}

/// Modules that exist only in tests, as their parents declare them: `#[cfg(test)]`, then `mod name;`.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else { return Vec::new() };
    let own_folder = match stem.to_str() {
        Some("mod" | "lib" | "main") => folder.to_owned(),
        _ => folder.join(stem),
    };
    let lines: Vec<&str> = text.lines().collect();
    let declared = lines.windows(2).filter(|pair| pair[0].trim() == "#[cfg(test)]").filter_map(|pair| {
        let name = pair[1].trim().strip_suffix(';')?.rsplit_once("mod ")?.1;
        Some(own_folder.join(name))
    });
    declared.flat_map(|module| [module.with_extension("rs"), module]).collect()
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut paths: Vec<PathBuf> = Vec::new();
    for part in ["crypto", "ipsec", "raft", "node", "testbed"] {
        files_below(&root.join(part), "rs", &mut paths).expect("the folder can be read");
    }
    assert!(paths.len() > 20, "the sources are not where they should be");
    let texts: Vec<String> =
        paths.iter().map(|path| std::fs::read_to_string(path).expect("a text file")).collect();
    let only_in_tests: Vec<PathBuf> =
        paths.iter().zip(&texts).flat_map(|(path, text)| test_modules(path, text)).collect();
    let read = |(path, text): (&PathBuf, String)| {
        let short = path.strip_prefix(&root).expect("it was found below the root");
        let in_test_folder = short.iter().any(|part| part == "tests" || part == "fuzz");
        let is_test = in_test_folder || only_in_tests.iter().any(|module| path.starts_with(module));
        Source { path: short.to_string_lossy().into_owned(), text, is_test }
    };
    paths.iter().zip(texts).map(read).collect()
}

type Rule = fn(&Source) -> Vec<String>;

/// Fails with every fault that the rules find in any file.
fn hold(rules: &[Rule]) {
    let sources = sources();
    let faults: Vec<String> = rules.iter().flat_map(|rule| sources.iter().flat_map(rule)).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Lines of code that contain one of `words`, in files whose path fits.
fn forbidden(source: &Source, fits: impl Fn(&str) -> bool, words: &[&str]) -> Vec<String> {
    if !fits(&source.path) {
        return Vec::new();
    }
    let found = source.code().flat_map(|(at, line)| {
        words.iter().filter(|word| has_word(line, word)).map(move |word| (at, *word)).collect::<Vec<_>>()
    });
    found.map(|(at, word)| format!("{}:{at} must not know `{word}`", source.path)).collect()
}

/// True when `word` stands in the line with nothing that would make it part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let longer_before = word.starts_with(part_of_name) && before.is_some_and(part_of_name);
        let longer_after = word.ends_with(part_of_name) && after.is_some_and(part_of_name);
        !longer_before && !longer_after
    })
}

const CLOCKS: [&str; 3] = ["Instant", "SystemTime", "std::time"];

fn crypto_knows_nothing_of_ours(source: &Source) -> Vec<String> {
    forbidden(
        source,
        |path| path.starts_with("crypto/src/"),
        &["ipsec::", "raft::", "node::", "tokio", "std::net"],
    )
}

fn ipsec_has_no_io_and_no_clock(source: &Source) -> Vec<String> {
    let io = ["tokio", "UdpSocket", "TcpStream", "std::fs", "OsRng", "raft::", "node::", "openraft"];
    forbidden(source, |path| path.starts_with("ipsec/src/"), &[&io[..], &CLOCKS].concat())
}

fn state_is_pure(source: &Source) -> Vec<String> {
    let outside =
        ["openraft", "tokio", "sled", "OsRng", "std::fs", "std::net::UdpSocket", "HashMap", "HashSet"];
    forbidden(source, |path| path.starts_with("raft/src/state"), &[&outside[..], &CLOCKS].concat())
}

fn raft_knows_little_of_ipsec(source: &Source) -> Vec<String> {
    if !source.path.starts_with("raft/src/") {
        return Vec::new();
    }
    let allowed = ["record", "types", "policy", "limits"];
    let strange = source.code().flat_map(|(at, line)| {
        line.match_indices("ipsec::")
            .filter(|(start, _)| {
                !line[..*start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            })
            .filter(|(start, _)| {
                let rest = &line[start + "ipsec::".len()..];
                !allowed.iter().any(|module| rest.starts_with(module)) && !rest.starts_with('{')
            })
            .map(|_| format!("{}:{at} imports more of ipsec than {allowed:?}", source.path))
            .collect::<Vec<_>>()
    });
    strange.collect()
}

/// The node sorts datagrams (`classify`) and counts what was dropped; what is inside is not its business.
fn node_does_not_parse_ike(source: &Source) -> Vec<String> {
    let parts = [
        "Message",
        "Header",
        "Payload",
        "Payloads",
        "Notify",
        "Sa",
        "Encrypted",
        "header",
        "message",
        "chain",
    ];
    let names: Vec<String> = parts.iter().map(|part| format!("wire::{part}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    forbidden(source, |path| path.starts_with("node/src/"), &names)
}

fn unsafe_only_in_io(source: &Source) -> Vec<String> {
    forbidden(source, |path| !path.starts_with("node/src/io/"), &["unsafe"])
}

fn replies_are_opened_in_one_file(source: &Source) -> Vec<String> {
    let owns = |path: &str| path == "raft/src/handle.rs" || path == "ipsec/src/record/sealed.rs";
    // Other things are opened too (keys, sockets, files); a sealed reply is opened by the name of its type or variable.
    let calls = ["Sealed::open", "sealed.open(", "replies.open(", "Sealed::<"];
    forbidden(source, |path| (path.starts_with("raft/") || path.starts_with("node/")) && !owns(path), &calls)
}

fn files_are_short(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    match lines > 700 {
        true => vec![format!("{} has {lines} lines", source.path)],
        false => Vec::new(),
    }
}

fn files_say_what_they_are(source: &Source) -> Vec<String> {
    let first = source.text.lines().find(|line| !line.is_empty() && !line.starts_with("#!["));
    match first.is_some_and(|line| line.starts_with("//! ")) {
        true => Vec::new(),
        false => vec![format!("{} does not open with a doc comment", source.path)],
    }
}

fn nothing_is_left_open(source: &Source) -> Vec<String> {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let marked = source.text.lines().enumerate().flat_map(|(at, line)| {
        let found = marks.iter().filter(|mark| has_word(line, mark));
        found.map(|mark| format!("{}:{} has {mark}", source.path, at + 1)).collect::<Vec<_>>()
    });
    let unwraps = source.code().filter(|(_, line)| line.contains(".unwrap()"));
    marked.chain(unwraps.map(|(at, _)| format!("{}:{at} unwraps outside a test", source.path))).collect()
}

fn no_machine_is_named(source: &Source) -> Vec<String> {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let named = source.text.lines().enumerate().flat_map(|(at, line)| {
        let found = places.iter().filter(|place| line.contains(**place));
        found.map(|place| format!("{}:{} names {place}", source.path, at + 1)).collect::<Vec<_>>()
    });
    named.collect()
}

#[test]
fn crates_do_not_know_what_they_must_not() {
    hold(&[
        crypto_knows_nothing_of_ours,
        ipsec_has_no_io_and_no_clock,
        state_is_pure,
        raft_knows_little_of_ipsec,
        node_does_not_parse_ike,
    ]);
}

#[test]
fn unsafe_is_in_one_folder() {
    hold(&[unsafe_only_in_io]);
}

#[test]
fn sealed_replies_are_opened_in_one_file() {
    hold(&[replies_are_opened_in_one_file]);
}

#[test]
fn files_read_well() {
    hold(&[files_are_short, files_say_what_they_are, nothing_is_left_open, no_machine_is_named]);
}

/// An arrow of the design's drawing: who may depend on whom.
#[test]
fn crates_depend_in_one_direction() {
    let order = ["crypto", "ipsec", "raft", "node", "testbed"];
    for (place, name) in order.iter().enumerate() {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let wrong: Vec<&&str> = dependencies(&manifest)
            .into_iter()
            .filter_map(|found| order.iter().find(|known| **known == found))
            .filter(|found| order.iter().position(|known| known == *found).is_some_and(|at| at >= place))
            .collect();
        assert!(wrong.is_empty(), "{name} depends on {wrong:?}");
    }
    assert_eq!(
        dependencies("[dependencies]\nnode.workspace = true\n"),
        ["node"],
        "the test must see a wrong one"
    );
}

fn dependencies(manifest: &str) -> Vec<&str> {
    let (mut inside, mut found) = (false, Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside {
            found.extend(line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty()));
        }
    }
    found
}

/// Each rule sees what was planted for it, and is content with the same text elsewhere or in a test.
#[test]
fn planted_faults_are_found() {
    let planted: [(Rule, &str, String); 12] = [
        (crypto_knows_nothing_of_ours, "crypto/src/a.rs", "use ipsec::types::Spi;".into()),
        (ipsec_has_no_io_and_no_clock, "ipsec/src/a.rs", "let now = Instant::now();".into()),
        (ipsec_has_no_io_and_no_clock, "ipsec/src/a.rs", "use tokio::net;".into()),
        (state_is_pure, "raft/src/state/a.rs", "use openraft::Raft;".into()),
        (raft_knows_little_of_ipsec, "raft/src/a.rs", "use ipsec::ike::decide;".into()),
        (node_does_not_parse_ike, "node/src/a.rs", "use ipsec::wire::header;".into()),
        (unsafe_only_in_io, "node/src/a.rs", format!("{} {{ }}", "unsafe")),
        (replies_are_opened_in_one_file, "node/src/a.rs", "let replies = Sealed::open(replies);".into()),
        (files_are_short, "node/src/a.rs", "//! x\n".repeat(701)),
        (files_say_what_they_are, "node/src/a.rs", "use std::fmt;".into()),
        (nothing_is_left_open, "node/src/a.rs", "let x = y.unwrap();".into()),
        (no_machine_is_named, "node/src/a.rs", format!("//! {}", concat!("/wo", "rk/x"))),
    ];
    for (rule, path, text) in planted {
        let faults = rule(&Source { path: path.into(), text: text.clone(), is_test: false });
        assert_eq!(faults.len(), 1, "{path}: {} gives {faults:?}", text.lines().next().unwrap());
        let fine = Source {
            path: "node/src/io/a.rs".into(),
            text: "//! A file.\nfn main() {}\n".into(),
            is_test: false,
        };
        assert_eq!(rule(&fine), Vec::<String>::new());
    }
}

#[test]
fn test_code_is_told_apart() {
    let text =
        "//! x\n#[cfg(test)]\nmod samples;\nlet a = b;\n#[cfg(test)]\nmod tests {\n    x.unwrap();\n}\n";
    let modules = test_modules(Path::new("ipsec/src/esp/mod.rs"), text);
    assert!(modules.contains(&PathBuf::from("ipsec/src/esp/samples.rs")));
    let modules = test_modules(Path::new("crypto/src/cipher.rs"), text);
    assert!(modules.contains(&PathBuf::from("crypto/src/cipher/samples.rs")));
    let source = Source { path: "node/src/a.rs".into(), text: text.into(), is_test: false };
    assert!(source.code().any(|(_, line)| line == "let a = b;"));
    assert_eq!(nothing_is_left_open(&source), Vec::<String>::new());
}
