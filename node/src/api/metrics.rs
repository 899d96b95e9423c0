//! `/metrics`: what the shards counted, in Prometheus' text format.
//!
//! Shards count in plain numbers; a scrape adds them up. Labels are bounded: never an address or a username.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::PrometheusBuilder;
use trunkline_turn::Counters;
use trunkline_wire::DropReason;
use trunkline_wire::stun::ErrorCode;

use super::{Api, Shared};

/// One scrape.
pub(super) async fn metrics(State(api): Shared) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render(&api))
}

fn render(api: &Api) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        describe();
        turn(&api.relay.counters());
        let (used, all) = api.relay.port_usage();
        gauge!("trunkline_turn_allocations").set(number(api.relay.allocation_count()));
        gauge!("trunkline_turn_relay_ports", "state" => "used").set(number(used as u64));
        gauge!("trunkline_turn_relay_ports", "state" => "free").set(number(all.saturating_sub(used) as u64));
        gauge!("trunkline_node_draining").set(f64::from(u8::from(api.is_draining())));
        gauge!("trunkline_node_start_time_seconds").set(number(api.started_unix_s));
        gauge!("trunkline_node_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    });
    recorder.handle().render()
}

fn turn(counters: &Counters) {
    for (method, count) in METHODS.iter().zip(counters.requests) {
        counter!("trunkline_turn_requests_total", "method" => *method).absolute(count);
    }
    for (code, count) in ErrorCode::ALL.iter().zip(counters.errors) {
        counter!("trunkline_turn_error_responses_total", "code" => code.number().to_string()).absolute(count);
    }
    for reason in DropReason::ALL {
        counter!("trunkline_turn_dropped_packets_total", "reason" => reason.name())
            .absolute(counters.drops.of(*reason));
    }
    for (direction, traffic) in [("to_peer", counters.to_peer), ("to_client", counters.to_client)] {
        counter!("trunkline_turn_relayed_packets_total", "direction" => direction).absolute(traffic.packets);
        counter!("trunkline_turn_relayed_bytes_total", "direction" => direction).absolute(traffic.bytes);
    }
    counter!("trunkline_turn_allocations_opened_total").absolute(counters.allocations_opened);
    counter!("trunkline_turn_allocations_closed_total").absolute(counters.allocations_closed);
}

fn describe() {
    describe_counter!("trunkline_turn_requests_total", "Requests received, by method.");
    describe_counter!("trunkline_turn_error_responses_total", "Error responses sent, by STUN error code.");
    describe_counter!("trunkline_turn_dropped_packets_total", "Packets that went no further, by reason.");
    describe_counter!("trunkline_turn_relayed_packets_total", "Packets relayed, by direction.");
    describe_counter!(
        "trunkline_turn_relayed_bytes_total",
        Unit::Bytes,
        "Payload bytes relayed, by direction, without headers."
    );
    describe_counter!("trunkline_turn_allocations_opened_total", "Allocations made.");
    describe_counter!("trunkline_turn_allocations_closed_total", "Allocations ended.");
    describe_gauge!("trunkline_turn_allocations", "Live allocations.");
    describe_gauge!("trunkline_turn_relay_ports", "Relay ports leased to this node, by state: used or free.");
    describe_gauge!(
        "trunkline_node_draining",
        "1 once the node refuses new allocations because it ends, else 0."
    );
    describe_gauge!(
        "trunkline_node_start_time_seconds",
        Unit::Seconds,
        "When the node started, in Unix seconds."
    );
    describe_gauge!("trunkline_node_info", "Always 1; the labels say what runs.");
}

/// Exact below 2⁵³.
#[allow(clippy::cast_precision_loss, reason = "a count of live things")]
fn number(count: u64) -> f64 {
    count as f64
}

/// In the order of [`Counters::requests`].
const METHODS: [&str; 5] = ["binding", "allocate", "refresh", "create_permission", "channel_bind"];
