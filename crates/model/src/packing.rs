//! Linears out of the modules that hold them, and back, in the family's own order of rows.
use crate::arch::Role;
use crate::error::Result;
use crate::plan::Stored;
use planish_tensor::{HostTensor, LinearPart};
use std::collections::BTreeMap;
use std::ops::Range;

/// The linears of a module: views of its bytes where their rows are one stretch.
pub fn split(module: &Stored, part: LinearPart) -> Result<Vec<(Role, LinearPart)>> {
    if let [role] = module.roles[..] {
        return Ok(vec![(role, part)]);
    }
    let mut rows: BTreeMap<Role, Vec<Range<usize>>> = BTreeMap::new();
    let mut at = 0;
    for (role, piece) in &module.pieces {
        rows.entry(*role).or_default().push(at..at + piece.len());
        at += piece.len();
    }
    rows.into_iter().map(|(role, ranges)| Ok((role, select(&part, &ranges)?))).collect()
}

/// The module of its linears, all float of one type or all of one 8-bit type: weights, scales and biases row by row.
pub fn join(module: &Stored, linear: impl Fn(Role) -> LinearPart) -> Result<LinearPart> {
    if let [role] = module.roles[..] {
        return Ok(linear(role));
    }
    let parts: BTreeMap<Role, LinearPart> = module.roles.iter().map(|&role| (role, linear(role))).collect();
    let first = &parts[&module.roles[0]];
    let (dtype, size) = (first.weight.dtype(), module.k * first.weight.dtype().size());
    let mut bytes = Vec::with_capacity(module.n * size);
    for (role, rows) in &module.pieces {
        bytes.extend(&parts[role].weight.bytes()[rows.start * size..rows.end * size]);
    }
    let values = |of: fn(&LinearPart) -> Option<&Vec<f32>>| {
        let pieces = module.pieces.iter().map(|(role, rows)| {
            let (all, n) = (of(&parts[role])?, parts[role].weight.shape()[0]);
            Some(&all[of_rows(rows, all.len() / n)])
        });
        pieces.collect::<Option<Vec<&[f32]>>>().map(|pieces| pieces.concat())
    };
    let (scales, bias) = (values(|p| p.scales.as_ref()), values(|p| p.bias.as_ref()));
    let weight = HostTensor::from_bytes(dtype, vec![module.n, module.k], bytes)?;
    Ok(LinearPart { weight, scales, bias, grid: first.grid })
}

/// Where the numbers of rows are that have `each` of them.
fn of_rows(rows: &Range<usize>, each: usize) -> Range<usize> {
    rows.start * each..rows.end * each
}

fn select(part: &LinearPart, ranges: &[Range<usize>]) -> Result<LinearPart> {
    let rows = part.weight.shape()[0];
    let values = |all: &Option<Vec<f32>>| {
        let all = all.as_ref()?;
        Some(ranges.iter().flat_map(|r| &all[of_rows(r, all.len() / rows)]).copied().collect::<Vec<f32>>())
    };
    let weight = match ranges {
        [one] => part.weight.slice_rows(one.clone())?,
        _ => {
            let k = part.weight.shape()[1];
            let size = k * part.weight.dtype().size();
            let rows = ranges.iter().flat_map(|r| &part.weight.bytes()[r.start * size..r.end * size]);
            let n = ranges.iter().map(Range::len).sum();
            HostTensor::from_bytes(part.weight.dtype(), vec![n, k], rows.copied().collect())?
        }
    };
    Ok(LinearPart { weight, scales: values(&part.scales), bias: values(&part.bias), grid: part.grid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_tensor::Grid;

    /// Two key/value heads of width 1 with two query heads each: rows q q k v q q k v.
    fn module() -> Stored {
        let pieces =
            vec![(Role::Q, 0..2), (Role::K, 0..1), (Role::V, 0..1), (Role::Q, 2..4), (Role::K, 1..2), (Role::V, 1..2)];
        Stored { name: "wqkv".into(), roles: vec![Role::Q, Role::K, Role::V], pieces, n: 8, k: 2, bias: true }
    }

    #[test]
    fn rows_come_apart_and_together() {
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let part = LinearPart {
            weight: HostTensor::from_f32(vec![8, 2], &values).unwrap(),
            scales: Some((0..8).flat_map(|i| [10.0 + i as f32, -1.0]).collect()),
            grid: Grid::Group(1),
            bias: Some((0..8).map(|i| 20.0 + i as f32).collect()),
        };
        let linears: BTreeMap<Role, LinearPart> = split(&module(), part.clone()).unwrap().into_iter().collect();
        assert_eq!(linears[&Role::Q].weight.to_f32(), [0., 1., 2., 3., 8., 9., 10., 11.]);
        assert_eq!(linears[&Role::K].scales, Some(vec![12., -1., 16., -1.]));
        assert_eq!(linears[&Role::V].bias, Some(vec![23., 27.]));
        let again = join(&module(), |role| linears[&role].clone()).unwrap();
        assert_eq!((again.weight.bytes(), again.scales, again.bias), (part.weight.bytes(), part.scales, part.bias));
    }
}
