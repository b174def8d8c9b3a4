//! Reads a TOML table key by key, and notes every mistake instead of stopping at the first.
//!
//! Each accessor also says that its key exists, so `finish` knows which keys do not, and which known one is meant.
//! What an accessor cannot read it has reported: `None` then means "go on without it".

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::{Code, Diagnostic, position};
use super::units;

/// Where all readers of one file note what they find.
#[derive(Debug, Default)]
pub struct Notes(RefCell<Vec<Diagnostic>>);

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// One table, its name in words for messages, and the keys that were asked for.
pub struct Reader<'a, 'i> {
    table: &'a DeTable<'i>,
    /// Where the table begins: its key.
    pub span: Range<usize>,
    /// `[outside]`, `connections.staff`; empty for the file itself.
    pub path: String,
    known: Vec<&'static str>,
    notes: &'a Notes,
}

impl Notes {
    pub fn add(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    pub fn error(&self, code: Code, span: Range<usize>, text: impl Into<String>) {
        self.add(Diagnostic::error(code, span, text));
    }

    /// All that was noted about `text`. Where a line is broken, only the first thing that was said of it counts: the
    /// rest follows from that. And what is missing in a file that could not be read whole may stand behind the break.
    pub fn take(self, text: &str) -> Vec<Diagnostic> {
        let line = |diagnostic: &Diagnostic| position(text, diagnostic.span.start).0;
        let mut all = self.0.into_inner();
        let mut broken: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, diagnostic) in
            all.iter().enumerate().filter(|(_, diagnostic)| diagnostic.code == Code::Syntax)
        {
            broken.entry(line(diagnostic)).or_insert(at);
        }
        if broken.is_empty() {
            return all;
        }
        let mut at = 0;
        all.retain(|diagnostic| {
            let first = broken.get(&line(diagnostic)).is_none_or(|first| *first == at);
            at += 1;
            first && !matches!(diagnostic.code, Code::Missing | Code::Reference)
        });
        all
    }

    /// Reads the text of a file as TOML, as far as it is.
    pub fn parse<'i>(&self, text: &'i str) -> Spanned<DeTable<'i>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            self.error(Code::Syntax, span, error.message().to_owned());
        }
        table
    }
}

impl<'a, 'i> Reader<'a, 'i> {
    pub fn root(table: &'a Spanned<DeTable<'i>>, notes: &'a Notes) -> Reader<'a, 'i> {
        Reader { table: table.get_ref(), span: 0..0, path: String::new(), known: Vec::new(), notes }
    }

    pub fn notes(&self) -> &'a Notes {
        self.notes
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    pub fn is_empty_list(&self, key: &str) -> bool {
        matches!(self.table.get(key).map(Spanned::get_ref), Some(DeValue::Array(items)) if items.is_empty())
    }

    /// The key itself, for a mistake that is about the key and not about its value.
    pub fn key_span(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or(self.span.clone(), |(key, _)| key.span())
    }

    pub fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.get(key)
    }

    pub fn string(&mut self, key: &'static str) -> Option<At<String>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At { value: text.to_string(), span: value.span() }),
            other => self.wrong_type(value, "a text", other),
        }
    }

    /// Like `string`, and says so when it is not there.
    pub fn required(&mut self, key: &'static str, example: &str) -> Option<At<String>> {
        if !self.has(key) {
            self.known.push(key);
            self.missing(key, example);
            return None;
        }
        self.string(key)
    }

    /// A list of texts; one text alone counts as a list of one.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<At<String>>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(vec![At { value: text.to_string(), span: value.span() }]),
            DeValue::Array(array) => Some(
                array
                    .iter()
                    .filter_map(|item| match item.get_ref() {
                        DeValue::String(text) => Some(At { value: text.to_string(), span: item.span() }),
                        other => self.wrong_type(item, "a text", other),
                    })
                    .collect(),
            ),
            other => self.wrong_type(value, "a list of texts", other),
        }
    }

    /// A list of texts, each read by `parse`; its `Err` is (what is wrong, what to write).
    pub fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Option<Vec<At<T>>> {
        let items = self.strings(key)?;
        Some(items.into_iter().filter_map(|item| self.parsed(item, &parse)).collect())
    }

    pub fn parsed<T>(
        &self,
        item: At<String>,
        parse: impl Fn(&str) -> Result<T, (String, String)>,
    ) -> Option<At<T>> {
        match parse(&item.value) {
            Ok(value) => Some(At { value, span: item.span }),
            Err((text, help)) => {
                self.notes.add(Diagnostic::error(Code::Value, item.span, text).help(help));
                None
            }
        }
    }

    pub fn duration_ms(&mut self, key: &'static str) -> Option<At<u64>> {
        let text = self.unit_value(key, "a duration", "\"30s\", \"4h\" or \"250ms\"")?;
        self.parsed(text, |text| {
            units::duration_ms(text).ok_or_else(|| {
                (
                    format!("{text:?} is not a duration"),
                    "a number and a unit: ms, s, m, h or d, as in \"30s\" or \"1h30m\"".to_owned(),
                )
            })
        })
    }

    pub fn octets(&mut self, key: &'static str) -> Option<At<u64>> {
        let text = self.unit_value(key, "a size", "\"500GiB\" or \"256MiB\"")?;
        self.parsed(text, |text| {
            units::octets(text).ok_or_else(|| {
                (
                    format!("{text:?} is not a size"),
                    "a number and a unit: B, KiB, MiB, GiB, TiB, kB, MB, GB or TB".to_owned(),
                )
            })
        })
    }

    /// A word out of a list. `later`: words that are valid but not built yet.
    pub fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], later: &[&str]) -> Option<At<T>> {
        let text = self.string(key)?;
        self.choose(key, text, words, later)
    }

    pub fn choose<T: Copy>(
        &self,
        key: &str,
        text: At<String>,
        words: &[(&str, T)],
        later: &[&str],
    ) -> Option<At<T>> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(At { value: *value, span: text.span });
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        if later.contains(&text.value.as_str()) {
            self.not_built(
                text.span,
                &format!("{key} = {:?}", text.value),
                &format!("there is {}", quoted(&all)),
            );
            return None;
        }
        let help = match nearest(&text.value, all.iter().copied().chain(later.iter().copied())) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("one of {}", quoted(&all)),
        };
        let text_of = format!("{:?} is no value for {key}", text.value);
        self.notes.add(Diagnostic::error(Code::Value, text.span, text_of).help(help));
        None
    }

    /// A table inside this one.
    pub fn table(&mut self, key: &'static str) -> Option<Reader<'a, 'i>> {
        let value = self.value(key)?;
        let span = self.key_span(key);
        match value.get_ref() {
            DeValue::Table(table) => Some(self.inside(table, key, span)),
            other => self.wrong_type(value, "a table", other),
        }
    }

    /// Tables with names that the user chose, in the order of the file.
    pub fn named_tables(&mut self, key: &'static str) -> Vec<(String, Reader<'a, 'i>)> {
        let Some(outer) = self.table(key) else { return Vec::new() };
        let mut entries: Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> =
            outer.table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut tables = Vec::new();
        for (name, value) in entries {
            if let Err(help) = usable_name(name.get_ref()) {
                let text = format!("{:?} is no name", name.get_ref());
                self.notes.add(Diagnostic::error(Code::Value, name.span(), text).help(help));
            }
            match value.get_ref() {
                DeValue::Table(table) => {
                    tables
                        .push((name.get_ref().to_string(), outer.inside(table, name.get_ref(), name.span())));
                }
                other => {
                    let _: Option<()> = self.wrong_type(value, "a table", other);
                }
            }
        }
        tables
    }

    /// A table written as a value: `{ file = "x" }`.
    pub fn of_value(&self, key: &str, value: &'a Spanned<DeValue<'i>>) -> Option<Reader<'a, 'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(self.inside(table, key, value.span())),
            _ => None,
        }
    }

    /// Says that a key which must be there is not.
    pub fn missing(&self, key: &str, example: &str) {
        let holder = if self.path.is_empty() { "the file".to_owned() } else { self.path.clone() };
        self.notes.add(
            Diagnostic::error(Code::Missing, self.span.clone(), format!("{holder} has no {key}"))
                .help(format!("add  {example}")),
        );
    }

    /// Refuses a valid option that this version does not have.
    pub fn not_built(&self, span: Range<usize>, option: &str, help: &str) {
        self.notes.add(
            Diagnostic::error(Code::NotBuilt, span, format!("{option} is not built yet"))
                .label("refused, so that it is not ignored in silence")
                .help(help),
        );
    }

    pub fn wrong_type<T>(&self, value: &Spanned<DeValue<'_>>, wanted: &str, is: &DeValue<'_>) -> Option<T> {
        let text = format!("{wanted} is needed here, this is {}", type_name(is));
        self.notes.error(Code::Value, value.span(), text);
        None
    }

    /// Reports every key that nothing asked for.
    pub fn finish(self) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = if self.path.is_empty() { "here".to_owned() } else { format!("in {}", self.path) };
            let help = match nearest(name, self.known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there is {}", self.known.join(", ")),
            };
            self.notes.add(
                Diagnostic::error(Code::UnknownKey, key.span(), format!("no key {name} {place}")).help(help),
            );
        }
    }

    fn inside(&self, table: &'a DeTable<'i>, key: &str, span: Range<usize>) -> Reader<'a, 'i> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Reader { table, span, path, known: Vec::new(), notes: self.notes }
    }

    /// A text with a unit; a bare number gets a hint of its own.
    fn unit_value(&mut self, key: &'static str, what: &str, examples: &str) -> Option<At<String>> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At { value: text.to_string(), span: value.span() }),
            DeValue::Integer(_) | DeValue::Float(_) => {
                let text = format!("{what} needs a unit");
                self.notes.add(
                    Diagnostic::error(Code::Value, value.span(), text)
                        .help(format!("write it as a text: {examples}")),
                );
                None
            }
            other => self.wrong_type(value, what, other),
        }
    }
}

/// The known word that a mistyped one most likely stands for.
pub fn nearest<'w>(typed: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let lowered = typed.to_ascii_lowercase().replace('-', "_");
    known
        .map(|word| (strsim::damerau_levenshtein(&lowered, &word.replace('-', "_")), word))
        .filter(|(distance, word)| *distance <= (word.len().max(typed.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

/// Names appear in logs, metrics and commands.
fn usable_name(name: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    if fits { Ok(()) } else { Err("1 to 64 letters, digits, -, _ or .".to_owned()) }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

impl std::fmt::Debug for Reader<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader({})", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_finds_its_meaning() {
        let keys = ["advertise", "data_dir", "name", "control", "storage"];
        for (typed, meant) in [
            ("advertize", Some("advertise")),
            ("datadir", Some("data_dir")),
            ("data-dir", Some("data_dir")),
            ("nmae", Some("name")),
            ("Name", Some("name")),
            ("colour", None),
        ] {
            assert_eq!(nearest(typed, keys.iter().copied()), meant, "{typed}");
        }
    }
}
