//! The walk over a weight's columns, and rounding to nearest: `kernels/gptq_solve.cu`.
use super::{PANEL_ROWS, TILE, padded, read, require_f32};
use crate::Cuda;
use crate::launch::{Grid, address, params};
use planish_tensor::layout::require;
use planish_tensor::{DType, GramFactor, Q8, Result, RowNumbers, SolvedRows, Tensor};

const FILE: &str = "gptq_solve";

/// A weight, and what its solve writes; sides with `p` are padded.
struct Walk<'a> {
    cuda: &'a Cuda,
    kind: Q8,
    w: &'a Tensor<Cuda>,
    factor: &'a GramFactor<Cuda>,
    np: usize,
    kp: usize,
    /// `[np]`.
    scales: &'a Tensor<Cuda>,
    /// `[np, kp]` values to round; afterwards errors of round-to-nearest.
    targets: Tensor<Cuda>,
    /// `[np, kp]` codes in the order of the solve.
    codes: Tensor<Cuda>,
    /// `[np]` F64 losses.
    loss: Tensor<Cuda>,
    /// `[np, kp / TILE]` F64 losses of round-to-nearest, of the columns of each tile.
    shares: Tensor<Cuda>,
}

pub(super) fn solve_rows(
    cuda: &Cuda,
    kind: Q8,
    w: &Tensor<Cuda>,
    factor: Option<&GramFactor<Cuda>>,
    keep_better: bool,
) -> Result<SolvedRows<Cuda>> {
    let (n, k, np) = (w.rows, w.cols, padded(w.rows));
    require_f32("solve", w, n, k)?;
    let (scales, most) = (cuda.blank(DType::F32, 1, np)?, cuda.blank(DType::F32, 1, n)?);
    let by_row = params![address(w), address(&scales), address(&most), n, k];
    cuda.launch(FILE, &of_kind("gptq_scales", kind), Grid::of(np, 256), by_row)?;
    let walk = match factor {
        Some(factor) => Some(Walk::run(cuda, kind, w, factor, &scales)?),
        None => None,
    };
    let (codes, numbers) = (cuda.blank(kind.dtype(), n, k)?, cuda.blank(DType::F64, n, 4)?);
    let [solved, loss, shares, place] = walk
        .as_ref()
        .map_or([0; 4], |walk| [&walk.codes, &walk.loss, &walk.shares, &walk.factor.place].map(|t| t.buf.address()));
    let (kp, always) = (padded(k), i32::from(!keep_better));
    let finish = params![
        address(w),
        place,
        address(&scales),
        solved,
        loss,
        shares,
        address(&codes),
        address(&numbers),
        k,
        kp,
        always
    ];
    cuda.launch(FILE, &of_kind("gptq_finish", kind), Grid::of(n, 256), finish)?;
    let rows: Vec<f64> = read(cuda, &numbers)?;
    let rows =
        rows.chunks_exact(4).map(|r| RowNumbers { gptq: r[0], nearest: r[1], lost: r[2], total: r[3] }).collect();
    let mut scales: Vec<f32> = read(cuda, &scales)?;
    scales.truncate(n);
    Ok(SolvedRows { codes, scales, absmax: read(cuda, &most)?, rows })
}

fn of_kind(name: &str, kind: Q8) -> String {
    let kind = match kind {
        Q8::Int8 => "int8",
        Q8::E4M3 => "e4m3",
        Q8::E5M2 => "e5m2",
    };
    format!("{name}_{kind}")
}

impl<'a> Walk<'a> {
    fn run(
        cuda: &'a Cuda,
        kind: Q8,
        w: &'a Tensor<Cuda>,
        factor: &'a GramFactor<Cuda>,
        scales: &'a Tensor<Cuda>,
    ) -> Result<Walk<'a>> {
        let (np, kp) = (padded(w.rows), padded(w.cols));
        require_f32("solve: the factor", &factor.unit, kp, kp)?;
        require("solve: the factor", factor.order.cols == w.cols)?;
        let walk = Walk {
            cuda,
            kind,
            w,
            factor,
            np,
            kp,
            scales,
            targets: cuda.blank(DType::F32, np, kp)?,
            codes: cuda.blank(kind.dtype(), np, kp)?,
            loss: cuda.blank(DType::F64, 1, np)?,
            shares: cuda.blank(DType::F64, np, kp / TILE)?,
        };
        walk.columns()?;
        walk.nearest()?;
        Ok(walk)
    }

    /// GPTQ, 128 columns at a time.
    fn columns(&self) -> Result<()> {
        let (cuda, f, kp) = (self.cuda, self.factor, self.kp);
        let errors = cuda.blank(DType::F32, self.np, kp)?;
        let (targets, left) = (address(&self.targets), address(&errors));
        let permute = params![
            address(self.w),
            address(&f.order),
            targets,
            left,
            address(&self.loss),
            self.w.rows,
            self.w.cols,
            kp
        ];
        cuda.launch(FILE, "gptq_permute", Grid::of(self.np, 256), permute)?;
        for start in (0..kp).step_by(TILE) {
            let panel = params![
                targets,
                left,
                address(&f.unit),
                address(&f.pivots),
                address(&f.added),
                address(self.scales),
                address(&self.codes),
                address(&self.loss),
                kp,
                start
            ];
            let rows = Grid::of(self.np / PANEL_ROWS, PANEL_ROWS);
            cuda.launch(FILE, &of_kind("gptq_panel", self.kind), rows, panel)?;
            let tiles = (kp - start) / TILE - 1;
            let rest = Grid { blocks: [tiles, self.np / TILE, 1], ..Grid::of(1, 256) };
            cuda.launch(FILE, "gptq_update", rest, params![targets, left, address(&f.unit), kp, start])?;
        }
        Ok(())
    }

    /// Losses of round-to-nearest.
    fn nearest(&self) -> Result<()> {
        let (cuda, f, kp) = (self.cuda, self.factor, self.kp);
        let (order, scales, errors) = (address(&f.order), address(self.scales), address(&self.targets));
        let nearest = params![address(self.w), order, scales, errors, self.w.rows, self.w.cols, kp];
        cuda.launch(FILE, &of_kind("gptq_nearest", self.kind), Grid::of(self.np, 256), nearest)?;
        let tiles = Grid { blocks: [self.np / TILE, kp / TILE, 1], ..Grid::of(1, 256) };
        let (unit, pivots, added) = (address(&f.unit), address(&f.pivots), address(&f.added));
        cuda.launch(FILE, "gptq_shares", tiles, params![errors, unit, pivots, added, address(&self.shares), kp])
    }
}
