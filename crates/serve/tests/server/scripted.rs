//! A model that says what a test wants it to say, byte by byte.
use crate::setting::{CONTEXT, NAME, PAGES, Server, served, start};
use planish_checkpoint::{config::Config, shards::ModelFiles};
use planish_cpu::Scalar;
use planish_engine::answer::here;
use planish_engine::device::{Found, Machine, Produced, Want, Wish};
use planish_engine::{EngineOptions, Handle, Result, service};
use planish_model::Plan;
use planish_serve::{Options, Served};
use planish_tensor::Batch;
use std::path::Path;

/// Ends a text.
const END: u32 = 2;
const VOCAB: usize = 256;

/// Begins anew with each prompt; for one request at a time.
struct Scripted {
    text: Vec<u8>,
    at: usize,
}

impl Machine for Scripted {
    fn run(&mut self, batch: &Batch, want: &Want, out: &mut Produced) -> Result<()> {
        let rows = batch.logit_rows.len();
        if batch.t() > rows {
            self.at = 0;
        }
        let mut said = Vec::new();
        for _ in 0..rows {
            said.push(self.text.get(self.at).map_or(END, |&byte| u32::from(byte)));
            self.at += 1;
        }
        *out = Produced::default();
        for (wish, id) in want.rows.iter().zip(said) {
            let mut logits = [-100.0; VOCAB];
            logits[id as usize] = 0.0;
            out.rows.push(match wish {
                Wish::Logits => Found::Logits(out.logits.len() / VOCAB),
                Wish::LogProbs => Found::LogProbs(out.log_probs.len() / VOCAB),
                wish => here(wish, &mut logits.clone()),
            });
            match wish {
                Wish::Logits => out.logits.extend(logits),
                Wish::LogProbs => out.log_probs.extend(logits),
                _ => {}
            }
        }
        Ok(())
    }

    fn clear(&mut self, _: &[u32]) -> Result<()> {
        Ok(())
    }
}

/// A model that answers everything with this text.
pub fn saying(text: &str) -> Served {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data/llama_f32");
    let plan = Plan::new(&Config::open(&dir).unwrap()).unwrap();
    let options = EngineOptions {
        kv_pages: Some(PAGES),
        max_model_len: Some(CONTEXT),
        prefix_cache: Some(false),
        ..EngineOptions::default()
    };
    let (_, info) = service::load(Scalar, plan, &ModelFiles::open(&dir).unwrap(), &options).unwrap();
    let machine = Scripted { text: text.into(), at: 0 };
    served(NAME, Handle::over(Box::new(machine), info).unwrap())
}

/// A server whose model says this.
pub fn server_saying(text: &str) -> Server {
    start(Options::default(), vec![saying(text)])
}
