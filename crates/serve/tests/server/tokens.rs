//! `/tokenize`, `/detokenize`, `/tokenizer_info`.
use crate::client::begin;
use crate::setting::*;
use serde_json::json;

#[test]
fn texts_become_ids_and_come_back() {
    let server = server();
    let ids: Vec<u32> = "Hé".bytes().map(u32::from).collect();
    let answer = server.post("/tokenize", &json!({"model": NAME, "prompt": "Hé"})).ok();
    assert_eq!(answer, json!({"count": 3, "max_model_len": CONTEXT, "tokens": ids, "token_strs": null}));
    let spelled = server.post("/tokenize", &json!({"prompt": "Hi", "return_token_strs": true})).ok();
    assert_eq!(spelled["token_strs"], json!(["H", "i"]));
    assert_eq!(server.post("/detokenize", &json!({"tokens": ids})).ok(), json!({"prompt": "Hé"}));
    assert_eq!(server.post("/detokenize", &json!({"tokens": []})).ok(), json!({"prompt": ""}));
    assert!(server.get("/tokenizer_info").ok()["chat_template"].is_string());
}

#[test]
fn the_tokenizer_is_described_as_vllm_does_it() {
    let mut model = served(NAME, engine());
    let token = |text: &str| json!({"content": text, "lstrip": false, "rstrip": false, "special": true});
    model.tokenizer_config = json!({"tokenizer_class": "LlamaTokenizer", "bos_token": token("<s>"),
        "eos_token": "</s>", "added_tokens_decoder": {"1": token("<s>")}, "extra": [token("<x>"), 7]});
    let template = model.template.clone();
    let server = start(Default::default(), vec![model]);
    let expected = json!({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "added_tokens_decoder": {"1": "<s>"}, "extra": ["<x>", 7], "chat_template": template});
    assert_eq!(server.get("/tokenizer_info").ok(), expected);
    // Of a file that says nothing of it, what is known.
    let mut bare = served(NAME, engine());
    bare.tokenizer_config = json!({});
    let end = bare.tokenizer.id_to_token(2).unwrap();
    let found = start(Default::default(), vec![bare]).get("/tokenizer_info").ok();
    let expected = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "chat_template": template});
    assert_eq!(found, expected);
}

#[test]
fn conversations_are_encoded_as_a_chat_would_be() {
    let server = server();
    let with_answer = server.post("/tokenize", &json!({"messages": hello()})).ok();
    let chat = server.chat(json!({})).ok();
    assert_eq!(with_answer["count"], chat["usage"]["prompt_tokens"]);
    let without = server.post("/tokenize", &json!({"messages": hello(), "add_generation_prompt": false})).ok();
    assert_eq!(without["count"], "user: Hello\n".len());
}

#[test]
fn what_is_no_text_and_no_id_is_refused() {
    let server = server();
    for body in [json!({}), json!({"prompt": "x", "messages": hello()}), json!({"prompt": 1}), json!({"messages": []})]
    {
        server.post("/tokenize", &body).error(400);
    }
    for body in [json!({}), json!({"tokens": [256]}), json!({"tokens": [-1]}), json!({"tokens": "x"})] {
        server.post("/detokenize", &body).error(400);
    }
    server.post("/tokenize", &json!({"prompt": "x", "model": "y"})).error(404);
    server.post("/tokenize", &json!({"prompt": "x".repeat(1 << 21)})).error(400);
}

#[test]
fn questions_have_seats_of_their_own() {
    let server = server();
    // Bodies that do not come to their end.
    let unfinished = |path: &str| begin(&server.address, "POST", path, &[("content-length", "10")], b"{");
    let paths = ["/tokenize", "/detokenize", "/v1/messages/count_tokens"];
    let ask = || server.post("/tokenize", &json!({"prompt": "x"}));
    let mut sockets = Vec::new();
    until("every seat is taken", || {
        sockets.push(unfinished(paths[sockets.len() % 3]));
        ask().status == 429
    });
    assert!(sockets.len() >= 64, "{}", sockets.len());
    assert!(ask().header("retry-after").is_some());
    server.chat(json!({})).ok();
    drop(sockets);
    until("the seats are free", || ask().status == 200);
}
