//! How results and faults are printed.
//!
//! People get tables without borders, colour only on a terminal and not with NO_COLOR; scripts get JSON with
//! `"schema": 1`, or tab-separated values with a header. Whoever closes the pipe has seen enough: that is success.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::control::api::Document;
use crate::fault::{Exit, Fault};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
    Tsv,
}

#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub format: Format,
    /// Leave out what is only said, not asked for.
    pub quiet: bool,
    /// Colour on stdout.
    pub colour: bool,
    /// Colour on stderr.
    pub colour_errors: bool,
}

/// Rows with a name for each column. A column whose name ends in `>` is a number: aligned right for people.
#[derive(Clone, Debug)]
pub struct Rows {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Output {
    pub fn new(format: Format, quiet: bool) -> Output {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Output {
            format,
            quiet,
            colour: !plain && io::stdout().is_terminal(),
            colour_errors: !plain && io::stderr().is_terminal(),
        }
    }

    /// Prints a document in the wanted form. `people` and `rows` are made only when they are needed.
    pub fn document<T: Serialize>(
        &self,
        body: &T,
        people: impl FnOnce(&T) -> String,
        rows: impl FnOnce(&T) -> Rows,
    ) -> Result<(), Fault> {
        self.print(&self.render(body, people, rows)?)
    }

    /// A document in the wanted form.
    pub fn render<T: Serialize>(
        &self,
        body: &T,
        people: impl FnOnce(&T) -> String,
        rows: impl FnOnce(&T) -> Rows,
    ) -> Result<String, Fault> {
        Ok(match self.format {
            Format::Table => people(body),
            Format::Json => json(body)?,
            Format::Tsv => rows(body).tsv(),
        })
    }

    /// Prints a text, with a line end if it has none.
    pub fn print(&self, text: &str) -> Result<(), Fault> {
        match self.write(text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                std::process::exit(i32::from(Exit::Done.code()))
            }
            Err(error) => Err(Fault::failed("cannot write to stdout").why(error)),
            Ok(()) => Ok(()),
        }
    }

    /// As `print`, for those who must do something before they end.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        out.write_all(text.as_bytes())?;
        out.write_all(end.as_bytes())?;
        out.flush()
    }

    /// Prints a fault on stderr.
    pub fn fault(&self, fault: &Fault) {
        let text = fault.to_string();
        let text = match text.split_once('\n') {
            _ if !self.colour_errors => text,
            Some((what, rest)) => format!("\u{1b}[1;31m{what}\u{1b}[0m\n{rest}"),
            None => format!("\u{1b}[1;31m{text}\u{1b}[0m"),
        };
        self.warn(&text);
    }

    /// Something beside the result that must be seen, on stderr.
    pub fn warn(&self, text: &str) {
        // Where this fails there is nowhere left to say so.
        let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
    }
}

impl Rows {
    pub fn new(columns: &[&'static str]) -> Rows {
        Rows { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// One row: for documents that are no list.
    pub fn pairs(pairs: Vec<(&'static str, String)>) -> Rows {
        let (columns, row) = pairs.into_iter().unzip();
        Rows { columns, rows: vec![row] }
    }

    /// For people: upper-case headings, no borders, two spaces between columns.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.columns.iter().map(|name| name.trim_end_matches('>').to_uppercase()));
        table.add_rows(self.rows.iter().cloned());
        for (at, name) in self.columns.iter().enumerate() {
            if let Some(column) = table.column_mut(at) {
                column.set_padding((0, 2));
                if name.ends_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        lines.concat()
    }

    /// For scripts. A tab or line end within a value becomes a space.
    pub fn tsv(&self) -> String {
        let header: Vec<&str> = self.columns.iter().map(|name| name.trim_end_matches('>')).collect();
        let mut text = header.join("\t") + "\n";
        for row in &self.rows {
            let row: Vec<String> = row.iter().map(|value| value.replace(['\t', '\n', '\r'], " ")).collect();
            text.push_str(&row.join("\t"));
            text.push('\n');
        }
        text
    }
}

/// A document on several lines.
pub fn json<T: Serialize>(body: &T) -> Result<String, Fault> {
    serde_json::to_string_pretty(&Document::new(body))
        .map_err(|error| Fault::failed("the result cannot be written as JSON").why(error))
}

/// The word that JSON has for a value of an enum.
pub fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A value, or a dash where there is none.
pub fn or_dash<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), T::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_for_people_and_for_scripts() {
        let mut rows = Rows::new(&["node", "ike_sas>"]);
        rows.push(vec!["edge-1".into(), "4,181".into()]);
        rows.push(vec!["a\tb\nc".into(), "7".into()]);
        assert_eq!(rows.tsv(), "node\tike_sas\nedge-1\t4,181\na b c\t7\n");
        rows.rows.pop();
        rows.push(vec!["e".into(), "7".into()]);
        assert_eq!(rows.table(), "NODE    IKE_SAS\nedge-1    4,181\ne             7\n");
    }
}
