//! The footer: the tree of columns and where their pages are.
use super::thrift::Thrift;
use super::{Check, Fault, damaged};

const MAGIC: &[u8] = b"PAR1";
const MAX_DEPTH: usize = 16;

/// What the end of a file says of the rest.
pub(super) struct Footer {
    pub schema: Node,
    pub groups: Vec<Group>,
    pub rows: usize,
}

/// Rows that are stored together.
pub(super) struct Group {
    pub rows: usize,
    /// One for each leaf of the schema, in its order.
    pub columns: Vec<Chunk>,
}

/// The pages of one column in one group.
pub(super) struct Chunk {
    /// First byte and length of its pages.
    pub start: usize,
    pub length: usize,
    pub codec: i64,
    /// Values, nulls and empty lists included.
    pub values: usize,
}

/// A column, or a group of them. Levels are those of Dremel (Melnik et al. 2010): how many of the optional and repeated
/// fields on the way are there, and how many of the repeated ones.
pub(super) struct Node {
    pub name: String,
    pub repeated: bool,
    pub optional: bool,
    pub definition: u32,
    pub repetition: u32,
    pub kind: Kind,
}

pub(super) enum Kind {
    Group(Vec<Node>),
    /// Number of the leaf, and its physical type.
    Leaf(usize, i64),
}

impl Node {
    /// Columns below it, in order.
    pub fn leaves(&self) -> Vec<&Node> {
        match &self.kind {
            Kind::Leaf(..) => vec![self],
            Kind::Group(children) => children.iter().flat_map(Node::leaves).collect(),
        }
    }
}

pub(super) fn read(bytes: &[u8]) -> Check<Footer> {
    let end = bytes.len().saturating_sub(8);
    let (Some(head), Some(tail)) = (bytes.get(..4), bytes.get(end..)) else { return not_parquet() };
    if head != MAGIC || tail.len() != 8 || &tail[4..] != MAGIC {
        return not_parquet();
    }
    let length = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]) as usize;
    let Some(start) = end.checked_sub(length) else { return damaged("a footer that fits the file") };
    let (meta, _) = Thrift::parse(&bytes[start..end])?;
    let schema = schema(meta.list(2))?;
    let leaves = schema.leaves().len();
    let groups = meta.list(4).iter().map(|g| group(g, leaves)).collect::<Check<Vec<_>>>()?;
    Ok(Footer { schema, groups, rows: meta.size(3)? })
}

fn not_parquet<T>() -> Check<T> {
    Err(Fault::new("a parquet file", "no PAR1 at its beginning and end"))
}

fn schema(elements: &[Thrift]) -> Check<Node> {
    let (mut next, mut leaves) = (0, 0);
    let root = node(elements, &mut next, &mut leaves, (0, 0), 0)?;
    match (&root.kind, next == elements.len()) {
        (Kind::Group(_), true) => Ok(root),
        _ => damaged("a schema"),
    }
}

/// The element at `next` with all below it. `above` are the levels of its parent.
fn node(elements: &[Thrift], next: &mut usize, leaves: &mut usize, above: (u32, u32), depth: usize) -> Check<Node> {
    let (Some(element), true) = (elements.get(*next), depth <= MAX_DEPTH) else { return damaged("a schema") };
    *next += 1;
    // The root has no repetition of its own.
    let repetition = if depth == 0 { 0 } else { element.int(3).unwrap_or(0) };
    let (optional, repeated) = (repetition == 1, repetition == 2);
    let levels = (above.0 + (optional || repeated) as u32, above.1 + repeated as u32);
    let kind = match element.int(5) {
        Some(children) if children > 0 || depth == 0 => {
            let children = (0..children).map(|_| node(elements, next, leaves, levels, depth + 1));
            Kind::Group(children.collect::<Check<_>>()?)
        }
        _ => {
            *leaves += 1;
            Kind::Leaf(*leaves - 1, element.int(1).unwrap_or(-1))
        }
    };
    let name = element.text(4)?;
    Ok(Node { name, repeated, optional, definition: levels.0, repetition: levels.1, kind })
}

fn group(meta: &Thrift, leaves: usize) -> Check<Group> {
    let columns = meta.list(1).iter().map(chunk).collect::<Check<Vec<_>>>()?;
    match columns.len() == leaves {
        true => Ok(Group { rows: meta.size(3)?, columns }),
        false => damaged("as many columns as the schema has"),
    }
}

fn chunk(column: &Thrift) -> Check<Chunk> {
    let Some(meta) = column.get(3) else { return damaged("a column's description") };
    let data = meta.size(9)?;
    let start = meta.size(11).ok().filter(|&d| d > 0).map_or(data, |dictionary| dictionary.min(data));
    Ok(Chunk { start, length: meta.size(7)?, codec: meta.int(4).unwrap_or(0), values: meta.size(5)? })
}
