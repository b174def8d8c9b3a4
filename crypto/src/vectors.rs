//! Reads known answers for the tests: those of this crate, and the Wycheproof sets beside the project.

use std::path::Path;

use serde_json::Value;

/// A file of `tests/vectors`.
pub(crate) fn known_answers(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    parse(&path)
}

/// The (group, case) pairs of a Wycheproof file. Where the sets are not there the test says so and passes.
pub(crate) fn wycheproof(file: &str) -> Vec<(Value, Value)> {
    let inside = Path::new("shared/vectors/wycheproof").join(file);
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join(&inside))
        .find(|path| path.is_file());
    let Some(path) = found else {
        println!("SKIPPED {file}: {} is not beside the project", inside.display());
        return Vec::new();
    };
    let mut cases = Vec::new();
    for group in parse(&path)["testGroups"].as_array_mut().unwrap() {
        let tests = group["tests"].take();
        cases.extend(tests.as_array().unwrap().iter().map(|case| (group.clone(), case.clone())));
    }
    assert!(!cases.is_empty());
    cases
}

/// The octets of a member in hex.
pub(crate) fn octets(value: &Value, member: &str) -> Vec<u8> {
    hex::decode(value[member].as_str().unwrap_or_else(|| panic!("{member} is text"))).unwrap()
}

pub(crate) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("{member} is text"))
}

pub(crate) fn list<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value[member].as_array().unwrap_or_else(|| panic!("{member} is a list"))
}

fn parse(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}
