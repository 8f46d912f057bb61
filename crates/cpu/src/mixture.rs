//! Mixtures of experts: rows grouped by expert, and the products of all chosen experts in one go.
//! Each output is what the plain way gives, bit for bit, as far as gates are.
use crate::access::{f32s, f32s_mut, u8s_mut};
use crate::buffer::CpuBuf;
use crate::fast::Cpu;
use crate::gemm_float::gemm_float;
use crate::gemm_w8a8::{Product, Q8Slice, gemm_w8a8_all};
use crate::linear::CpuLinear;
use crate::rowwise::{self, Q8SliceMut};
use planish_tensor::mixture::{self, ExpertMath, ExpertRows, Experts, Groups, Mixer, Routes, Routing};
use planish_tensor::{Backend, Error, Grid, LinearPart, Q8, Q8Rows, Result, Tensor};
use std::ops::Range;

/// An expert that has rows, and which.
type Used = (usize, Range<usize>);

/// Experts whose inputs are on other grids than a scale for each token are left to the plain way.
impl Mixer<Cpu> for Cpu {
    fn load(&self, experts: &[[LinearPart; 3]]) -> Result<Experts<Cpu>> {
        let packed = mixture::load_plainly(self, experts)?;
        let usual = |linear: &CpuLinear| match linear {
            CpuLinear::Float(_) => true,
            CpuLinear::Q8(w) => w.grid() == Grid::Token,
            CpuLinear::Grouped(..) => false,
        };
        let grouped = packed.gate_up.iter().chain(&packed.down).all(usual);
        Ok(Experts { grouped, ..packed })
    }

    fn route(&self, logits: &Tensor<Cpu>, routing: &Routing, out: &mut Routes<Cpu>) -> Result<()> {
        let used = out.experts.rows * out.experts.cols;
        let experts = &mut out.experts.buf.view_mut::<i32>(out.experts.dtype)?[..used];
        rowwise::route(&self.threads, f32s(logits)?, routing, experts, f32s_mut(&mut out.weights)?);
        Ok(())
    }

    fn mix(
        &self,
        x: &Tensor<Cpu>,
        routes: &Routes<Cpu>,
        experts: &Experts<Cpu>,
        how: ExpertMath,
        scratch: &mut ExpertRows<Cpu>,
        out: &mut Tensor<Cpu>,
    ) -> Result<()> {
        let (c, h, f) = (routes.experts.cols, x.cols, scratch.inner.cols);
        let groups = mixture::groups(self, routes, experts.gate_up.len())?;
        let used: Vec<Used> = groups.used().collect();
        scratch.set_rows(groups.places.len());
        self.gather(x, &groups, &used, &experts.gate_up, scratch)?;
        let gate_up = f32s_mut(&mut scratch.gate_up)?;
        self.products(&used, &experts.gate_up, (&scratch.x, &scratch.x_q8), how, gate_up)?;
        self.gate(&used, &experts.down, how, f, scratch)?;
        let rows = f32s_mut(&mut scratch.out)?;
        self.products(&used, &experts.down, (&scratch.inner, &scratch.inner_q8), how, rows)?;
        let (rows, weights) = (f32s(&scratch.out)?, f32s(&routes.weights)?);
        rowwise::combine(&self.threads, rows, &groups.rows_of_places(), weights, c, h, f32s_mut(out)?);
        Ok(())
    }

    fn add_gated(&self, x: &mut Tensor<Cpu>, y: &Tensor<Cpu>, gates: &Tensor<Cpu>) -> Result<()> {
        let h = x.cols;
        rowwise::add_gated(&self.threads, f32s_mut(x)?, f32s(y)?, f32s(gates)?, h);
        Ok(())
    }

    fn select_rows(&self, x: &Tensor<Cpu>, rows: &[u32], out: &mut Tensor<Cpu>) -> Result<()> {
        let size = x.cols * x.dtype.size();
        rowwise::select_rows(&self.threads, x.buf.bytes(), rows, size, &mut out.buf.bytes_mut()?[..rows.len() * size]);
        Ok(())
    }

    fn queues(&self) -> bool {
        true
    }
}

impl Cpu {
    /// Each expert's rows of `x`, as its linear wants them. Usually all want the same codes: those of a token are made
    /// once then.
    fn gather(
        &self,
        x: &Tensor<Cpu>,
        groups: &Groups,
        used: &[Used],
        linears: &[CpuLinear],
        scratch: &mut ExpertRows<Cpu>,
    ) -> Result<()> {
        let (h, tokens) = (x.cols, groups.tokens(0..groups.places.len()));
        if let Some(Some(kind)) = common_kind(used, linears) {
            let mut codes = vec![0; x.rows * h];
            let mut xs = vec![0.0; x.rows];
            let quantized = Q8SliceMut { codes: &mut codes, xs: &mut xs };
            rowwise::quantize_rows(&self.threads, self.isa, kind, f32s(x)?, h, quantized);
            scratch.x_q8.codes.dtype = kind.dtype();
            rowwise::select_rows(&self.threads, &codes, &tokens, h, u8s_mut(&mut scratch.x_q8.codes)?);
            let scales = f32s_mut(&mut scratch.x_q8.scales)?;
            scales.iter_mut().zip(&tokens).for_each(|(scale, &t)| *scale = xs[t as usize]);
            return Ok(());
        }
        self.select_rows(x, &tokens, &mut scratch.x)?;
        self.quantize_some(used, linears, &scratch.x, &mut scratch.x_q8)
    }

    /// From `gate_up` to the input of the second product.
    fn gate(
        &self,
        used: &[Used],
        linears: &[CpuLinear],
        how: ExpertMath,
        f: usize,
        scratch: &mut ExpertRows<Cpu>,
    ) -> Result<()> {
        let gate_up = f32s(&scratch.gate_up)?;
        if let Some(Some(kind)) = common_kind(used, linears) {
            let q = &mut scratch.inner_q8;
            q.codes.dtype = kind.dtype();
            let out = Q8SliceMut { codes: u8s_mut(&mut q.codes)?, xs: f32s_mut(&mut q.scales)? };
            rowwise::gated_quantize(&self.threads, self.isa, kind, gate_up, f, how.act, out);
            return Ok(());
        }
        rowwise::gated(&self.threads, self.isa, gate_up, f, how.act, f32s_mut(&mut scratch.inner)?);
        self.quantize_some(used, linears, &scratch.inner, &mut scratch.inner_q8)
    }

    /// Quantizes the rows of those experts whose linears are 8-bit, each as its own is.
    fn quantize_some(&self, used: &[Used], linears: &[CpuLinear], x: &Tensor<Cpu>, q: &mut Q8Rows<Cpu>) -> Result<()> {
        let k = x.cols;
        let (x, codes, xs) = (f32s(x)?, u8s_mut(&mut q.codes)?, f32s_mut(&mut q.scales)?);
        for (e, rows) in used {
            if let CpuLinear::Q8(w) = &linears[*e] {
                let part = rows.start * k..rows.end * k;
                let out = Q8SliceMut { codes: &mut codes[part.clone()], xs: &mut xs[rows.clone()] };
                rowwise::quantize_rows(&self.threads, self.isa, w.kind(), &x[part], k, out);
            }
        }
        Ok(())
    }

    /// The product of each expert's rows with its linear.
    fn products(
        &self,
        used: &[Used],
        linears: &[CpuLinear],
        (x, q): (&Tensor<Cpu>, &Q8Rows<Cpu>),
        how: ExpertMath,
        out: &mut [f32],
    ) -> Result<()> {
        let k = x.cols;
        let (x, codes, xs) = (f32s(x)?, codes(&q.codes.buf, q.codes.rows * k)?, f32s(&q.scales)?);
        let (mut left, mut together) = (out, Vec::with_capacity(used.len()));
        for (e, rows) in used {
            let part = rows.start * k..rows.end * k;
            let (n, width) = (self.linear_shape(&linears[*e]).n, self.linear_shape(&linears[*e]).k);
            if width != k || left.len() < rows.len() * n {
                return Err(Error::shape(format!("mix: expert {e} is [{n}, {width}], its input {k} wide")));
            }
            let (out, rest) = left.split_at_mut(rows.len() * n);
            left = rest;
            match &linears[*e] {
                CpuLinear::Float(w) => gemm_float(&self.threads, &x[part], w, how.math, out),
                CpuLinear::Q8(w) => {
                    let x = Q8Slice { codes: &codes[part], xs: &xs[rows.clone()] };
                    together.push(Product { x, zeros: None, w, out });
                }
                CpuLinear::Grouped(..) => return Err(Error::unsupported("mix: experts with scales of groups")),
            }
        }
        gemm_w8a8_all(&self.threads, &mut together);
        Ok(())
    }
}

/// Codes of any 8-bit type.
fn codes(buf: &CpuBuf, used: usize) -> Result<&[u8]> {
    buf.bytes().get(..used).ok_or_else(|| Error::shape("mix: codes"))
}

/// The 8-bit type, or float, of all experts that have rows, if they agree.
fn common_kind(used: &[Used], linears: &[CpuLinear]) -> Option<Option<Q8>> {
    let mut kinds = used.iter().map(|(e, _)| match &linears[*e] {
        CpuLinear::Q8(w) => Some(w.kind()),
        CpuLinear::Float(_) | CpuLinear::Grouped(..) => None,
    });
    let first = kinds.next()?;
    kinds.all(|kind| kind == first).then_some(first)
}
