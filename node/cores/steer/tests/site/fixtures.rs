//! Packets in, verdicts and packets out: `fixtures.txt`, which the program in the kernel is tried with as well.

use trunkline_steer::{FiveTuple, Flows, Known, TcpState, Verdict};

use crate::scene;

struct KnownFlows;

impl Flows for KnownFlows {
    fn owner(&self, flow: &FiveTuple) -> Option<u16> {
        scene::known().iter().find(|(known, _)| known == flow).map(|(_, server)| *server)
    }

    fn tcp(&self, _: &FiveTuple, _: Option<&[u8]>) -> TcpState {
        TcpState::Unknown
    }
}

#[test]
fn every_fixture_has_its_verdict_and_its_packet() {
    let (steerer, dead) = (scene::steerer(), scene::dead());
    let known = Known { flows: &KnownFlows, dead: &dead };
    let fixtures = scene::fixtures();
    assert!(fixtures.len() >= 20, "{} fixtures", fixtures.len());
    let mut wrong = String::new();
    for fixture in fixtures {
        let mut out = vec![];
        let verdict = match steerer.steer(&fixture.frame, &known, &mut out) {
            Verdict::Pass(reason) => format!("pass {}", reason.name()),
            Verdict::Drop(reason) => format!("drop {}", reason.name()),
            Verdict::Forward { to, reason } => format!("forward {to} {}", reason.name()),
        };
        if verdict != fixture.verdict || (fixture.out.as_ref().is_some_and(|expected| *expected != out)) {
            wrong += &format!("# {}\nverdict {verdict}\nout {}\n", fixture.description, hex(&out));
        }
    }
    assert!(wrong.is_empty(), "the reference says otherwise:\n{wrong}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
