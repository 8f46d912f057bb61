//! A row is answered alike by every machine, and comes to the host only if the machine leaves it.
use super::*;
use planish_cpu::{Cpu, Isa, Scalar};
use planish_tensor::{
    Activation, AttentionShape, Batch, DType, FloatMath, HostTensor, KvLayer, LinearPart, LinearShape, Memory, Q8Rows,
    Result, RopeTable,
};
use std::sync::Mutex;

/// Memory of its own, and few abilities: it chooses among all tokens or the two likeliest, and tells of two beside one.
#[derive(Default)]
struct Few {
    /// Rows that came to the host.
    brought: Mutex<Vec<u32>>,
}

type Matrix = Tensor<Few>;

/// Operations that nobody asks of logits.
macro_rules! absent {
    ($($name:ident($($arg:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self $(, _: $arg)*) -> $out { unreachable!(stringify!($name)) })*
    };
}

impl Backend for Few {
    type Buf = Vec<f32>;
    type Linear = ();
    type Batch = ();

    fn sample(&self, logits: &Matrix, rows: &[(u32, &SampleRow)]) -> Result<Vec<Option<u32>>> {
        let choose = |&(row, how): &(u32, &SampleRow)| {
            let mut values = logits.buf[row as usize * logits.cols..][..logits.cols].to_vec();
            (how.top_k <= 2).then(|| match sampler::choose_as(&mut values, how) {
                Ok(token) => token,
                Err(NoChoice::NotANumber) => SampleRow::NOT_A_NUMBER,
                Err(NoChoice::NothingAllowed) => SampleRow::NOTHING_ALLOWED,
            })
        };
        Ok(rows.iter().map(choose).collect())
    }

    fn likely(&self, logits: &Matrix, asked: &[Asked]) -> Result<Vec<Option<Likely>>> {
        let tell = |asked: &Asked| {
            let row = &logits.buf[asked.row as usize * logits.cols..][..logits.cols];
            let told = sampler::logprobs(row, asked.token, asked.top);
            (asked.top <= 2).then_some(Likely { log_prob: told.chosen, top: told.top })
        };
        Ok(asked.iter().map(tell).collect())
    }

    fn download_rows(&self, src: &Matrix, rows: &[u32], bytes: &mut [u8]) -> Result<()> {
        self.brought.lock().unwrap().extend(rows);
        for (to, &row) in bytes.chunks_exact_mut(4 * src.cols).zip(rows) {
            to.copy_from_slice(bytemuck::cast_slice(&src.buf[row as usize * src.cols..][..src.cols]));
        }
        Ok(())
    }

    fn argmax(&self, logits: &Matrix) -> Result<Vec<u32>> {
        let rules = vec![SampleRow::GREEDY; logits.rows];
        let rows: Vec<(u32, &SampleRow)> = (0..).zip(&rules).collect();
        Ok(self.sample(logits, &rows)?.into_iter().flatten().collect())
    }

    absent! {
        describe() -> String;
        activation_dtype() -> DType;
        memory() -> Memory;
        alloc(DType, usize, usize) -> Result<Matrix>;
        load(&HostTensor) -> Result<Matrix>;
        upload(&[u8], &mut Matrix) -> Result<()>;
        download(&Matrix, &mut [u8]) -> Result<()>;
        sync() -> Result<()>;
        upload_batch(&Batch, usize) -> Result<()>;
        load_linear(&[LinearPart]) -> Result<()>;
        linear_shape(&()) -> LinearShape;
        embed(&Matrix, &(), f32, &mut Matrix) -> Result<()>;
        rms_norm(&Matrix, &Matrix, f32, &mut Matrix) -> Result<()>;
        layer_norm(&Matrix, &Matrix, &Matrix, f32, &mut Matrix) -> Result<()>;
        rms_norm_stretches(&mut Matrix, usize, usize, &Matrix, f32) -> Result<()>;
        quantize_rows(&Matrix, &mut Q8Rows<Few>) -> Result<()>;
        add_positions(&Matrix, &(), usize, &mut Matrix) -> Result<()>;
        gemm_float(&Matrix, &(), FloatMath, &mut Matrix) -> Result<()>;
        gemm_w8a8(&Q8Rows<Few>, &(), &mut Matrix) -> Result<()>;
        rope_store_kv(&mut Matrix, Option<&RopeTable<Few>>, &AttentionShape, &(), &mut KvLayer<Few>) -> Result<()>;
        clear_pages(&mut KvLayer<Few>, &[u32]) -> Result<()>;
        paged_attention(&Matrix, &AttentionShape, &(), &KvLayer<Few>, &mut Matrix) -> Result<()>;
        gated(&Matrix, Activation, &mut Matrix) -> Result<()>;
        activate(&Matrix, Activation, &mut Matrix) -> Result<()>;
        softcap(&mut Matrix, f32) -> Result<()>;
        add(&mut Matrix, &Matrix) -> Result<()>;
        gather_rows(&Matrix, &(), &mut Matrix) -> Result<()>;
        log_softmax(&mut Matrix) -> Result<()>;
        observe_columns(&Matrix, &mut Matrix) -> Result<()>;
        accumulate_gram(&Matrix, FloatMath, &mut Matrix) -> Result<()>;
    }
}

const V: usize = 300;

/// Rows of which some have NaN, an infinity, or no token.
fn rows(n: usize) -> Vec<f32> {
    let mut values: Vec<f32> =
        (0..n * V).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 25) as f32 / 10.0).collect();
    for (row, values) in values.chunks_mut(V).enumerate() {
        match row % 13 {
            5 => values[row % V] = f32::NAN,
            7 => values[row % V] = f32::INFINITY,
            9 => values.fill(f32::NEG_INFINITY),
            _ => {}
        }
    }
    values
}

/// One wish after the other, with rules of their own.
fn wishes(n: usize) -> Vec<Wish> {
    let rule = |i: usize| SampleRow {
        temperature: [0.0, 0.8, 2.0][i % 3],
        top_k: [0, 2, 3][i / 2 % 3],
        point: (i * 37 % 100) as f64 / 100.0,
        presence_penalty: 0.5,
        seen: vec![(i as u32 % 300, 1)],
        ..SampleRow::GREEDY
    };
    let wish = |i: usize| match i % 7 {
        0 => Wish::Likeliest,
        1 => Wish::Token(Box::new(rule(i)), None),
        2 => Wish::Token(Box::new(rule(i)), Some(i / 7 % 4)),
        3 => Wish::Logprobs(i as u32 % 300, i / 7 % 4),
        4 => Wish::Logits,
        5 => Wish::LogProbs,
        _ => Wish::Nothing,
    };
    (0..n).map(wish).collect()
}

fn answered<B: Backend>(b: &B, mut logits: Tensor<B>, wishes: &[Wish]) -> Vec<Found> {
    let mut found = vec![Found::Nothing; wishes.len()];
    answer(b, &mut logits, wishes, &mut found).unwrap();
    found
}

fn put<B: Backend>(b: &B, values: &[f32]) -> Tensor<B> {
    let mut logits = b.alloc(DType::F32, values.len() / V, V).unwrap();
    b.upload(bytemuck::cast_slice(values), &mut logits).unwrap();
    logits
}

fn on_few(values: &[f32]) -> Matrix {
    let rows = values.len() / V;
    Tensor { buf: values.to_vec(), dtype: DType::F32, rows, cols: V, capacity: rows }
}

/// What it says, with log-probabilities to five digits: a NaN is not itself.
fn told(found: &[Found]) -> Vec<String> {
    let digits = |x: f32| format!("{x:.4}");
    let list = |l: &TokenLogprobs| {
        let top = l.top.iter().map(|(id, x)| format!("{id} {}", digits(*x))).collect::<Vec<_>>().join(", ");
        format!("{} [{top}]", digits(l.chosen))
    };
    let tell = |found: &Found| match found {
        Found::Token(token, logprobs) => format!("{token:?} {:?}", logprobs.as_ref().map(list)),
        Found::Logprobs(logprobs) => list(logprobs),
        other => format!("{other:?}"),
    };
    found.iter().map(tell).collect()
}

fn check(values: &[f32], wishes: &[Wish]) {
    let here = values.chunks(V).zip(wishes).map(|(row, wish)| here(wish, &mut row.to_vec()));
    let expected = told(&here.collect::<Vec<Found>>());
    for text in ["NaN", "NotANumber"] {
        assert!(expected.iter().any(|told| told.contains(text)), "no row has {text}");
    }
    for threads in [1, 3] {
        let cpu = Cpu::new(threads, Isa::best());
        assert_eq!(told(&answered(&cpu, put(&cpu, values), wishes)), expected, "{threads} threads");
    }
    assert_eq!(told(&answered(&Scalar, put(&Scalar, values), wishes)), expected);
    assert_eq!(told(&answered(&Few::default(), on_few(values), wishes)), expected);
}

#[test]
fn every_machine_answers_alike() {
    check(&rows(160), &wishes(160));
}

#[test]
fn the_likeliest_are_found_where_they_are_wanted_alone() {
    // Rows without a finite logit are another matter: nothing is ruled out there.
    let mut values = rows(160);
    for row in values.chunks_mut(V).filter(|row| !row.iter().any(|x| x.is_nan())) {
        row.iter_mut().for_each(|x| *x = x.clamp(-100.0, 100.0));
    }
    let mut wishes = wishes(160);
    wishes.iter_mut().filter(|wish| matches!(wish, Wish::Token(..))).for_each(|wish| *wish = Wish::Nothing);
    check(&values, &wishes);
}

#[test]
fn only_rows_that_the_device_leaves_come_to_the_host() {
    let (values, wishes) = (rows(160), wishes(160));
    let few = Few::default();
    answered(&few, on_few(&values), &wishes);
    let long = |wish: &Wish| match wish {
        Wish::Token(how, beside) => how.top_k > 2 || beside.is_some_and(|top| top > 2),
        Wish::Logprobs(_, top) => *top > 2,
        _ => false,
    };
    let failed = |row: usize| matches!(row % 13, 5 | 7 | 9);
    let brought = few.brought.lock().unwrap();
    // Of a row without a token nothing more is to be told.
    let expected = (0..160).filter(|&row| long(&wishes[row]));
    let expected = expected.filter(|&row| match &wishes[row] {
        Wish::Token(how, _) => how.top_k > 2 || !failed(row),
        _ => true,
    });
    assert_eq!(*brought, expected.map(|row| row as u32).collect::<Vec<_>>());
    assert!(brought.len() > 16, "they come a few at a time");
    drop(brought);
    let short: Vec<Wish> = wishes.iter().map(|wish| if long(wish) { Wish::Likeliest } else { wish.clone() }).collect();
    let few = Few::default();
    answered(&few, on_few(&values), &short);
    assert!(few.brought.lock().unwrap().is_empty());
}
