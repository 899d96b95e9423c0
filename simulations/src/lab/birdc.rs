//! BIRD's control socket: what `birdc` does, without a process for each question.
//!
//! A reply is lines of a four-digit code, then a dash (more follow) or a space (the last one), then text; a line that
//! begins with a space has the code of the line before it. Codes from 8000 on are errors.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to one BIRD.
#[derive(Debug)]
pub struct Birdc {
    stream: BufReader<UnixStream>,
}

/// A BGP session as BIRD shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// BIRD's name of it.
    pub name: String,
    /// `Established`, or what it does instead.
    pub state: String,
}

impl Birdc {
    /// Connects to a control socket.
    pub fn connect(socket: &Path) -> Result<Self, String> {
        let fault = |error: std::io::Error| format!("BIRD at {}: {error}", socket.display());
        let stream = UnixStream::connect(socket).map_err(fault)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(fault)?;
        let mut birdc = Self { stream: BufReader::new(stream) };
        birdc.reply()?;
        Ok(birdc)
    }

    /// Asks one thing: the lines of the answer.
    pub fn ask(&mut self, question: &str) -> Result<Vec<String>, String> {
        self.stream
            .get_mut()
            .write_all(format!("{question}\n").as_bytes())
            .map_err(|error| error.to_string())?;
        self.reply().map_err(|fault| format!("{question}: {fault}"))
    }

    /// All BGP sessions.
    pub fn sessions(&mut self) -> Result<Vec<Session>, String> {
        Ok(self.ask("show protocols")?.iter().filter_map(|line| session(line)).collect())
    }

    /// How many BFD sessions are up, and how many there are.
    pub fn bfd(&mut self) -> Result<(usize, usize), String> {
        let lines = self.ask("show bfd sessions")?;
        let states: Vec<&str> = lines.iter().filter_map(|line| bfd_state(line)).collect();
        Ok((states.iter().filter(|state| **state == "Up").count(), states.len()))
    }

    fn reply(&mut self) -> Result<Vec<String>, String> {
        let mut lines = vec![];
        for _ in 0..LINES_MAX {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line).map_err(|error| format!("BIRD: {error}"))?;
            if read == 0 {
                return Err("BIRD has hung up".into());
            }
            let line = line.trim_end_matches('\n');
            let Some(code) = line.get(..4).and_then(|code| code.parse::<u16>().ok()) else {
                lines.push(line.trim_start().to_owned());
                continue;
            };
            lines.push(line.get(5..).unwrap_or_default().to_owned());
            let is_last = line.as_bytes().get(4) != Some(&b'-');
            match (is_last, code) {
                (true, 8000..) => return Err(format!("BIRD: {}", lines.join(" "))),
                (true, _) => return Ok(lines),
                (false, _) => {}
            }
        }
        Err("BIRD does not stop answering".into())
    }
}

/// `bgp4_ams   BGP   ---   up   01:02:03.456   Established`
fn session(line: &str) -> Option<Session> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    (words.next()? == "BGP").then_some(())?;
    let state = words.skip(3).collect::<Vec<_>>().join(" ");
    Some(Session { name: name.to_owned(), state })
}

/// `10.1.1.2   ams-1   Up   01:02:03.456   0.100   0.500`
fn bfd_state(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let address: Option<std::net::IpAddr> = words.first()?.parse().ok();
    address.and(words.get(2).copied())
}

const PATIENCE: Duration = Duration::from_secs(5);
const LINES_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_bfd_states_are_read_from_what_bird_prints() {
        let up = session("bgp4_ams_1 BGP        ---        up     01:27:31.128  Established   ");
        assert_eq!(up, Some(Session { name: "bgp4_ams_1".into(), state: "Established".into() }));
        let down = session("bgp6_x  BGP  ---  start  01:27:31.128  Active  Socket: Connection refused");
        assert_eq!(down.map(|session| session.state), Some("Active Socket: Connection refused".into()));
        assert_eq!(session("kernel4    Kernel     master4    up     01:27:31.128"), None);
        assert_eq!(bfd_state("10.1.1.2   ams-1   Up   01:27:31.128   0.100   0.500"), Some("Up"));
        assert_eq!(bfd_state("IP address   Interface  State      Since         Interval  Timeout"), None);
    }
}
