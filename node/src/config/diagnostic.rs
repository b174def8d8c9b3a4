//! A mistake in a file, with its place and what to do about it; and the drawing of it.
//!
//! ```text
//! error[value]: 10.20.0.0/33 is not a network
//!    ╭─[gateway.toml:23:14]
//! 23 │ remote_ts = ["10.20.0.0/33"]
//!    ·              ───────┬──────
//!    ·                     ╰── the part after / may be 0 to 32
//!    ╰────
//!   help: …
//! ```

use std::fmt;
use std::ops::Range;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode,
    SourceSpan, SpanContents, ThemeCharacters, ThemeStyles,
};
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warning,
}

/// What kind of mistake it is. Stable: scripts may match the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not the file's grammar.
    Syntax,
    /// A key that does not exist here.
    UnknownKey,
    /// A key that must be there is not.
    Missing,
    /// A value of the wrong type, or out of its range.
    Value,
    /// A name that nothing in the file has.
    Reference,
    /// Two things that exclude each other.
    Conflict,
    /// A valid option that this version does not have yet.
    NotBuilt,
    /// A file that is named cannot be read.
    File,
    /// A secret that others may learn or guess.
    Secret,
    /// Allowed, but seldom what is wanted.
    Advice,
}

impl Code {
    pub fn name(self) -> &'static str {
        match self {
            Code::Syntax => "syntax",
            Code::UnknownKey => "unknown-key",
            Code::Missing => "missing",
            Code::Value => "value",
            Code::Reference => "reference",
            Code::Conflict => "conflict",
            Code::NotBuilt => "not-built",
            Code::File => "file",
            Code::Secret => "secret",
            Code::Advice => "advice",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    pub level: Level,
    pub code: Code,
    /// One line, lower case.
    pub text: String,
    /// Octets of the file.
    pub span: Range<usize>,
    /// Stands at the place itself.
    pub label: Option<String>,
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn error(code: Code, span: Range<usize>, text: impl Into<String>) -> Diagnostic {
        Diagnostic { level: Level::Error, code, text: text.into(), span, label: None, help: None }
    }

    pub fn warning(code: Code, span: Range<usize>, text: impl Into<String>) -> Diagnostic {
        Diagnostic { level: Level::Warning, ..Diagnostic::error(code, span, text) }
    }

    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    pub fn is_error(&self) -> bool {
        self.level == Level::Error
    }
}

/// All that was found in one file, with its text for the drawing.
#[derive(Clone)]
pub struct Report {
    /// As the user named it.
    pub name: String,
    pub text: String,
    /// In the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub fn new(name: impl Into<String>, text: impl Into<String>, mut diagnostics: Vec<Diagnostic>) -> Report {
        diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.level));
        Report { name: name.into(), text: text.into(), diagnostics }
    }

    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count()
    }

    pub fn warnings(&self) -> usize {
        self.diagnostics.len() - self.errors()
    }

    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// `1 error, 2 warnings`.
    pub fn summary(&self) -> String {
        let count = |n: usize, noun: &str| match n {
            1 => format!("1 {noun}"),
            n => format!("{n} {noun}s"),
        };
        match (self.errors(), self.warnings()) {
            (0, 0) => "no mistakes".to_owned(),
            (errors, 0) => count(errors, "error"),
            (0, warnings) => count(warnings, "warning"),
            (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
        }
    }

    /// Line and column, both from 1; the column counts characters.
    pub fn position(&self, diagnostic: &Diagnostic) -> (usize, usize) {
        position(&self.text, diagnostic.span.start)
    }

    /// The drawing of all of them.
    pub fn render(&self, colour: bool) -> String {
        let mut drawing = String::new();
        for diagnostic in &self.diagnostics {
            self.draw(diagnostic, colour, &mut drawing);
        }
        drawing
    }

    fn draw(&self, diagnostic: &Diagnostic, colour: bool, out: &mut String) {
        let (word, severity) = match diagnostic.level {
            Level::Error => ("error", miette::Severity::Error),
            Level::Warning => ("warning", miette::Severity::Warning),
        };
        let mark = format!("{word}[{}]:", diagnostic.code.name());
        let theme = GraphicalTheme {
            characters: ThemeCharacters { error: mark.clone(), warning: mark, ..ThemeCharacters::unicode() },
            styles: if colour { ThemeStyles::ansi() } else { ThemeStyles::none() },
        };
        let drawn =
            Drawn { diagnostic, severity, source: Lines(self), span: drawable(&self.text, &diagnostic.span) };
        let handler =
            GraphicalReportHandler::new_themed(theme).with_links(false).with_context_lines(1).with_width(100);
        let mut text = String::new();
        match handler.render_report(&mut text, &drawn) {
            Ok(()) => out.push_str(text.trim_start()),
            // The drawing failed, so the facts must do.
            Err(fmt::Error) => {
                let (line, column) = self.position(diagnostic);
                out.push_str(&format!("{word}: {} ({}:{line}:{column})\n", diagnostic.text, self.name));
            }
        }
    }
}

impl fmt::Debug for Report {
    /// Without the text: it may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").field("name", &self.name).field("diagnostics", &self.diagnostics).finish()
    }
}

/// Line and column of an offset, both from 1.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Where to draw: on one line, not past the end of the text, at least one character wide where there is one.
fn drawable(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = span.start.min(text.len());
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    start..span.end.clamp(start, line_end.max(start))
}

/// The lines of a span, whole, and none around them: many mistakes at once want short drawings.
#[derive(Debug)]
struct Lines<'a>(&'a Report);

impl SourceCode for Lines<'_> {
    fn read_span<'b>(
        &'b self,
        span: &SourceSpan,
        lines_before: usize,
        _: usize,
    ) -> Result<Box<dyn SpanContents<'b> + 'b>, MietteError> {
        let text = &self.0.text;
        let end = span.offset() + span.len();
        let (Some(before), Some(behind)) = (text.get(..span.offset()), text.get(end..)) else {
            return Err(MietteError::OutOfBounds);
        };
        let (line, column) = position(text, span.offset());
        // Without context the place itself is asked for, to be named above the drawing.
        let (start, end, column) = match lines_before {
            0 => (span.offset(), end, column - 1),
            _ => {
                let line_end = behind.find('\n').map_or(text.len(), |at| end + at);
                (before.rfind('\n').map_or(0, |at| at + 1), line_end, 0)
            }
        };
        let octets = &text.as_bytes()[start..end];
        let at = SourceSpan::new(start.into(), end - start);
        Ok(Box::new(MietteSpanContents::new_named(self.0.name.clone(), octets, at, line - 1, column, 1)))
    }
}

#[derive(Debug)]
struct Drawn<'a> {
    diagnostic: &'a Diagnostic,
    severity: miette::Severity,
    source: Lines<'a>,
    span: Range<usize>,
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.text)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new(self.diagnostic.label.clone(), self.span.start, self.span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        for (text, offset, place) in [
            ("", 0, (1, 1)),
            ("a = 1\nb = 2\n", 6, (2, 1)),
            ("a = 1\nb = 2\n", 10, (2, 5)),
            ("ä = x", 5, (1, 5)),
            ("a", 99, (1, 2)),
        ] {
            assert_eq!(position(text, offset), place, "{text:?} {offset}");
        }
    }

    #[test]
    fn the_drawing_shows_the_place() {
        let text = "local_ts  = [\"10.10.0.0/16\"]\nremote_ts = [\"10.20.0.0/33\"]\n";
        let at = text.find("\"10.20").unwrap();
        let diagnostic = Diagnostic::error(Code::Value, at..at + 14, "10.20.0.0/33 is not a network")
            .label("the part after / may be 0 to 32")
            .help("write 10.20.0.0/16");
        let report = Report::new("gateway.toml", text, vec![diagnostic]);
        assert_eq!(
            report.render(false),
            "error[value]: 10.20.0.0/33 is not a network\n   \
             ╭─[gateway.toml:2:14]\n \
             2 │ remote_ts = [\"10.20.0.0/33\"]\n   \
             ·              ───────┬──────\n   \
             ·                     ╰── the part after / may be 0 to 32\n   \
             ╰────\n  help: write 10.20.0.0/16\n"
        );
        assert_eq!(report.summary(), "1 error");
    }

    #[test]
    fn places_outside_of_the_text_are_drawn_too() {
        for (text, span) in [("", 0..0), ("a", 1..1), ("a\n", 0..50), ("a\nb", 7..9), ("[x]\ny = 1\n", 0..9)]
        {
            let report = Report::new("f", text, vec![Diagnostic::error(Code::Syntax, span, "broken")]);
            assert!(report.render(false).contains("broken"));
        }
    }
}
