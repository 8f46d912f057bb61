//! The golden corpus: 300 strings and 200 conversations, all exact.

mod golden;

use planish_text::{Detokenizer, SpecialText, StopResult, StopStrings, Tokenizer};

#[test]
fn all_strings_encode_and_decode_exactly() {
    let tokenizer = golden::tokenizer();
    let corpus = golden::corpus();
    assert_eq!(corpus.strings.len(), 300);
    for sample in &corpus.strings {
        let ids = tokenizer.encode(&sample.text, SpecialText::Recognised).unwrap();
        assert_eq!(ids, sample.ids, "{}: {:?}", sample.kind, sample.text);
        assert_eq!(tokenizer.encode_with_special(&sample.text).unwrap(), sample.ids);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), sample.decoded(), "{}", sample.kind);
    }
}

#[test]
fn all_conversations_render_and_encode_exactly() {
    let (tokenizer, template, corpus) = (golden::tokenizer(), golden::template(), golden::corpus());
    assert_eq!(corpus.conversations.len(), 200);
    for conversation in &corpus.conversations {
        let text = template.render(&conversation.input()).unwrap();
        assert_eq!(text, conversation.text);
        assert_eq!(tokenizer.encode(&text, SpecialText::Recognised).unwrap(), conversation.ids, "{text:?}");
        let chat = template.render_plain(&conversation.input(), &tokenizer).unwrap();
        assert_eq!(chat.text(), conversation.text);
        let ids = tokenizer.encode_chat(&chat).unwrap();
        if chat.plain().is_empty() {
            assert_eq!(ids, conversation.ids);
        } else {
            assert_ne!(ids, conversation.ids);
            let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
            assert_eq!(decode(&ids), decode(&conversation.ids));
        }
    }
}

#[test]
fn a_gguf_vocabulary_gives_the_same_ids() {
    let tokenizer = Tokenizer::from_gguf_vocab(golden::gguf_vocab()).unwrap();
    let corpus = golden::corpus();
    assert_eq!(tokenizer.vocab_size(), 49152);
    for sample in &corpus.strings {
        let ids = tokenizer.encode(&sample.text, SpecialText::Recognised).unwrap();
        assert_eq!(ids, sample.ids, "{}: {:?}", sample.kind, sample.text);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), sample.decoded());
    }
    for conversation in &corpus.conversations {
        let ids = tokenizer.encode(&conversation.text, SpecialText::Recognised).unwrap();
        assert_eq!(ids, conversation.ids);
    }
}

#[test]
fn plain_encoding_has_no_special_tokens_and_loses_nothing() {
    let (tokenizer, corpus) = (golden::tokenizer(), golden::corpus());
    let mut differing = 0;
    for text in corpus.strings.iter().map(|s| &s.text).chain(corpus.conversations.iter().map(|c| &c.text)) {
        let plain = tokenizer.encode(text, SpecialText::Plain).unwrap();
        let recognised = tokenizer.encode(text, SpecialText::Recognised).unwrap();
        assert!(!plain.iter().any(|&id| tokenizer.is_special(id)), "{text:?}");
        assert_eq!(tokenizer.decode(&plain, false).unwrap(), tokenizer.decode(&recognised, false).unwrap());
        if recognised.iter().any(|&id| tokenizer.is_special(id)) {
            differing += 1;
        } else {
            assert_eq!(plain, recognised, "{text:?}");
        }
    }
    assert!(differing >= 200, "every conversation has special tokens, found {differing}");
}

#[test]
fn streamed_text_is_the_decoded_text() {
    let (tokenizer, corpus) = (golden::tokenizer(), golden::corpus());
    let all = corpus.strings.iter().map(|s| &s.ids).chain(corpus.conversations.iter().map(|c| &c.ids));
    for ids in all {
        for skip_special in [false, true] {
            let mut stream = Detokenizer::new(tokenizer.clone(), skip_special);
            let mut text = String::new();
            for (done, &id) in ids.iter().enumerate() {
                text.push_str(&stream.push(id).unwrap().unwrap_or_default());
                // What is out is certain: with the rest it is the decoding of what came, at every split.
                let mut copy = stream.clone();
                let whole = format!("{text}{}", copy.finish().unwrap());
                assert_eq!(whole, tokenizer.decode(&ids[..=done], skip_special).unwrap());
            }
            text.push_str(&stream.finish().unwrap());
            assert_eq!(text, tokenizer.decode(ids, skip_special).unwrap());
        }
    }
}

#[test]
fn the_bytes_of_the_tokens_are_the_bytes_of_the_text() {
    let (tokenizer, corpus) = (golden::tokenizer(), golden::corpus());
    for sample in &corpus.strings {
        let bytes: Vec<u8> = sample.ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), sample.decoded());
    }
    assert_eq!(tokenizer.token_bytes(1), b"<|im_start|>");
    assert_eq!(tokenizer.token_bytes(49152), b"");
}

#[test]
fn a_stop_string_is_found_across_tokens() {
    let (tokenizer, corpus) = (golden::tokenizer(), golden::corpus());
    let mut stopped = 0;
    for conversation in &corpus.conversations {
        let mut stream = Detokenizer::new(tokenizer.clone(), false);
        let mut stops = StopStrings::new(["not there", "<|im_end|>\n<|im_start|>user"]).unwrap();
        let mut shown = String::new();
        let mut found = None;
        for &id in &conversation.ids {
            match stops.push(&stream.push(id).unwrap().unwrap_or_default()) {
                StopResult::Text(text) => shown.push_str(&text),
                StopResult::Stopped { text, stop } => {
                    shown.push_str(&text);
                    found = Some(stop);
                    break;
                }
            }
        }
        let text = tokenizer.decode(&conversation.ids, false).unwrap();
        let end = text.find("<|im_end|>\n<|im_start|>user");
        assert_eq!(found, end.map(|_| 1));
        if let Some(end) = end {
            assert_eq!(shown, text[..end]);
            stopped += 1;
        }
    }
    assert!(stopped > 100, "most conversations have a user, found {stopped}");
}

#[test]
fn ids_and_tokens_name_each_other() {
    let tokenizer = golden::tokenizer();
    assert_eq!(tokenizer.vocab_size(), 49152);
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.id_to_token(2).as_deref(), Some("<|im_end|>"));
    assert_eq!(tokenizer.id_to_token(49152), None);
    assert!(tokenizer.is_special(0) && tokenizer.is_special(16) && !tokenizer.is_special(17));
    assert_eq!(tokenizer.decode(&[1, 28120, 2], true).unwrap(), tokenizer.decode(&[28120], false).unwrap());
}

#[test]
fn long_runs_of_one_character_round_trip() {
    let tokenizer = golden::tokenizer();
    for unit in ["a", "^", "_", " ", "7", "\n", "中", "👨‍👩‍👧"] {
        let text = unit.repeat(100_000 / unit.chars().count());
        let ids = tokenizer.encode(&text, SpecialText::Plain).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{unit:?}");
        // A longer run is the same tokens over and over, so no stretch was left uncut.
        let mut kinds = ids.clone();
        kinds.sort_unstable();
        kinds.dedup();
        assert!(kinds.len() <= 16, "{unit:?}: {} different tokens", kinds.len());
    }
}
