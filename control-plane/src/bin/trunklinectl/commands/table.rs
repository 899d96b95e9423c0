//! `table`: who owns the rows of a site's steering table, and what moved.

use std::fmt::Write;

use clap::{Args, Subcommand};
use trunkline_proto::operator::v1::{GetTableRequest, Row, Table};

use crate::fault::Fault;
use crate::output::{Columns, Output};
use crate::session::Session;
use crate::{time, words};

/// A site's steering table.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct TableArgs {
    #[command(subcommand)]
    command: TableCommand,
}

#[derive(Debug, Subcommand)]
enum TableCommand {
    /// Shows how many rows each server has, and how many its weight asks for.
    Show(Show),
    /// Shows the rows that moved.
    Diff(Diff),
}

#[derive(Debug, Args)]
struct Show {
    /// The site.
    #[arg(value_name = "SITE")]
    site: u32,
    /// Each row too.
    #[arg(long)]
    rows: bool,
}

#[derive(Debug, Args)]
struct Diff {
    /// The site.
    #[arg(value_name = "SITE")]
    site: u32,
    /// Since when: 15m, 1h, 2026-11-22T21:00 (UTC).
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time::parse_moment)]
    since: u64,
}

/// Runs `table`.
///
/// # Errors
/// What the control plane refused, or that it does not answer.
pub async fn run(session: &mut Session, output: Output, args: &TableArgs) -> Result<(), Fault> {
    match &args.command {
        TableCommand::Show(show) => {
            let mut table = ask(session, show.site, 0).await?;
            if !show.rows {
                table.rows.retain(|row| row.next != 0);
            }
            output.message(&table, |table| shares(table) + &show_rows(table, show.rows))
        }
        TableCommand::Diff(diff) => {
            // 0 would be all rows.
            let table = ask(session, diff.site, diff.since.max(1)).await?;
            output.message(&table, |table| moved(table, diff.since))
        }
    }
}

async fn ask(session: &mut Session, site: u32, moved_since_unix_s: u64) -> Result<Table, Fault> {
    let request = GetTableRequest { site, moved_since_unix_s };
    session.ask(request, async |client, request| client.get_table(request).await).await
}

fn shares(table: &Table) -> String {
    let mut text = format!(
        "site {}, {} rows, epoch {}\n\n",
        table.site,
        table.row_count,
        words::epoch(table.epoch.as_ref())
    );
    let mut columns = Columns::new(&["SERVER", ">ROWS", ">QUOTA", ">DIFFERENCE"]);
    for share in &table.shares {
        columns.row([
            format!("{}.{}", table.site, share.server),
            share.rows.to_string(),
            share.quota.to_string(),
            format!("{:+}", i64::from(share.rows) - i64::from(share.quota)),
        ]);
    }
    text.push_str(&columns.or_none("No server has rows."));
    let moving = table.rows.iter().filter(|row| row.next != 0).count() as u64;
    if moving > 0 {
        let verb = if moving == 1 { "moves" } else { "move" };
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "\n{} {verb} now: published, and not current yet.", words::count(moving, "row"));
    }
    text
}

fn show_rows(table: &Table, all: bool) -> String {
    if all { format!("\n{}", rows(table, &table.rows)) } else { String::new() }
}

fn rows(table: &Table, rows: &[Row]) -> String {
    let server = |number: u32| if number == 0 { "-".to_owned() } else { format!("{}.{number}", table.site) };
    let mut columns = Columns::new(&[">ROW", "CURRENT", "NEXT", "PREVIOUS", "BEFORE THAT", "MOVED"]);
    for row in rows {
        columns.row([
            row.index.to_string(),
            server(row.current),
            server(row.next),
            server(row.previous_1),
            server(row.previous_2),
            time::moment(row.moved_unix_s),
        ]);
    }
    columns.text()
}

fn moved(table: &Table, since_unix_s: u64) -> String {
    if table.rows.is_empty() {
        return format!("No row of site {} moved since {} UTC.\n", table.site, time::moment(since_unix_s));
    }
    let mut counts = std::collections::BTreeMap::<(u32, u32), u64>::new();
    for row in &table.rows {
        let way = if row.next == 0 { (row.previous_1, row.current) } else { (row.current, row.next) };
        *counts.entry(way).or_default() += 1;
    }
    let server =
        |number: u32| if number == 0 { "nobody".to_owned() } else { format!("{}.{number}", table.site) };
    let mut text = String::new();
    for ((from, to), count) in counts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} from {} to {}", words::count(count, "row"), server(from), server(to));
    }
    format!("{text}\n{}", rows(table, &table.rows))
}

#[cfg(test)]
mod tests {
    use trunkline_proto::operator::v1::RowShare;

    use super::*;

    #[test]
    fn a_difference_says_how_many_rows_went_where() {
        let row =
            |index, current, next, previous_1| Row { index, current, next, previous_1, ..Row::default() };
        let table = Table {
            site: 1,
            rows: vec![row(0, 2, 0, 1), row(1, 2, 0, 1), row(2, 1, 3, 0), row(3, 4, 0, 0)],
            ..Table::default()
        };
        let text = moved(&table, 5);
        assert!(
            text.starts_with("1 row from nobody to 1.4\n2 rows from 1.1 to 1.2\n1 row from 1.1 to 1.3\n"),
            "{text}"
        );
        assert!(moved(&Table::default(), 86_400).contains("since 1970-01-02 00:00:00"));
    }

    #[test]
    fn shares_show_how_far_they_are_from_what_the_weights_ask_for() {
        let shares_of =
            vec![RowShare { server: 1, rows: 10, quota: 12 }, RowShare { server: 2, rows: 6, quota: 4 }];
        let table = Table { site: 1, row_count: 16, shares: shares_of, ..Table::default() };
        let text = shares(&table);
        assert!(
            text.contains("1.1       10     12          -2\n1.2        6      4          +2\n"),
            "{text}"
        );
    }
}
