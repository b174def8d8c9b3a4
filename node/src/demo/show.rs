//! How the demonstration tells its story: one line for each thing that happens, and on a terminal a bar that moves.
//!
//! ```text
//!     0.4 s  ███████░░░░░░░░░░░░░   91 MiB  killing edge-1, the owner of this tunnel
//! ```
//!
//! Lines go to standard output, the moving bar to standard error. For scripts (`-o json`, `-q`) there is no story.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::gateway::Standing;
use crate::cli::{Format, Output};
use crate::fault::{Exit, Fault};

const BAR_LEN: u64 = 20;

pub struct Show {
    out: Output,
    silent: bool,
    begun: Option<Instant>,
    size: u64,
    arrived: u64,
    bar: Option<ProgressBar>,
}

impl Show {
    pub fn new(out: &Output) -> Show {
        let silent = out.quiet || out.format != Format::Table;
        Show { out: *out, silent, begun: None, size: 0, arrived: 0, bar: None }
    }

    /// A line outside the download.
    pub fn say(&self, text: &str) -> Result<(), Fault> {
        if self.silent {
            return Ok(());
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| print(&self.out, text)),
            None => print(&self.out, text),
        }
    }

    /// The clock of the download starts.
    pub fn begin(&mut self, size: u64) -> Result<(), Fault> {
        (self.begun, self.size, self.arrived) = (Some(Instant::now()), size, 0);
        self.say("\n")?;
        self.happened(&format!("download of {} through the tunnel", octets(size)))?;
        if !self.silent && self.out.colour && std::io::stderr().is_terminal() {
            let style =
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            self.bar = Some(ProgressBar::new(size).with_style(style));
        }
        Ok(())
    }

    pub fn progress(&mut self, arrived: u64) {
        self.arrived = arrived;
        if let Some(bar) = &self.bar {
            bar.set_message(self.line(""));
        }
    }

    /// A line of the download: when, how much is there, what happened.
    pub fn happened(&self, text: &str) -> Result<(), Fault> {
        self.say(&self.line(text))
    }

    /// The download is over: what follows are plain lines.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) -> String {
        let elapsed = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        line(elapsed, self.arrived, self.size, text)
    }
}

/// Prints a text. A reader that is gone ends the demonstration in order, with everything taken down (`Exit::Done`).
pub fn print(out: &Output, text: &str) -> Result<(), Fault> {
    out.write(text).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Fault::new(Exit::Done, "nobody reads on"),
        _ => Fault::failed("cannot write to stdout").why(error),
    })
}

/// `Three gateways`.
pub fn gateways(count: u8) -> String {
    match count {
        1 => "One gateway".into(),
        3 => "Three gateways".into(),
        5 => "Five gateways".into(),
        7 => "Seven gateways".into(),
        _ => format!("{count} gateways"),
    }
}

/// A line of the cast.
pub fn standing(standing: &Standing) -> String {
    let Standing { name, addresses, leads, segments } = standing;
    let role = if *leads { "leader" } else { "" };
    format!("  {name}  {}  owns {segments} of 256 segments  {role}", addresses.outside).trim_end().to_owned()
}

impl std::fmt::Debug for Show {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Show({} of {})", self.arrived, self.size)
    }
}

fn line(elapsed: Duration, arrived: u64, size: u64, text: &str) -> String {
    let full = (u128::from(arrived.min(size)) * u128::from(BAR_LEN) / u128::from(size.max(1))) as usize;
    let bar = "█".repeat(full) + &"░".repeat(BAR_LEN as usize - full);
    let line = format!("{:5.1} s  {bar} {:>9}  {text}", elapsed.as_secs_f64(), octets(arrived));
    line.trim_end().to_owned()
}

/// As people say it: `91 MiB`.
pub fn octets(octets: u64) -> String {
    for (unit, name) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if octets >= unit {
            let whole = octets as f64 / unit as f64;
            let digits = usize::from(whole < 10.0 && !octets.is_multiple_of(unit));
            return format!("{whole:.digits$} {name}");
        }
    }
    format!("{octets} B")
}

/// `201,332`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_bar_and_amount() {
        let at = Duration::from_millis(440);
        assert_eq!(
            line(at, 91 << 20, 256 << 20, "killing edge-1"),
            "  0.4 s  ███████░░░░░░░░░░░░░    91 MiB  killing edge-1"
        );
        assert_eq!(line(at, 0, 0, ""), "  0.4 s  ░░░░░░░░░░░░░░░░░░░░       0 B");
        assert!(line(at, u64::MAX, u64::MAX, "").contains(&"█".repeat(20)));
    }

    #[test]
    fn amounts_as_people_say_them() {
        for (number, text) in [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (1_600_000, "1.5 MiB")] {
            assert_eq!(octets(number), text);
        }
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
