//! What the gateway itself tells of the blocks that its log granted: the other half of the proof of I2.
//!
//! One line of its log per block, at level debug and target `pontoon::block`, written when the entry is applied:
//!
//! ```text
//!   2026-11-23T16:45:12.123456Z DEBUG block granted spi_out=0a0b0c0d epoch=3 first=10001 last=20000
//! ```
//!
//! The log file outlives a killed process, so what it granted before its end counts too.

use crate::checkers::i2_within_blocks::Grant;
use crate::outcome::{Context, Result};

/// What a node must be told to log for this.
pub const LOG_FILTER: &str = "info,pontoon::block=debug";

/// All blocks in a log.
pub fn grants(log: &str) -> Result<Vec<Grant>> {
    log.lines().filter(|line| line.contains("block granted")).map(|line| grant(line).context(line)).collect()
}

fn grant(line: &str) -> Result<Grant> {
    let field = |name: &str| -> Result<&str> {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.context(format!("no {name}"))
    };
    let moment = line.split_whitespace().next().context("an empty line")?;
    Ok(Grant {
        spi: u32::from_str_radix(field("spi_out")?, 16).context("spi_out")?,
        first: field("first")?.parse().context("first")?,
        last: field("last")?.parse().context("last")?,
        at_us: microseconds(moment).context(format!("{moment} is no moment"))?,
    })
}

/// `2026-11-23T16:45:12.123456Z` as microseconds since 1970.
fn microseconds(moment: &str) -> Option<u64> {
    let (date, time) = moment.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator: char| -> Option<Vec<u64>> {
        text.split(separator).map(|part| part.parse().ok()).collect()
    };
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let (whole, fraction) = time.split_once('.')?;
    let [hour, minute, second] = numbers(whole, ':')?.try_into().ok()?;
    let fraction: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    // Days since 1970 by the calendar's rule; a year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = (365 * year + leap_days + (153 * month + 2) / 5 + day).checked_sub(719_469)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00.000000Z", 0),
            ("2000-02-29T12:00:00.000000Z", 951_825_600),
            ("2026-11-23T16:45:12.000000Z", 1_795_452_312),
        ] {
            assert_eq!(microseconds(text), Some(seconds * 1_000_000), "{text}");
        }
        assert_eq!(microseconds("1970-01-01T00:00:01.25Z"), Some(1_250_000));
        assert_eq!(microseconds("yesterday"), None);
    }

    #[test]
    fn blocks_in_a_log() {
        let log = "2026-11-23T16:45:12.0Z  INFO ready\n\
                   1970-01-01T00:00:01.000005Z DEBUG block granted spi_out=0a0b0c0d epoch=3 first=1 last=10000\n";
        assert_eq!(
            grants(log).unwrap(),
            [Grant { spi: 0x0a0b_0c0d, first: 1, last: 10_000, at_us: 1_000_005 }]
        );
        assert!(grants("1970-01-01T00:00:01.0Z DEBUG block granted spi_out=1\n").is_err());
    }
}
