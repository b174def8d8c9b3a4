//! Which requirement has code, which has a test: `cargo spec`.
//!
//! The ledger is `ipsec/spec/*.toml`: our own list of requirements in our own words.
//!
//! ```text
//!   [[requirement]]
//!   id = "IK-42"  section = "RFC 7296, 2.9"  strength = "MUST"  text = "..."  state = "done"
//!   state = "later", "exception" or "not-applicable" wants a `reason`
//! ```
//!
//! Sources name them: `//= IK-42` above the code that does it, `//= test IK-42` above the test that fails when it is
//! broken. The command fails on an unknown id, on a row without a state, on a row out of scope without a reason, and
//! on a MUST in scope without code or without a test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::outcome::{Context, Result};

#[derive(Clone, Debug, Deserialize)]
struct Ledger {
    #[serde(default, alias = "row", alias = "requirements")]
    requirement: Vec<Requirement>,
}

/// One row of the ledger.
#[derive(Clone, Debug, Deserialize)]
pub struct Requirement {
    pub id: String,
    #[serde(default)]
    pub section: String,
    #[serde(default)]
    pub strength: String,
    #[serde(default)]
    pub text: String,
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub reason: String,
}

/// The states that put a row out of scope, with a reason.
const OUT_OF_SCOPE: [&str; 3] = ["later", "exception", "not-applicable"];

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    pub requirements: Vec<Requirement>,
    pub code: BTreeMap<String, BTreeSet<PathBuf>>,
    pub tests: BTreeMap<String, BTreeSet<PathBuf>>,
    pub faults: Vec<String>,
}

/// Reads ledger and sources of the workspace at `root`.
pub fn cover(root: &Path) -> Result<Coverage> {
    let mut coverage = Coverage::default();
    let mut ledgers: Vec<PathBuf> = Vec::new();
    files_below(&root.join("ipsec/spec"), "toml", &mut ledgers)?;
    for path in &ledgers {
        let text = std::fs::read_to_string(path).context(path.display())?;
        let ledger: Ledger = toml::from_str(&text).context(path.display())?;
        coverage.requirements.extend(ledger.requirement);
    }
    let mut sources = Vec::new();
    for part in ["crypto", "ipsec", "raft", "node", "testbed"] {
        files_below(&root.join(part), "rs", &mut sources)?;
    }
    for path in sources {
        let text = std::fs::read_to_string(&path).context(path.display())?;
        let short = path.strip_prefix(root).unwrap_or(&path).to_owned();
        coverage.take_annotations(&short, &text);
    }
    coverage.judge();
    Ok(coverage)
}

impl Coverage {
    fn take_annotations(&mut self, path: &Path, text: &str) {
        for line in text.lines().filter_map(|line| line.trim_start().strip_prefix(MARK)) {
            let (target, ids) = match line.trim().strip_prefix("test ") {
                Some(ids) => (&mut self.tests, ids),
                None => (&mut self.code, line),
            };
            for id in ids.split([',', ' ']).map(str::trim).filter(|id| !id.is_empty()) {
                target.entry(id.to_owned()).or_default().insert(path.to_owned());
            }
        }
    }

    fn judge(&mut self) {
        let mut known = BTreeSet::new();
        for row in &self.requirements {
            if !known.insert(row.id.as_str()) {
                self.faults.push(format!("{} is in the ledger twice", row.id));
            }
            let out_of_scope = OUT_OF_SCOPE.contains(&row.state.as_str());
            if row.state != "done" && !out_of_scope {
                self.faults.push(format!("{} has no known state: {:?}", row.id, row.state));
            }
            if out_of_scope && row.reason.is_empty() {
                self.faults.push(format!("{} is {} without a reason", row.id, row.state));
            }
            if row.text.is_empty() || row.section.is_empty() || row.strength.is_empty() {
                self.faults.push(format!("{} lacks its section, strength or text", row.id));
            }
            if row.is_must_in_scope() {
                if !self.code.contains_key(&row.id) {
                    self.faults.push(format!("{} has no code: {}", row.id, row.text));
                }
                if !self.tests.contains_key(&row.id) {
                    self.faults.push(format!("{} has no test: {}", row.id, row.text));
                }
            }
        }
        for (id, paths) in self.code.iter().chain(&self.tests) {
            if !known.contains(id.as_str()) {
                let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                self.faults.push(format!("{id} in {} is not in the ledger", paths.join(", ")));
            }
        }
        if self.requirements.is_empty() {
            self.faults.push("the ledger is empty".to_owned());
        }
    }

    /// A table by the kind of requirement, and, where asked for, every row.
    pub fn table(&self, every_row: bool) -> String {
        let mut out = String::new();
        if every_row {
            for row in &self.requirements {
                let mark = |found: bool| if found { "x" } else { "." };
                out += &format!(
                    "{:<8} {:<10} {:<14} code {} test {}  {}\n",
                    row.id,
                    row.strength,
                    row.state,
                    mark(self.code.contains_key(&row.id)),
                    mark(self.tests.contains_key(&row.id)),
                    row.text
                );
            }
        }
        let mut groups: BTreeMap<&str, [usize; 6]> = BTreeMap::new();
        for row in &self.requirements {
            let kind = row.id.split('-').next().unwrap_or("");
            let counts = groups.entry(kind).or_default();
            counts[0] += 1;
            if row.state == "done" {
                counts[1] += 1;
                counts[2] += usize::from(self.code.contains_key(&row.id));
                counts[3] += usize::from(self.tests.contains_key(&row.id));
            } else {
                counts[4] += usize::from(row.state == "later");
                counts[5] += usize::from(row.state != "later");
            }
        }
        out += "kind    rows  in scope  with code  with test  later  other\n";
        for (kind, [rows, scope, code, test, later, other]) in groups {
            out += &format!("{kind:<6} {rows:>5} {scope:>9} {code:>10} {test:>10} {later:>6} {other:>6}\n");
        }
        out
    }
}

impl Requirement {
    fn is_must_in_scope(&self) -> bool {
        self.state == "done" && self.strength.starts_with("MUST")
    }
}

/// Written apart, so that this file's own text is no annotation.
const MARK: &str = concat!("//", "= ");

/// All files of a kind below a folder, sorted; none when there is no folder.
pub fn files_below(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "corpus") {
                files_below(&path, extension, found)?;
            }
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(ledger: &str, source: &str) -> Vec<String> {
        let ledger: Ledger = toml::from_str(ledger).unwrap();
        let mut coverage = Coverage { requirements: ledger.requirement, ..Coverage::default() };
        coverage.take_annotations(Path::new("a.rs"), source);
        coverage.judge();
        coverage.faults
    }

    #[test]
    fn faults_of_ledger_and_sources() {
        let row = |more: &str| {
            format!(
                "[[requirement]]\nid = \"IK-1\"\nsection = \"3.1\"\nstrength = \"MUST\"\ntext = \"t\"\n{more}"
            )
        };
        let (code, test) = (format!("{MARK}IK-1\n"), format!("  {MARK}test IK-1\n"));
        let both = format!("{code}{test}");
        for (state, source, fault) in [
            ("state = \"done\"", both.as_str(), None),
            ("state = \"done\"", &code, Some("no test")),
            ("state = \"done\"", &test, Some("no code")),
            ("", &both, Some("no known state")),
            ("state = \"later\"", "", Some("without a reason")),
            ("state = \"later\"\nreason = \"next issue\"", "", None),
            ("state = \"done\"", &format!("{both}{MARK}IK-2\n"), Some("not in the ledger")),
        ] {
            let faults = judged(&row(state), source);
            match fault {
                None => assert_eq!(faults, Vec::<String>::new(), "{state}"),
                Some(fault) => assert!(faults.len() == 1 && faults[0].contains(fault), "{state}: {faults:?}"),
            }
        }
    }
}
