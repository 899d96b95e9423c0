//! Reads the types that a compiled program says it uses (BTF, as `Documentation/bpf/btf.rst` of the kernel has it).

/// The types of an object.
pub struct Btf {
    types: Vec<Type>,
}

/// A struct.
pub struct Structure {
    pub bytes: usize,
    /// Names and offsets in bytes.
    pub fields: Vec<(String, usize)>,
}

enum Type {
    Structure(String, Structure),
    Enumeration(String, Vec<(String, u32)>),
    Other,
}

const HEADER_BYTES: usize = 24;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;

impl Btf {
    /// The section `.BTF` of a little-endian ELF object.
    pub fn of(object: &[u8]) -> Option<Self> {
        let section = section(object, ".BTF")?;
        let field = |at: usize| Some(u32_at(section, at)? as usize);
        let (types_at, types_bytes) = (HEADER_BYTES + field(8)?, field(12)?);
        let (strings_at, strings_bytes) = (HEADER_BYTES + field(16)?, field(20)?);
        let strings = section.get(strings_at..strings_at + strings_bytes)?;
        let mut rest = section.get(types_at..types_at + types_bytes)?;
        let mut types = vec![];
        while !rest.is_empty() {
            let (found, bytes) = one(rest, strings)?;
            types.push(found);
            rest = rest.get(bytes..)?;
        }
        Some(Self { types })
    }

    pub fn structure(&self, name: &str) -> Option<&Structure> {
        self.types.iter().find_map(|found| match found {
            Type::Structure(known, structure) if known == name => Some(structure),
            _ => None,
        })
    }

    pub fn enumeration(&self, name: &str) -> Option<Vec<(String, u32)>> {
        self.types.iter().find_map(|found| match found {
            Type::Enumeration(known, values) if known == name => Some(values.clone()),
            _ => None,
        })
    }
}

/// A type and its bytes.
fn one(bytes: &[u8], strings: &[u8]) -> Option<(Type, usize)> {
    let (name, info, size) = (text(strings, u32_at(bytes, 0)?)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let (kind, count) = (info >> 24 & 0x1F, (info & 0xFFFF) as usize);
    let items = |bytes_each: usize| 12 + count * bytes_each;
    Some(match kind {
        KIND_STRUCT => {
            let field = |at: usize| {
                Some((
                    text(strings, u32_at(bytes, at)?)?,
                    (u32_at(bytes, at + 8)? & 0x00FF_FFFF) as usize / 8,
                ))
            };
            let fields = (0..count).map(|index| field(12 + index * 12)).collect::<Option<_>>()?;
            (Type::Structure(name, Structure { bytes: size as usize, fields }), items(12))
        }
        KIND_ENUM => {
            let value = |at: usize| Some((text(strings, u32_at(bytes, at)?)?, u32_at(bytes, at + 4)?));
            let values = (0..count).map(|index| value(12 + index * 8)).collect::<Option<_>>()?;
            (Type::Enumeration(name, values), items(8))
        }
        KIND_UNION => (Type::Other, items(12)),
        KIND_ARRAY => (Type::Other, 12 + 12),
        // Integer, variable and tag of a declaration; parameters; section's variables; 64-bit enumeration.
        1 | 14 | 17 => (Type::Other, 12 + 4),
        13 => (Type::Other, items(8)),
        15 | 19 => (Type::Other, items(12)),
        _ => (Type::Other, 12),
    })
}

fn section<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (table, count, names) =
        (u64_at(object, 0x28)?, u16_at(object, 0x3C)? as usize, u16_at(object, 0x3E)? as usize);
    let header = |index: usize| object.get(table + index * 64..)?.get(..64);
    let place = |header: &[u8]| Some((u64_at(header, 0x18)?, u64_at(header, 0x20)?));
    let (names_at, names_bytes) = place(header(names)?)?;
    let strings = object.get(names_at..names_at + names_bytes)?;
    let found = (0..count)
        .filter_map(header)
        .find(|header| u32_at(header, 0).and_then(|at| text(strings, at)).is_some_and(|known| known == name));
    let (at, bytes) = place(found?)?;
    object.get(at..at + bytes)
}

fn text(strings: &[u8], at: u32) -> Option<String> {
    let rest = strings.get(at as usize..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}
