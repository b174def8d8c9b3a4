//! Durations and sizes as people write them: a whole number and a unit, nothing else.

/// `250ms`, `30s`, `5m`, `4h`, `2d`; also several in falling order: `1h30m`. In milliseconds.
pub fn duration_ms(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 5] =
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let mut rest = text.trim();
    let mut total = 0u64;
    let mut units = UNITS.iter();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, behind) = split_number(rest)?;
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        // Taking from the iterator makes the units fall.
        let (_, factor) = units.find(|(unit, _)| *unit == &behind[..letters])?;
        total = total.checked_add(number.checked_mul(*factor)?)?;
        rest = behind[letters..].trim_start();
    }
    Some(total)
}

/// `4096B`, `512KiB`, `256MiB`, `500GiB`, `1TiB`, and decimal `kB`, `MB`, `GB`, `TB`. In octets.
pub fn octets(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// `2h 11m`, `47m`, `8s`: the two largest units, for people.
pub fn in_words(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) if minutes < 10 && seconds > 0 => format!("{minutes}m {seconds}s"),
        (0, 0, minutes, _) => format!("{minutes}m"),
        (0, hours, 0, _) => format!("{hours}h"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, 0, _, _) => format!("{days}d"),
        (days, hours, _, _) => format!("{days}d {hours}h"),
    }
}

/// `1.2 GB`, decimal, for people.
pub fn octets_in_words(octets: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if octets < 1_000 {
        return format!("{octets} B");
    }
    let mut value = octets as f64 / 1e3;
    let mut at = 0;
    while value >= 999.95 && at + 1 < UNITS.len() {
        value /= 1e3;
        at += 1;
    }
    format!("{value:.1} {}", UNITS[at])
}

/// `1,204,332`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", Some(30_000)),
            ("250ms", Some(250)),
            ("4h", Some(14_400_000)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("0s", Some(0)),
            ("30", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5h", None),
            ("30m1h", None),
            ("1h1h", None),
            ("30 parsecs", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ] {
            assert_eq!(duration_ms(text), millis, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("500GiB", Some(500 << 30)),
            ("256 MiB", Some(256 << 20)),
            ("1GB", Some(1_000_000_000)),
            ("0B", Some(0)),
            ("500", None),
            ("GiB", None),
            ("1XB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(octets(text), expected, "{text:?}");
        }
    }

    #[test]
    fn words() {
        for (seconds, text) in [
            (0, "0s"),
            (8, "8s"),
            (61, "1m 1s"),
            (47 * 60 + 3, "47m"),
            (7_860, "2h 11m"),
            (3_600, "1h"),
            (90_000, "1d 1h"),
            (4 * 86_400, "4d"),
        ] {
            assert_eq!(in_words(seconds), text);
        }
        for (octets, text) in
            [(0, "0 B"), (999, "999 B"), (1_200, "1.2 kB"), (999_990, "1.0 MB"), (14_800_000_000, "14.8 GB")]
        {
            assert_eq!(octets_in_words(octets), text);
        }
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_582_912, "12,582,912")] {
            assert_eq!(grouped(number), text);
        }
    }
}
