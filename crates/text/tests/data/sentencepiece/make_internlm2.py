"""make_internlm2.py DOCS_FOLDER: writes internlm2.model, internlm2_config.json and internlm2_cases.json; see ../README.md."""
import glob, json, re, sys
import sentencepiece as spm
texts = []
for path in sorted(glob.glob(sys.argv[1] + "/*.md")):
    texts += [line.rstrip("\n") for line in open(path, encoding="utf-8") if line.strip()]
texts += ["你好，请介绍一下你自己。", "上海是一座城市。", "量化让模型变小，答案保持不变。"] * 20
spm.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_prefix="internlm2", vocab_size=640, model_type="bpe",
    byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
    split_digits=True, allow_whitespace_only_pieces=True, user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(6)],
    character_coverage=0.999, num_threads=1, minloglevel=2)
sp = spm.SentencePieceProcessor(model_file="internlm2.model")
unused = {f"[UNUSED_TOKEN_{i}]": sp.piece_to_id(f"[UNUSED_TOKEN_{i}]") for i in range(6)}
marks = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
added = {0: "<unk>", 1: "<s>", 2: "</s>"}
for mark, id in zip(marks, sorted(unused.values())):
    added[id] = mark
config = {"added_tokens_decoder": {str(id): {"content": text, "special": True, "lstrip": False, "rstrip": False,
    "normalized": False, "single_word": False} for id, text in sorted(added.items())},
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
    "tokenizer_class": "InternLM2Tokenizer",
    "chat_template": "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"}
ids_of = {text: id for id, text in added.items()}
pattern = "(" + "|".join(re.escape(t) for t in ids_of) + ")"

def encode(text):
    """As a slow tokenizer does: split at the added tokens, each stretch by SentencePiece itself."""
    out = []
    for part in re.split(pattern, text):
        if part in ids_of: out.append(ids_of[part])
        elif part:
            out += sp.encode(part)
    return out

cases = ["", "Hi", " Hi", "Hi ", "  two  spaces  ", "a\nb\n\n c", "\ttabs\t", "12345 + 67.89", "你好，世界", "上海 is", "ünïcödé 🙂🚀", "\u0000\u0001",
  "▁already", "a▁b", "don't", "<|im_start|>user\nHi, pls intro yourself<|im_end|>\n<|im_start|>assistant\n",
  "<s><|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n",
  "<|im_end|><|im_end|>", " <|im_start|> x <|im_end|> ", "<|action_start|><|plugin|>\n{\"name\": \"f\"}<|action_end|>", "<|interpreter|>print(1)",
  "</s>text</s>", "<|im_start", "im_end|>", "<unk>?", "[UNUSED_TOKEN_9]", "a" * 70, "x\r\ny", "\u3000全角", "e\u0301 é", "٣٤", "name<|im_start|>name"]
rows = []
for text in cases:
    ids = encode(text)
    decoded, run = "", []
    for id in ids + [None]:
        if id is None or id in added:
            decoded += sp.decode(run) if run else ""
            run = []
            if id is not None: decoded += added[id]
        else: run.append(id)
    rows.append({"text": text, "ids": ids} | ({"decoded": decoded} if decoded != text else {}))
json.dump(config, open("internlm2_config.json", "w"), ensure_ascii=False, indent=1)
json.dump(rows, open("internlm2_cases.json", "w"), ensure_ascii=False, indent=None, separators=(", ", ": "))
