//! Databases of AS numbers in MMDB format, as small as they can be: IPv4, records of 24 bits, one map for each network.

use std::net::Ipv4Addr;

/// The bytes of a database of these networks (`198.51.100.0/24`) with their AS numbers. They must not overlap.
///
/// # Errors
/// Names what is no network.
pub fn write(networks: &[(&str, u32)]) -> Result<Vec<u8>, String> {
    let mut tree = Tree { nodes: vec![[Record::Nothing; 2]] };
    let mut data = vec![];
    for (network, number) in networks {
        let fault = || format!("{network} is no IPv4 network");
        let (address, length) = network.split_once('/').ok_or_else(fault)?;
        let address: Ipv4Addr = address.parse().map_err(|_| fault())?;
        let length: u32 = length.parse().ok().filter(|length| (1..=32).contains(length)).ok_or_else(fault)?;
        tree.insert(u32::from(address), length, data.len());
        data.push(MAP | 1);
        text(&mut data, "autonomous_system_number");
        data.push(UINT32 | 4);
        data.extend(number.to_be_bytes());
    }
    let mut file = tree.bytes();
    file.extend([0; SEPARATOR]);
    file.extend(data);
    file.extend(metadata(tree.nodes.len()));
    Ok(file)
}

#[derive(Clone, Copy)]
enum Record {
    Nothing,
    Node(usize),
    /// Its offset in the data section.
    Data(usize),
}

/// A binary trie by the bits of an address, the highest first.
struct Tree {
    nodes: Vec<[Record; 2]>,
}

impl Tree {
    fn insert(&mut self, address: u32, length: u32, offset: usize) {
        let mut at = 0;
        for depth in 0..length {
            let bit = (address >> (31 - depth) & 1) as usize;
            if depth + 1 == length {
                self.nodes[at][bit] = Record::Data(offset);
                return;
            }
            at = match self.nodes[at][bit] {
                Record::Node(next) => next,
                Record::Nothing | Record::Data(_) => {
                    self.nodes.push([Record::Nothing; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[at][bit] = Record::Node(next);
                    next
                }
            };
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let value = |record: &Record| match record {
            Record::Nothing => self.nodes.len(),
            Record::Node(node) => *node,
            Record::Data(offset) => self.nodes.len() + SEPARATOR + offset,
        };
        let three = |record: &Record| (value(record) as u32).to_be_bytes()[1..].to_vec();
        self.nodes.iter().flatten().flat_map(three).collect()
    }
}

fn metadata(nodes: usize) -> Vec<u8> {
    let mut out = b"\xab\xcd\xefMaxMind.com".to_vec();
    out.push(MAP | 9);
    text(&mut out, "node_count");
    out.push(UINT32 | 4);
    out.extend((nodes as u32).to_be_bytes());
    let shorts: [(&str, u8); 4] = [
        ("record_size", 24),
        ("ip_version", 4),
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
    ];
    for (name, number) in shorts {
        text(&mut out, name);
        out.extend([UINT16 | 1, number]);
    }
    text(&mut out, "database_type");
    text(&mut out, "ASN");
    text(&mut out, "languages");
    out.extend([0, ARRAY]);
    text(&mut out, "description");
    out.push(MAP);
    text(&mut out, "build_epoch");
    out.extend([1, UINT64, 1]);
    out
}

/// Up to 28 bytes.
fn text(out: &mut Vec<u8>, text: &str) {
    out.push(STRING | text.len() as u8);
    out.extend(text.as_bytes());
}

/// Zeros between the tree and the data section.
const SEPARATOR: usize = 16;
/// Types in a control byte's highest three bits.
const STRING: u8 = 2 << 5;
const UINT16: u8 = 5 << 5;
const UINT32: u8 = 6 << 5;
const MAP: u8 = 7 << 5;
/// Types of the byte behind a control byte without one, less 7.
const UINT64: u8 = 9 - 7;
const ARRAY: u8 = 11 - 7;
