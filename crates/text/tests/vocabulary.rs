//! The bytes of tokens, joined, are the text.

mod golden;

use planish_text::{GgufVocab, SpecialText, TokenBytes, Tokenizer};

const TEXTS: [&str; 9] = [
    "Hello, world!",
    "  two spaces\n\n\ttab and more   ",
    "naïve café, œuvre, ÀÉÎ — “quotes”…",
    "日本語のテキスト、漢字とかな。한국어 中文",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🫠",
    "mathematics ∀x∈ℝ: ⌈x⌉ ≥ x, 𝕬𝖇",
    "fn main() { println!(\"{:?}\", [0x1F, 1e-9]); }",
    "العربية עברית हिन्दी ไทย",
    "control \u{1}\u{7f} nul \0 end",
];

fn piece_tokenizer() -> Tokenizer {
    let json: serde_json::Value = serde_json::from_str(include_str!("data/sentencepiece_tiny.json")).unwrap();
    let list = |name: &str| json[name].as_array().unwrap().clone();
    let vocab = GgufVocab {
        model: "llama".to_owned(),
        tokens: list("tokens").iter().map(|t| t.as_str().unwrap().to_owned()).collect(),
        token_types: list("token_types").iter().map(|t| t.as_i64().unwrap() as i32).collect(),
        scores: list("scores").iter().map(|t| t.as_f64().unwrap() as f32).collect(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf_vocab(vocab).unwrap()
}

fn joined(tokens: &TokenBytes, ids: &[u32]) -> String {
    let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokens.bytes(id).to_vec()).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn byte_level_tokens_join_to_the_text() {
    let (tokenizer, corpus) = (golden::tokenizer(), golden::corpus());
    let tokens = tokenizer.vocabulary();
    for text in TEXTS {
        let ids = tokenizer.encode(text, SpecialText::Plain).unwrap();
        assert_eq!(joined(&tokens, &ids), text);
    }
    for text in corpus.strings.iter().map(|s| s.text.as_str()) {
        // This vocabulary lacks some control characters, which encoding loses.
        let ids = tokenizer.encode(text, SpecialText::Plain).unwrap();
        assert_eq!(joined(&tokens, &ids), tokenizer.decode(&ids, false).unwrap());
    }
}

#[test]
fn pieces_with_byte_fallback_join_to_the_text() {
    let (tokenizer, corpus) = (piece_tokenizer(), golden::corpus());
    let tokens = tokenizer.vocabulary();
    for text in TEXTS.into_iter().chain(corpus.strings.iter().map(|s| s.text.as_str())) {
        let ids = tokenizer.encode(text, SpecialText::Plain).unwrap();
        // SentencePiece puts a space before every text.
        let found = joined(&tokens, &ids);
        assert_eq!(found.strip_prefix(' ').unwrap_or(&found), text);
    }
}

#[test]
fn every_id_has_its_bytes_and_kind() {
    let tokenizer = golden::tokenizer();
    let tokens = tokenizer.vocabulary();
    assert_eq!((tokens.len(), tokens.is_empty()), (49152, false));
    for id in 0..49152 {
        assert_eq!(tokens.bytes(id), tokenizer.token_bytes(id));
        assert_eq!(tokens.is_special(id), tokenizer.is_special(id));
    }
    let end = tokenizer.token_to_id("<|im_end|>").unwrap();
    assert!(tokens.is_special(end));
    assert_eq!(tokens.bytes(end), b"<|im_end|>");
    assert_eq!((tokens.bytes(49152), tokens.bytes(u32::MAX), tokens.is_special(49152)), (&[][..], &[][..], false));
}
