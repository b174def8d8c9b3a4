//! A table of figures: for people as columns, for programs as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

/// Figures with what they are.
#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Cell {
    Text(String),
    /// One figure.
    Number(f64),
    /// The same figure several times.
    Spread(Spread),
    /// Nothing was measured.
    Nothing,
}

/// The median of several measurements, the smallest and the largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub count: usize,
}

impl Spread {
    /// `None` when nothing was measured. What is not a number does not count.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let sorted = sorted(values);
        Some(Spread {
            median: quantile(&sorted, 0.5)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            count: sorted.len(),
        })
    }
}

/// In order, without what is not a number.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The `q` quantile (0 to 1) of what is in order: the smallest value that `q` of all do not exceed; the median of an
/// even number is the mean of the two in the middle.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let middle = sorted.len() / 2;
    if q == 0.5 && !sorted.is_empty() && sorted.len().is_multiple_of(2) {
        return Some((sorted[middle - 1] + sorted[middle]) / 2.0);
    }
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

impl Table {
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Table {
        Table { title: title.into(), columns: columns.to_vec(), rows: Vec::new(), notes: Vec::new() }
    }

    /// One cell a column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// What one must know to read the figures.
    pub fn note(mut self, text: impl Into<String>) -> Table {
        self.notes.push(text.into());
        self
    }

    pub fn json(&self) -> Value {
        let row = |cells: &Vec<Cell>| {
            let named = self.columns.iter().zip(cells).map(|(name, cell)| ((*name).to_owned(), cell.json()));
            Value::Object(named.collect::<Map<String, Value>>())
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "rows": rows, "notes": self.notes })
    }
}

impl Cell {
    pub fn spread(values: &[f64]) -> Cell {
        Spread::of(values).map_or(Cell::Nothing, Cell::Spread)
    }

    fn json(&self) -> Value {
        match self {
            Cell::Text(text) => json!(text),
            Cell::Number(number) => json!(number),
            Cell::Spread(Spread { median, min, max, count }) => {
                json!({ "median": median, "min": min, "max": max, "count": count })
            }
            Cell::Nothing => Value::Null,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }
}

impl From<Option<f64>> for Cell {
    fn from(number: Option<f64>) -> Cell {
        number.map_or(Cell::Nothing, Cell::Number)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Text(text) => f.write_str(text),
            Cell::Number(number) => f.write_str(&short(*number)),
            Cell::Spread(Spread { median, count: 1, .. }) => f.write_str(&short(*median)),
            Cell::Spread(Spread { median, min, max, .. }) => {
                write!(f, "{} ({}-{})", short(*median), short(*min), short(*max))
            }
            Cell::Nothing => f.write_str("-"),
        }
    }
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 99.95 => format!("{number:.0}"),
        size if size >= 9.995 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "   {}", self.title)?;
        let shown: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::to_string).collect()).collect();
        let heads: Vec<String> = self.columns.iter().map(|&name| name.to_owned()).collect();
        let width = |at: usize| shown.iter().chain([&heads]).map(|row| row[at].chars().count()).max();
        let widths: Vec<usize> = (0..heads.len()).map(|at| width(at).unwrap_or(0)).collect();
        for row in [&heads].into_iter().chain(&shown) {
            let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            writeln!(f, "   {}", cells.collect::<Vec<_>>().join("   "))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "   {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let sorted = sorted(&values);
        for (q, value) in [(0.0, 1.0), (0.5, 50.5), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(quantile(&sorted, q), Some(value), "{q}");
        }
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(Spread::of(&[3.0, f64::NAN, 1.0]).map(|it| (it.median, it.count)), Some((2.0, 2)));
    }

    #[test]
    fn a_table_is_read_by_people_and_by_programs() {
        let mut table = Table::new("cost", &["who", "CPU-s/GB"]).note("of gold");
        table.row(vec!["a".into(), Cell::spread(&[3.0, 1.0, 20.0])]);
        table.row(vec!["longer".into(), Cell::Nothing]);
        let lines = [
            "cost",
            "who              CPU-s/GB",
            "a        3.00 (1.00-20.0)",
            "longer                  -",
            "of gold",
        ];
        assert_eq!(table.to_string(), lines.map(|line| format!("   {line}\n")).concat());
        assert_eq!(table.json()["rows"][0]["CPU-s/GB"]["max"], 20.0);
    }
}
