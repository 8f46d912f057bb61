//! `tokenizer.model` files against SentencePiece itself, and the ways in which they can be wrong.
use planish_text::{SpecialText, Tokenizer, sentencepiece::to_json};
use serde_json::{Value, json};

fn data(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sentencepiece").join(name);
    std::fs::read(path).unwrap()
}

fn tokenizer(model: &[u8], config: Value) -> Tokenizer {
    Tokenizer::from_json(to_json(model, &config).unwrap().to_string().as_bytes()).unwrap()
}

#[test]
fn ids_and_texts_of_sentencepiece() {
    let cases: Value = serde_json::from_slice(&data("cases.json")).unwrap();
    for name in ["plain", "prefix"] {
        let tokenizer = tokenizer(&data(&format!("{name}.model")), json!({"add_bos_token": false}));
        let cases = cases[name].as_array().unwrap();
        assert!(cases.len() > 100);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(text, SpecialText::Recognised).unwrap(), ids, "{name}: {text:?}");
            let decoded = case["decoded"].as_str().unwrap_or(text);
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), decoded, "{name}");
        }
    }
}

/// InternLM2's way: two pieces that nobody used get the names of the chat format's marks, others come behind.
#[test]
fn pieces_are_renamed_and_added() {
    let config = json!({
        "bos_token": "<s>", "eos_token": {"content": "</s>"},
        "added_tokens_decoder": {
            "0": {"content": "<unk>", "special": true}, "1": {"content": "<s>", "special": true},
            "2": {"content": "</s>", "special": true}, "3": {"content": "<|im_end|>", "special": true},
            "4": {"content": "<|im_start|>", "special": true}, "1000": {"content": "<|plugin|>", "special": false},
        },
    });
    let tokenizer = tokenizer(&data("plain.model"), config);
    let ids = tokenizer.encode("<|im_start|>user\nHi<|im_end|><|plugin|>", SpecialText::Recognised).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 2], ids[ids.len() - 1]), (4, 3, 1000));
}

/// InternLM2's tokenizer: marks are cut out before SentencePiece sees a text, nothing is put in front of what follows one,
/// every space is kept, and the names of unused pieces are text again.
#[test]
fn internlm2_is_as_sentencepiece_between_its_marks() {
    let config: Value = serde_json::from_slice(&data("internlm2_config.json")).unwrap();
    let tokenizer = tokenizer(&data("internlm2.model"), config);
    let cases: Vec<Value> = serde_json::from_slice(&data("internlm2_cases.json")).unwrap();
    assert!(cases.len() > 30);
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, SpecialText::Recognised).unwrap(), ids, "{text:?}");
        let decoded = case["decoded"].as_str().unwrap_or(text);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), decoded, "{text:?}");
    }
    // A text of its own begins with <s>; a prompt that a template rendered has it already.
    let id = |text: &str| tokenizer.token_to_id(text).unwrap();
    let own = tokenizer.encode_with_special("Hi").unwrap();
    assert_eq!(own[0], id("<s>"));
    assert_eq!(own[1..], tokenizer.encode("Hi", SpecialText::Recognised).unwrap());
    assert_eq!([id("<|im_end|>"), id("<|im_start|>")], [7, 8]);
    // Without the marks only what was said is left.
    let ids = tokenizer.encode("<|im_start|>user\n上海 is 🙂<|im_end|>\n", SpecialText::Recognised).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "user\n上海 is 🙂\n");
}

#[test]
fn what_is_not_read_is_named() {
    let model = data("plain.model");
    let refused = |bytes: &[u8], config: Value| to_json(bytes, &config).unwrap_err().to_string();
    let error = refused(&model[..model.len() - 1], json!({}));
    assert_eq!(
        error,
        "tokenizer.model: protocol buffer: expected whole fields, found bytes that end early or are none"
    );
    assert!(refused(b"", json!({})).contains("pieces: expected at least one"));
    // A trainer_spec behind the first one counts: unigram, then no byte fallback.
    let with = |extra: &[u8]| [&model, extra].concat();
    assert!(refused(&with(&[0x12, 2, 0x18, 1]), json!({})).contains("model_type: expected bpe, found unigram"));
    assert!(refused(&with(&[0x12, 3, 0x98, 0x02, 0]), json!({})).contains("byte_fallback: expected true"));
    assert!(refused(&with(&[0x1a, 3, 0x12, 1, 7]), json!({})).contains("precompiled_charsmap"));
    let far = json!({"added_tokens_decoder": {"1050": {"content": "x"}}});
    assert!(refused(&model, far).contains("added_tokens_decoder: expected ids up to 1000"));
    assert!(refused(&model, json!({"added_tokens_decoder": {"x": {}}})).contains("ids as names"));
    for cut in (0..model.len()).step_by(97) {
        let _ = to_json(&model[..cut], &json!({}));
    }
}
