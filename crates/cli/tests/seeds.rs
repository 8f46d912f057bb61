//! The three lines that the seeds' users type, with the program's name changed: quantize, serve, talk.
mod program;

use program::serving::Serving;
use program::{Program, scratch, tiny, with_words};
use std::process::{Command, Stdio};

#[test]
fn a_model_is_quantized_served_and_talked_to() {
    let folder = scratch();
    let (model, dir) = (with_words(&tiny(), &folder.path().join("model")), folder.path().join("int8"));
    let lite = Program::new("lite smooth_quant").arg(&model).arg("--work-dir").arg(&dir);
    lite.words("--quant-dtype int8").run().ok();
    let mut serve = Command::new(env!("CARGO_BIN_EXE_planish"));
    serve.args(["serve", "api_server"]).arg(&dir).args(["--backend", "pytorch", "--server-port", "0"]);
    serve.args(["--json", "--device", "cpu", "--threads", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let server = Serving::of(&mut serve);
    assert_eq!(server.ready["models"][0], "int8");
    let client = Program::new("serve api_client").arg(server.url()).words("--max-tokens 4 --seed 1");
    let output = client.input("Hi, pls intro yourself\nShanghai is\n").run().ok();
    assert_eq!(output.stderr, "");
    let asked = Program::new("client").arg(server.url()).words("--max-tokens 4 --seed 1");
    assert_eq!(asked.input("Hi, pls intro yourself\nShanghai is\n").run().ok().stdout, output.stdout);
    assert!(server.ask("GET", "/", "", "").body.contains("swagger-ui"));
    let (code, said) = server.terminate();
    assert!(code == Some(0) && said.contains("note: --backend"), "{said}");
    assert!(said.contains("200 POST /v1/chat/completions"), "{said}");
}
