//! From columns back to rows: the record assembly of Dremel, driven by the levels.
use super::footer::{Kind, Node};
use super::pages::Column;
use super::{Check, damaged};
use serde_json::{Map, Value};
use std::ops::Range;

/// The triplets of each leaf that belong to what is being built, and how many of its values come before them.
type Spans = Vec<(Range<usize>, usize)>;

/// Appends the rows of a group.
pub(super) fn records(schema: &Node, columns: &[Column], rows: usize, out: &mut Vec<Map<String, Value>>) -> Check<()> {
    let leaves = schema.leaves();
    let tops: Vec<u32> = leaves.iter().map(|leaf| leaf.definition).collect();
    let mut rest: Spans = columns.iter().map(|c| (0..c.definition.len(), 0)).collect();
    let builder = Builder { columns, tops };
    let Kind::Group(fields) = &schema.kind else { return damaged("a schema") };
    // Each row takes a triplet of every column at least.
    let Some(most) = columns.first().map(|c| c.definition.len()) else { return damaged("a schema with columns") };
    if rows > most {
        return damaged("as many values in each column");
    }
    for _ in 0..rows {
        let record = builder.take_first(&mut rest, &(0..columns.len()), 0)?;
        match builder.object(fields, &record)? {
            Value::Object(fields) => out.push(fields),
            _ => return damaged("rows that are records"),
        }
    }
    if rest.iter().all(|(span, _)| span.is_empty()) { Ok(()) } else { damaged("as many rows as the group says") }
}

struct Builder<'a> {
    columns: &'a [Column],
    /// Definition of each leaf that has a value.
    tops: Vec<u32>,
}

impl Builder<'_> {
    /// Splits off what comes before the next repetition at `level` or above, for the given leaves.
    fn take_first(&self, rest: &mut Spans, leaves: &Range<usize>, level: u32) -> Check<Spans> {
        let mut first = rest.clone();
        for leaf in leaves.clone() {
            let (span, used) = rest[leaf].clone();
            if span.is_empty() {
                return damaged("as many values in each column");
            }
            let column = &self.columns[leaf];
            let next = span.clone().skip(1).find(|&i| column.repetition[i] <= level).unwrap_or(span.end);
            let values = (span.start..next).filter(|&i| column.definition[i] == self.tops[leaf]).count();
            first[leaf] = (span.start..next, used);
            rest[leaf] = (next..span.end, used + values);
        }
        Ok(first)
    }

    fn build(&self, node: &Node, spans: &Spans) -> Check<Value> {
        let leaves = range(node);
        let (span, used) = spans.get(leaves.start).cloned().unwrap_or((0..0, 0));
        let Some(&definition) = self.columns.get(leaves.start).and_then(|c| c.definition.get(span.start)) else {
            return if leaves.is_empty() { Ok(Value::Object(Map::new())) } else { damaged("a value in each column") };
        };
        if node.optional && definition < node.definition {
            return Ok(Value::Null);
        }
        match &node.kind {
            Kind::Leaf(leaf, _) => match self.columns[*leaf].values.get(used) {
                Some(value) => Ok(value.clone()),
                None => damaged("a value in each column"),
            },
            // A list's own group has nothing but its repeated child.
            Kind::Group(children) => match &children[..] {
                [child] if child.repeated && !node.repeated => self.list(child, spans),
                _ => self.object(children, spans),
            },
        }
    }

    fn object(&self, children: &[Node], spans: &Spans) -> Check<Value> {
        let field = |child: &Node| {
            let value = if child.repeated { self.list(child, spans) } else { self.build(child, spans) };
            Ok((child.name.clone(), value?))
        };
        Ok(Value::Object(children.iter().map(field).collect::<Check<_>>()?))
    }

    /// The elements of a repeated node.
    fn list(&self, node: &Node, spans: &Spans) -> Check<Value> {
        let (leaves, mut rest) = (range(node), spans.clone());
        let first = rest[leaves.start].0.start;
        if self.columns[leaves.start].definition.get(first).is_none_or(|&d| d < node.definition) {
            return Ok(Value::Array(Vec::new()));
        }
        let mut elements = Vec::new();
        while !rest[leaves.start].0.is_empty() {
            let element = self.take_first(&mut rest, &leaves, node.repetition)?;
            elements.push(match &node.kind {
                // `repeated group list { element }`: the group is the list's, not the element's.
                Kind::Group(children) if children.len() == 1 => self.build(&children[0], &element)?,
                Kind::Group(children) => self.object(children, &element)?,
                Kind::Leaf(..) => self.build(node, &element)?,
            });
        }
        Ok(Value::Array(elements))
    }
}

/// The leaves below a node: they are numbered in order.
fn range(node: &Node) -> Range<usize> {
    match &node.kind {
        Kind::Leaf(leaf, _) => *leaf..leaf + 1,
        Kind::Group(children) => {
            let first = children.first().map(range).unwrap_or_default();
            let last = children.last().map(range).unwrap_or_default();
            first.start..last.end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: Kind) -> Node {
        Node { name: "x".into(), repeated: false, optional: false, definition: 0, repetition: 0, kind }
    }

    /// A number of rows that nothing in the file stands for.
    #[test]
    fn rows_without_values_are_refused() {
        let mut out = Vec::new();
        let fault = records(&node(Kind::Group(vec![])), &[], 1 << 40, &mut out).unwrap_err();
        assert_eq!((fault.expected.as_str(), out.len()), ("a schema with columns", 0));
        let column = || Column { repetition: vec![0; 2], definition: vec![0; 2], values: vec![1.into(), 2.into()] };
        let schema = node(Kind::Group(vec![node(Kind::Leaf(0, 1))]));
        assert!(records(&schema, &[column()], 3, &mut out).is_err() && out.is_empty());
        records(&schema, &[column()], 2, &mut out).unwrap();
        assert_eq!(out.len(), 2);
    }
}
