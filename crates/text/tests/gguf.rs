//! Tokenizers from GGUF vocabularies, against the reference libraries' ids.

mod golden;

use planish_text::{Detokenizer, GgufVocab, SpecialText, TextError, Tokenizer};
use serde::Deserialize;

#[derive(Deserialize)]
struct OtherPre {
    text: String,
    #[serde(rename = "gpt-2")]
    gpt2: Vec<u32>,
    #[serde(rename = "llama-bpe")]
    llama: Vec<u32>,
    qwen2: Vec<u32>,
}

#[derive(Deserialize)]
struct Pieces {
    tokens: Vec<String>,
    token_types: Vec<i32>,
    scores: Vec<f32>,
    strings: Vec<golden::PieceSample>,
}

fn pieces() -> Pieces {
    serde_json::from_str(include_str!("data/sentencepiece_tiny.json")).unwrap()
}

fn sentence_piece() -> GgufVocab {
    let Pieces { tokens, token_types, scores, .. } = pieces();
    GgufVocab {
        model: "llama".to_owned(),
        tokens,
        token_types,
        scores,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        ..GgufVocab::default()
    }
}

#[test]
fn each_pre_tokenizer_cuts_as_its_model_does() {
    let samples: Vec<OtherPre> = serde_json::from_str(include_str!("data/smollm2_other_pre.json")).unwrap();
    assert!(samples.len() >= 20);
    for (pre, ids) in [
        ("gpt-2", (|sample| &sample.gpt2) as fn(&OtherPre) -> &Vec<u32>),
        ("llama-bpe", |sample| &sample.llama),
        ("qwen2", |sample| &sample.qwen2),
    ] {
        let vocab = GgufVocab { pre: pre.to_owned(), ..golden::gguf_vocab() };
        let tokenizer = Tokenizer::from_gguf_vocab(vocab).unwrap();
        for sample in &samples {
            let got = tokenizer.encode(&sample.text, SpecialText::Recognised).unwrap();
            assert_eq!(&got, ids(sample), "{pre}: {:?}", sample.text);
        }
    }
}

#[test]
fn scores_give_sentence_piece_ids() {
    let tokenizer = Tokenizer::from_gguf_vocab(sentence_piece()).unwrap();
    let samples = pieces().strings;
    assert!(samples.len() >= 100);
    for sample in &samples {
        let ids = tokenizer.encode(&sample.text, SpecialText::Recognised).unwrap();
        assert_eq!(ids, sample.ids, "{:?}", sample.text);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), sample.decoded);
        // The kind adds a begin token unless the file says otherwise.
        let with_bos = tokenizer.encode_with_special(&sample.text).unwrap();
        assert_eq!(with_bos, [&[1], ids.as_slice()].concat());
    }
}

#[test]
fn sentence_piece_streams_what_it_decodes() {
    let tokenizer = Tokenizer::from_gguf_vocab(sentence_piece()).unwrap();
    for sample in &pieces().strings {
        let mut stream = Detokenizer::new(tokenizer.clone(), true);
        let mut text = stream.push(1).unwrap().unwrap_or_default();
        for &id in &sample.ids {
            text.push_str(&stream.push(id).unwrap().unwrap_or_default());
        }
        text.push_str(&stream.finish().unwrap());
        assert_eq!(text, sample.decoded);
        // As a continuation the space that begins the first word is kept.
        let mut stream = Detokenizer::after(tokenizer.clone(), &sample.ids, true);
        let mut again = String::new();
        for &id in &sample.ids {
            again.push_str(&stream.push(id).unwrap().unwrap_or_default());
        }
        again.push_str(&stream.finish().unwrap());
        let twice = [sample.ids.as_slice(), &sample.ids].concat();
        assert_eq!(text + &again, tokenizer.decode(&twice, true).unwrap());
    }
}

#[test]
fn sentence_piece_bytes_and_plain_text() {
    let tokenizer = Tokenizer::from_gguf_vocab(sentence_piece()).unwrap();
    let newline = tokenizer.token_to_id("<0x0A>").unwrap();
    assert_eq!(tokenizer.token_bytes(newline), b"\n");
    let the = tokenizer.token_to_id("▁the").unwrap();
    assert_eq!(tokenizer.token_bytes(the), b" the");
    let text = "say </s> and <s>";
    let plain = tokenizer.encode(text, SpecialText::Plain).unwrap();
    assert!(!plain.iter().any(|&id| tokenizer.is_special(id)));
    assert_eq!(tokenizer.decode(&plain, false).unwrap(), text);
    assert!(tokenizer.encode(text, SpecialText::Recognised).unwrap().contains(&2));
}

#[test]
fn bytes_that_are_no_character_come_out_in_the_end() {
    let tokenizer = Tokenizer::from_gguf_vocab(sentence_piece()).unwrap();
    let byte = |byte: u8| tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap();
    let ids = [byte(0xE4), byte(0xB8), byte(0xAD), byte(0xE4), byte(0xB8)];
    let mut stream = Detokenizer::new(tokenizer.clone(), false);
    let pushed: Vec<Option<String>> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pushed, [None, None, Some("中".to_owned()), None, None]);
    assert!(stream.finish().unwrap().contains('\u{FFFD}'));
    // However many there are, the stream goes on.
    let mut stream = Detokenizer::new(tokenizer.clone(), false);
    let text: String = (0..100).filter_map(|_| stream.push(ids[0]).unwrap()).collect();
    assert!(text.starts_with("\u{FFFD}\u{FFFD}"), "{text:?}");
}

#[test]
fn begin_and_end_tokens_follow_the_file() {
    for (pre, add_bos, add_eos, expected) in [
        ("smollm", None, None, vec![28120]),
        ("smollm", Some(true), None, vec![1, 28120]),
        ("smollm", Some(true), Some(true), vec![1, 28120, 2]),
        ("llama-bpe", None, None, vec![1, 28120]),
        ("llama-bpe", Some(false), None, vec![28120]),
    ] {
        let vocab = GgufVocab { pre: pre.to_owned(), add_bos, add_eos, ..golden::gguf_vocab() };
        let tokenizer = Tokenizer::from_gguf_vocab(vocab).unwrap();
        let text = tokenizer.decode(&[28120], false).unwrap();
        assert_eq!(tokenizer.encode_with_special(&text).unwrap(), expected, "{pre} {add_bos:?} {add_eos:?}");
        assert_eq!(tokenizer.encode(&text, SpecialText::Recognised).unwrap(), [28120]);
    }
}

#[test]
fn contradictions_are_named() {
    let good = golden::gguf_vocab;
    let mut twice = good();
    twice.tokens[100] = twice.tokens[99].clone();
    let mut orphan = good();
    orphan.merges.push("no such".to_owned());
    let cases = [
        (
            GgufVocab { model: "bert".to_owned(), ..good() },
            "tokenizer.ggml.model: expected gpt2 or llama, found \"bert\"",
        ),
        (
            GgufVocab { pre: "klingon".to_owned(), ..good() },
            "tokenizer.ggml.pre: expected one of gpt-2, default, smollm",
        ),
        (GgufVocab { tokens: Vec::new(), ..good() }, "tokenizer.ggml.tokens: expected 1 to 2^32-1 tokens, found 0"),
        (GgufVocab { token_types: vec![1], ..good() }, "tokenizer.ggml.token_type: expected 49152 types"),
        (GgufVocab { merges: Vec::new(), ..good() }, "tokenizer.ggml.merges: expected a list of merges"),
        (
            GgufVocab { bos: Some(49152), ..good() },
            "tokenizer.ggml.bos_token_id: expected an id below 49152, found 49152",
        ),
        (GgufVocab { scores: vec![0.0], ..sentence_piece() }, "tokenizer.ggml.scores: expected"),
        (twice, "tokenizer.ggml.tokens: expected different tokens"),
        (orphan, "tokenizer.json:"),
    ];
    for (vocab, message) in cases {
        let error = Tokenizer::from_gguf_vocab(vocab).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
    for bytes in [&b""[..], b"{}", b"null", b"[[[[", b"{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\"}}", b"\xFF"] {
        let error = Tokenizer::from_json(bytes).unwrap_err();
        assert!(matches!(error, TextError::TokenizerJson(_)), "{error}");
    }
}
