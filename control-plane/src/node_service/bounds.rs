//! How much of what a server says is kept: it is stored and shown, and a faulty server must not fill the store.

use trunkline_proto::node::v1::{Facts, Report, SliceClaim};

/// A report with every list and text cut to its bound.
pub(super) fn report(mut report: Report) -> Report {
    let is_plausible = |claim: &SliceClaim| claim.address.len() <= ADDRESS_BYTES_MAX;
    report.claims.retain(is_plausible);
    report.claims.truncate(CLAIMS_MAX);
    let rows = report.row.len().min(report.row_flows.len()).min(ROWS_MAX);
    report.row.truncate(rows);
    report.row_flows.truncate(rows);
    report.faults = texts(report.faults, FAULTS_MAX);
    report.facts = report.facts.map(facts);
    report
}

fn facts(facts: Facts) -> Facts {
    Facts { xdp: text(facts.xdp), listening: texts(facts.listening, LISTENING_MAX), ..facts }
}

fn texts(texts: Vec<String>, most: usize) -> Vec<String> {
    texts.into_iter().take(most).map(text).collect()
}

/// Up to 512 bytes, cut between characters.
pub(super) fn text(mut text: String) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or_default());
    text
}

/// Slices of 64 relay addresses.
const CLAIMS_MAX: usize = 64 * 64;
/// The longest text of an IPv6 address has 45.
const ADDRESS_BYTES_MAX: usize = 45;
/// Of a site's steering table.
const ROWS_MAX: usize = 16_384;
const FAULTS_MAX: usize = 64;
/// Three transports at each of 64 addresses.
const LISTENING_MAX: usize = 3 * 64;
const TEXT_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_and_text_of_a_report_is_bounded() {
        let long = "é".repeat(10_000);
        let claim = |address: &str| SliceClaim { address: address.to_owned(), index: 9, lease: 1 };
        let facts = Facts { xdp: long.clone(), listening: vec![long.clone(); 1_000], ..Facts::default() };
        let said = Report {
            claims: [vec![claim(&long)], vec![claim("192.0.2.1"); 5_000]].concat(),
            row: vec![u32::MAX; 100_000],
            row_flows: vec![u32::MAX; 100_000],
            faults: vec![long; 1_000],
            facts: Some(facts),
            ..Report::default()
        };
        let kept = report(said);
        assert_eq!((kept.row.len(), kept.row_flows.len()), (16_384, 16_384));
        assert_eq!(kept.claims, vec![claim("192.0.2.1"); 4_096]);
        assert_eq!((kept.faults.len(), kept.faults[0].len()), (64, 512));
        let facts = kept.facts.clone().expect("facts");
        assert_eq!((facts.xdp.len(), facts.listening.len(), facts.listening[0].len()), (512, 192, 512));
        assert!(prost::Message::encoded_len(&kept) < 512 * 1_024, "far below what a store takes");
    }

    #[test]
    fn rows_without_their_flows_are_not_kept() {
        let kept = report(Report { row: vec![1, 2, 3], row_flows: vec![7], ..Report::default() });
        assert_eq!((kept.row, kept.row_flows), (vec![1], vec![7]));
        assert_eq!(text("ready".to_owned()), "ready");
    }
}
