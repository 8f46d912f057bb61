//! What a GPU cannot run or hold is refused with what can and what helps: a newer GPU with the kernels of an older one stands
//! for that. Without a GPU: `skipped: no device`.
mod program;

use planish_cuda::{Cuda, Options};
use planish_tensor::{Backend, DType, Error};
use program::{Program, data, golden, scratch, tiny};

fn open() -> Option<Cuda> {
    match Cuda::open(Options::default()) {
        Ok(cuda) => Some(cuda),
        Err(error) => {
            println!("skipped: no device ({error})");
            None
        }
    }
}

#[test]
fn fp8_before_ada_is_answered_with_int8() {
    if open().is_none() {
        return;
    }
    let dir = scratch();
    let out = dir.path().join("out");
    for older in ["cuda:0@70", "cuda:0@75", "cuda:0@80", "cuda:0@86"] {
        let this = older.replace("cuda:0@", "this GPU is sm_");
        let says = ["FP8 products need Ada (sm_89) or newer", "use INT8 (--quant-dtype int8)", &this];
        let run = |words: &str| Program::new("--device").arg(older).words(words);
        run("generate --input-ids 35 --max-new-tokens 2").arg(golden("fp8_dynamic")).run().fails(&says);
        run("bench kernels --tokens 1 --quant-dtype fp8").arg(golden("llama")).run().fails(&says);
        let quantize = run("quantize --quant-dtype fp8 --work-dir").arg(&out).arg(tiny());
        quantize.arg("--calib-dataset").arg(data("calibration.json")).run().fails(&says);
        run("generate --input-ids 35 --max-new-tokens 2").arg(golden("w8a8_rtn")).run().ok();
    }
}

#[test]
fn what_does_not_fit_is_named_with_both_sizes() {
    let Some(cuda) = open() else { return };
    let full = cuda.alloc(DType::I8, 1 << 20, 1 << 20).err();
    let Some(Error::OutOfMemory { what, needed, available }) = full else { panic!("{full:?}") };
    assert_eq!((what.as_str(), needed), ("I8 [1048576, 1048576] on the GPU", 1 << 40));
    assert!(available > 0 && available <= cuda.info().total, "{available}");
    let model = golden("llama");
    let generate = Program::new("generate --input-ids 35 --device cuda --kv-cache-memory 9000000000000").arg(&model);
    generate.run().fails(&["--kv-cache-memory", "found 9000000000000"]);
}
