//! Weights that are changed on the device are the host's, bit for bit.
use super::numbers::{bits, load, noise, read};
use super::open;
use planish_quant::smooth;
use planish_tensor::{Backend, DType, Grid, HostTensor, LinearShape};

#[test]
fn widened_multiplied_and_divided() {
    let Some(cuda) = open() else { return };
    let solver = cuda.solver().unwrap();
    for (n, k) in [(1, 1), (3, 129), (70, 333)] {
        let (mut w, columns, rows) = (noise(n * k, 1), noise(k, 2), noise(n, 3));
        let rows: Vec<f32> = rows.iter().map(|r| r.abs() + 0.1).collect();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let host = HostTensor::from_f32_as(dtype, vec![n, k], &w).unwrap();
            let wide = solver.load_f32(&host).unwrap();
            assert_eq!(bits(&read(&cuda, &wide)), bits(&host.to_f32()), "{dtype} {n} {k}");
        }
        let mut device = load(&cuda, n, k, &w);
        solver.multiply_columns(&mut device, &columns).unwrap();
        smooth::scale_columns(&mut w, k, &columns).unwrap();
        solver.divide_rows(&mut device, &rows).unwrap();
        smooth::divide_rows(&mut w, n, k, &rows).unwrap();
        assert_eq!(bits(&read(&cuda, &device)), bits(&w), "{n} {k}");
        let mut copy = cuda.alloc(DType::F32, n, k).unwrap();
        solver.copy(&device, &mut copy).unwrap();
        assert_eq!(bits(&read(&cuda, &copy)), bits(&w));
        assert!(solver.multiply_columns(&mut device, &noise(k + 1, 2)).is_err());
        assert!(solver.copy(&device, &mut cuda.alloc(DType::F32, n + 1, k).unwrap()).is_err());
    }
}

#[test]
fn gram_matrices_divided_and_their_diagonals() {
    let Some(cuda) = open() else { return };
    let solver = cuda.solver().unwrap();
    for k in [1, 5, 300] {
        let (mut gram, s) = (noise(k * k, 4), noise(k, 5));
        let mut device = load(&cuda, k, k, &gram);
        solver.divide_gram(&mut device, &s).unwrap();
        smooth::divide_gram(&mut gram, k, &s).unwrap();
        assert_eq!(bits(&read(&cuda, &device)), bits(&gram));
        let diagonal: Vec<f32> = (0..k).map(|j| gram[j * k + j]).collect();
        assert_eq!(bits(&solver.gram_diagonal(&device).unwrap()), bits(&diagonal));
    }
}

#[test]
fn linears_of_tensors() {
    let Some(cuda) = open() else { return };
    let solver = cuda.solver().unwrap();
    let (a, b) = (load(&cuda, 3, 8, &noise(24, 6)), load(&cuda, 5, 8, &noise(40, 7)));
    let linear = solver.linear_of(&[(&a, None), (&b, Some(&[1.0; 5]))]).unwrap();
    assert_eq!(cuda.linear_shape(&linear), LinearShape { n: 8, k: 8, q8: None, grid: Grid::Token, bytes: 256 });
    assert!(solver.linear_of(&[(&a, Some(&[1.0; 2]))]).is_err());
    assert!(solver.linear_of(&[]).is_err());
}
