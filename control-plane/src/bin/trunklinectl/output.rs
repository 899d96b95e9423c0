//! What is printed: a table for people, or one JSON document (of a stream: one line for each message).

use std::io::{IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;

use crate::fault::Fault;
use crate::json::{self, Named};

/// For whom the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs: fields as they are named in the .proto files.
    Json,
}

impl Output {
    /// A message: JSON, or what `text` makes of it.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn message<M: Named>(self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), Fault> {
        match self {
            Self::Table => print(&text(message)),
            Self::Json => document(&json::of(message)?),
        }
    }

    /// One of a stream of messages: JSON on one line, or what `text` makes of it.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn item<M: Named>(self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), Fault> {
        match self {
            Self::Table => print(&text(message)),
            Self::Json => print(&format!("{}\n", json::of(message)?)),
        }
    }

    /// A document that is not one message alone, or text.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn either(self, value: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), Fault> {
        match self {
            Self::Table => print(&text()),
            Self::Json => document(&value()),
        }
    }

    /// Something to know besides the answer, on standard error; programs read it in the document.
    pub fn note(self, text: &str) {
        if self == Self::Table {
            eprintln!("{text}");
        }
    }
}

/// Ends quietly when nobody reads on, as in `trunklinectl events | head`.
///
/// # Errors
/// When standard output is gone for another reason.
pub fn print(text: &str) -> Result<(), Fault> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Fault::Local(format!("standard output: {error}"))),
    }
}

/// Prints a JSON document.
///
/// # Errors
/// When standard output is gone.
pub fn document(value: &Value) -> Result<(), Fault> {
    print(&format!("{value:#}\n"))
}

/// Whether a person sees standard output on a terminal.
#[must_use]
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether words may be coloured.
#[must_use]
pub fn has_colour() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Columns without borders, as wide as they must be; numbers stand to the right.
#[derive(Debug)]
pub struct Columns {
    headings: Vec<String>,
    to_the_right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// A heading that starts with `>` is a column of numbers.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            headings: headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect(),
            to_the_right: headings.iter().map(|heading| heading.starts_with('>')).collect(),
            rows: vec![],
        }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    /// The table, or this sentence when it has no rows.
    #[must_use]
    pub fn or_none(self, sentence: &str) -> String {
        if self.rows.is_empty() { format!("{sentence}\n") } else { self.text() }
    }

    /// The table.
    #[must_use]
    pub fn text(self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.headings);
        table.add_rows(self.rows);
        for (at, to_the_right) in self.to_the_right.iter().enumerate() {
            let Some(column) = table.column_mut(at) else { continue };
            let left = if at == 0 { 0 } else { 1 };
            column.set_padding((left, 1));
            if *to_the_right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = table.to_string();
        lines.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// Names and reasons come from others: no control character of theirs reaches the terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `1.5 Mbit/s`.
#[must_use]
pub fn rate(bits_per_s: u64) -> String {
    scaled(bits_per_s, "bit/s")
}

/// `12.0 GB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    scaled(bytes, "B")
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn scaled(number: u64, unit: &str) -> String {
    const PREFIXES: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if number < 1_000 {
        return format!("{number} {unit}");
    }
    let mut scaled = number as f64 / 1_000.0;
    let mut prefix = 0;
    while scaled >= 999.95 && prefix + 1 < PREFIXES.len() {
        scaled /= 1_000.0;
        prefix += 1;
    }
    format!("{scaled:.1} {}{unit}", PREFIXES.get(prefix).unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_no_line_ends_in_blanks() {
        let mut columns = Columns::new(&["NODE", ">ROWS", "STATE"]);
        columns.row(["1.1".into(), "8192".into(), "ready".into()]);
        columns.row(["1.12".into(), "7".into(), String::new()]);
        assert_eq!(columns.text(), "NODE  ROWS  STATE\n1.1   8192  ready\n1.12     7\n");
    }

    #[test]
    fn a_table_without_rows_is_a_sentence() {
        assert_eq!(Columns::new(&["NODE"]).or_none("There are no servers."), "There are no servers.\n");
    }

    #[test]
    fn nobody_elses_text_steers_the_terminal() {
        let mut columns = Columns::new(&["NAME"]);
        columns.row(["a\x1b[2Jb\nc".into()]);
        assert_eq!(columns.text(), "NAME\na\u{fffd}[2Jb\u{fffd}c\n");
    }

    #[test]
    fn large_numbers_have_prefixes() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.5 MB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(rate(12_345_678_901), "12.3 Gbit/s");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
    }
}
