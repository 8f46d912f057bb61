//! `/tokenize`, `/detokenize`, `/tokenizer_info`.
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
