//! The results as a table for people, as JSON for machines, and as a bar chart.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use plotters::prelude::*;
use serde_json::{Value, json};

use super::results::{Metric, Results, Test};
use super::server::Server;

/// How the results came about.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// Rounds over which the medians go.
    pub rounds: usize,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// What `turnserver --version` says.
    pub coturn: String,
}

/// A Markdown table of medians; in parentheses the advantage over coturn, above 1 is better.
pub fn table(results: &Results, provenance: &Provenance) -> String {
    let servers = Server::ALL.map(Server::name).join(" | ");
    let mut lines =
        vec![format!("| test | what | {servers} |"), format!("|---|---|{}", "---:|".repeat(SERVERS))];
    let mut previous = None;
    for (test, metric) in results.rows().filter(|(_, metric)| metric.is_result()) {
        let title = if previous == Some(test) { "" } else { test.title() };
        previous = Some(test);
        let cells = Server::ALL.map(|server| cell(results, test, metric, server)).join(" | ");
        lines.push(format!("| {title} | {} | {cells} |", metric.unit()));
    }
    let Provenance { rounds, seconds, kernel, processor, coturn } = provenance;
    lines.push(format!(
        "\nMedians of {rounds} rounds of {seconds} s; coturn {coturn}, Linux {kernel}, {processor}. \
         In parentheses: times better than coturn.\n"
    ));
    lines.join("\n")
}

fn cell(results: &Results, test: Test, metric: Metric, server: Server) -> String {
    let Some(median) = results.median(test, metric, server) else { return "–".to_owned() };
    let value = metric.format(median);
    match results.advantage(test, metric, server) {
        Some(advantage) => format!("{value} ({advantage:.2})"),
        None => value,
    }
}

/// All values of all rounds with their medians.
pub fn json(results: &Results, provenance: &Provenance) -> Value {
    let rows: Vec<Value> = results.rows().map(|(test, metric)| row_json(results, test, metric)).collect();
    json!({
        "benchmark": "turn",
        "rounds": provenance.rounds,
        "secondsPerMeasurement": provenance.seconds,
        "kernel": provenance.kernel,
        "processor": provenance.processor,
        "coturn": provenance.coturn,
        "results": rows,
    })
}

fn row_json(results: &Results, test: Test, metric: Metric) -> Value {
    let servers = results.rounds(test, metric).iter().map(|(server, values)| {
        let summary = json!({
            "median": results.median(test, metric, *server),
            "timesBetterThanCoturn": results.advantage(test, metric, *server),
            "rounds": values,
        });
        (server.name().to_owned(), summary)
    });
    json!({ "test": test.name(), "metric": metric, "servers": serde_json::Map::from_iter(servers) })
}

/// Draws the advantage over coturn, one pair of bars per test, and writes it as SVG.
pub fn plot(results: &Results, path: &Path) -> anyhow::Result<()> {
    let rows: Vec<(Test, Metric)> = results.rows().filter(|(_, metric)| is_headline(*metric)).collect();
    ensure!(!rows.is_empty(), "there is nothing to draw in {}", path.display());
    let height = 120 + 46 * rows.len() as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    let drawn = (|| -> Drawn {
        root.fill(&WHITE)?;
        let title = "Times better than coturn (coturn = 1)";
        let area = root.margin(14, 10, 14, 24).titled(title, ("sans-serif", 20))?;
        let (labels, bars) = area.split_horizontally(LABEL_WIDTH);
        draw_labels(&labels, &rows)?;
        draw_bars(&bars, results, &rows)?;
        draw_legend(&root, height)?;
        root.present()?;
        Ok(())
    })();
    drawn.map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_labels(area: &Area<'_>, rows: &[(Test, Metric)]) -> Drawn {
    let row_height = f64::from(area.dim_in_pixel().1 - AXIS_HEIGHT) / rows.len() as f64;
    let style = ("sans-serif", 13).into_font().into_text_style(area);
    for (row, (test, metric)) in rows.iter().enumerate() {
        let middle = ((row as f64 + 0.5) * row_height) as i32;
        area.draw_text(test.title(), &style, (4, middle - 14))?;
        area.draw_text(metric.unit(), &style.color(&BLACK.mix(0.55)), (4, middle + 2))?;
    }
    Ok(())
}

fn draw_bars(area: &Area<'_>, results: &Results, rows: &[(Test, Metric)]) -> Drawn {
    let (ours, floor) =
        (bars_of(results, rows, Server::Trunkline), bars_of(results, rows, Server::Forwarder));
    // Twice as good is as far to the right of coturn as half as good is to the left.
    let all = || ours.iter().chain(&floor).map(|(_, advantage)| advantage.log2());
    let (least, most) = (all().fold(-0.5, f64::min), all().fold(1.0, f64::max));
    let height = rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(AXIS_HEIGHT)
        .build_cartesian_2d(least - 0.3..most + 0.6, 0.0..height)?;
    let mut mesh = chart.configure_mesh();
    let times = |position: &f64| format!("{}×", position.exp2());
    mesh.disable_y_mesh()
        .disable_y_axis()
        .x_labels(8)
        .x_label_formatter(&times)
        .light_line_style(WHITE)
        .draw()?;
    for (bars, color, offset) in [(&ours, OURS, 0.54), (&floor, FLOOR, 0.18)] {
        let bottom = |row: usize| (rows.len() - 1 - row) as f64 + offset;
        chart.draw_series(bars.iter().map(|(row, advantage)| {
            Rectangle::new([(0.0, bottom(*row)), (advantage.log2(), bottom(*row) + 0.32)], color.filled())
        }))?;
        chart.draw_series(bars.iter().map(|(row, advantage)| {
            let beside = (advantage.log2().max(0.0) + 0.04, bottom(*row) + 0.30);
            Text::new(format!("{advantage:.2}"), beside, ("sans-serif", 12))
        }))?;
    }
    chart.draw_series([PathElement::new(vec![(0.0, 0.0), (0.0, height)], BLACK.stroke_width(1))])?;
    Ok(())
}

fn draw_legend(area: &Area<'_>, height: u32) -> Drawn {
    let style = ("sans-serif", 13).into_font().into_text_style(area);
    for (name, color, x) in [("trunkline", OURS, 24), ("bare UDP forwarder", FLOOR, 124)] {
        let y = height as i32 - 22;
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], color.filled()))?;
        area.draw_text(name, &style, (x + 18, y))?;
    }
    Ok(())
}

/// Rates and memory tell it all: where the server's core is the limit, time per packet is the rate's inverse.
fn is_headline(metric: Metric) -> bool {
    match metric {
        Metric::PerSecond | Metric::ResidentBytes | Metric::P50Us | Metric::P99Us => true,
        Metric::CoreUs
        | Metric::ThreadsUs
        | Metric::LossPercent
        | Metric::InFlight
        | Metric::BusyPercent
        | Metric::BytesBefore
        | Metric::Count => false,
    }
}

fn bars_of(results: &Results, rows: &[(Test, Metric)], server: Server) -> Vec<(usize, f64)> {
    let bars = rows.iter().enumerate();
    bars.filter_map(|(row, (test, metric))| Some((row, results.advantage(*test, *metric, server)?))).collect()
}

/// Replaces what stands between the two markers of a Markdown file by `text`.
pub fn replace_between_markers(path: &Path, text: &str) -> anyhow::Result<()> {
    let old = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let place = old.find(MARKER_BEGIN).zip(old.find(MARKER_END));
    let (begin, end) = place.with_context(|| format!("{} lacks {MARKER_BEGIN}", path.display()))?;
    let new = format!("{}{MARKER_BEGIN}\n{text}{}", &old[..begin], &old[end..]);
    fs::write(path, new).with_context(|| format!("cannot write {}", path.display()))
}

const MARKER_BEGIN: &str = "<!-- bench turn: begin -->";
const MARKER_END: &str = "<!-- bench turn: end -->";
const SERVERS: usize = Server::ALL.len();
const WIDTH: u32 = 960;
const LABEL_WIDTH: u32 = 340;
const AXIS_HEIGHT: u32 = 28;
const OURS: RGBColor = RGBColor(31, 111, 178);
const FLOOR: RGBColor = RGBColor(176, 184, 192);
