//! Faults of links. A wire is told; at a veth pair the router's end does it.

use serde_json::{Value, json};

use super::super::Lab;
use super::super::plan::{Cable, Carrier, End};
use super::Undo;

impl Lab {
    pub(super) fn link_down(&mut self, a: &str, b: &str) -> Result<String, String> {
        let cable = cable(self, a, b)?;
        let subject = subject(self, a, b)?;
        self.demand_no_fault("link-down", &subject)?;
        let undo = match cable.carrier {
            Carrier::Wire(_) => self.set_wire(&cable, json!({ "down": true }), json!({ "down": false }))?,
            // Not at a server's or client's end: its routes would go with the link and not come back.
            Carrier::Veth => {
                let End { machine, interface, .. } = &cable.a;
                self.run_in(machine, &words(&format!("ip link set {interface} down")))?;
                Undo::run(machine, &format!("ip link set {interface} up"))
            }
            Carrier::Nat(_) => return Err(behind_nat(&cable)),
        };
        self.keep_fault("link-down", &subject, format!("the link {subject} is down"), vec![undo])
    }

    pub(super) fn lose(&mut self, a: &str, b: &str, share: f64) -> Result<String, String> {
        if !(0.0..=1.0).contains(&share) {
            return Err(format!("a share is between 0 and 1, not {share}"));
        }
        let cable = cable(self, a, b)?;
        let subject = subject(self, a, b)?;
        self.heal_kind("loss", &subject).ok();
        let undo = match cable.carrier {
            Carrier::Wire(quality) => {
                let before = quality.loss.unwrap_or_default();
                self.set_wire(&cable, json!({ "loss": share }), json!({ "loss": before }))?
            }
            Carrier::Veth => drop_share(self, &cable.a, share)?,
            Carrier::Nat(_) => return Err(behind_nat(&cable)),
        };
        let what = format!("the link {subject} loses {share} of its packets in each direction");
        self.keep_fault("loss", &subject, what, vec![undo])
    }

    pub(super) fn delay(&mut self, a: &str, b: &str, ms: f64) -> Result<String, String> {
        let cable = cable(self, a, b)?;
        let subject = subject(self, a, b)?;
        let Carrier::Wire(quality) = cable.carrier else {
            return Err(format!(
                "the link {subject} is a plain one: give it `delay_ms = 0` in the topology and build the lab again"
            ));
        };
        self.heal_kind("delay", &subject).ok();
        let before = quality.delay_ms.unwrap_or_default();
        let undo = self.set_wire(&cable, json!({ "delay_ms": ms }), json!({ "delay_ms": before }))?;
        let what = format!("the link {subject} takes {ms} ms in each direction");
        self.keep_fault("delay", &subject, what, vec![undo])
    }

    /// Tells a wire something, and keeps the opposite.
    fn set_wire(&self, cable: &Cable, now: Value, later: Value) -> Result<Undo, String> {
        let message = |mut fields: Value| {
            fields["direction"] = json!("both");
            json!({ "set": fields })
        };
        let [a, b] = cable.ends().map(|end| end.machine.clone());
        self.tell_wire(&a, &b, &message(now))?;
        Ok(Undo::Wire { between: [a, b], message: message(later) })
    }
}

/// Drops a share of what passes an interface of a router, both ways.
pub fn drop_share(lab: &Lab, end: &End, share: f64) -> Result<Undo, String> {
    let (table, interface) = (format!("fault{}", lab.next_fault()?), &end.interface);
    let which = match share {
        share if share >= 1.0 => String::new(),
        share => format!("numgen random mod {PARTS} < {} ", (share * f64::from(PARTS)).round()),
    };
    let rules = format!(
        "table inet {table} {{ \
         chain arriving {{ type filter hook prerouting priority -400; iifname \"{interface}\" {which}drop; }}; \
         chain leaving {{ type filter hook postrouting priority 400; oifname \"{interface}\" {which}drop; }}; }}"
    );
    lab.run_in(&end.machine, &["nft".to_owned(), rules])?;
    Ok(Undo::run(&end.machine, &format!("nft delete table inet {table}")))
}

/// How a link is called in faults, whichever end is named first.
pub fn subject(lab: &Lab, a: &str, b: &str) -> Result<String, String> {
    let cable = cable(lab, a, b)?;
    Ok(format!("{} – {}", cable.a.machine, cable.b.machine))
}

fn cable(lab: &Lab, a: &str, b: &str) -> Result<Cable, String> {
    let found = lab.plan.cable(a, b).cloned();
    found.ok_or_else(|| {
        let neighbours: Vec<&str> =
            lab.plan.cables_of(a).map(|(_, _, other)| other.machine.as_str()).collect();
        format!("there is no link between {a} and {b}; {a} has links to: {}", neighbours.join(", "))
    })
}

fn behind_nat(cable: &Cable) -> String {
    format!("{} is behind a NAT, which has no such fault", cable.b.machine)
}

fn words(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

/// Of so many packets, in the kernel's random choice.
const PARTS: u32 = 100_000;
