#!/usr/bin/env python3
"""Runs the real lm-evaluation-harness on local files and keeps what `planish eval` is compared with.

    pip install "lm_eval[hf]==0.4.13"
    python scripts/reference_eval.py --model DIR --data DIR --out DIR --tasks hellaswag,arc_easy --limit 200

The harness' own task files are used. Only where their rows come from is changed, to the files of --data (laid out as
docs/evaluating.md says), since neither a network nor the hub is needed then. Two collections lack fields of the hub's rows:
hellaswag has its context in one piece, boolq has no passages. For these the changed template is below. LAMBADA is stood in
for by paragraphs of wikitext.

Each task's results, per-item log-likelihoods, texts and digests of the prompts go into OUT/TASK.json.
"""
import argparse
import csv
import hashlib
import json
import re
import time
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

HERE = Path(lm_eval.__file__).parent / "tasks"
LETTERS = "ABCDEFGH"


def read_jsonl(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def pages(text):
    """wikitext's pages, cut as EleutherAI/wikitext_document_level cuts them: before each ` = Title = `."""
    found, page = [], []
    for line in text.split("\n"):
        bare = line.replace("= = =", "===").replace("= =", "==").strip()
        if bare.startswith("= ") and bare.endswith(" ="):
            if "\n".join(page).strip():
                found.append("\n".join(page))
            page = []
        page.append(line)
    found.append("\n".join(page))
    return [{"page": p} for p in found]


def paragraphs(text):
    """Stands in for LAMBADA: paragraphs of 60 to 90 words that end in a word."""
    rows = []
    for line in text.split("\n"):
        words = line.strip().rstrip(" .").split(" ")
        if not line.strip().startswith("=") and 60 <= len(words) <= 90 and words[-1].isalpha():
            rows.append({"text": " ".join(words)})
    return rows


def arc(rows):
    of = lambda r: {"text": r["choices"], "label": list(LETTERS[: len(r["choices"])])}
    return [{"question": r["question"], "choices": of(r), "answerKey": LETTERS[r["label"]]} for r in rows]


def openbookqa(rows):
    return [{"question_stem": r.pop("question"), **r} for r in arc(rows)]


def piqa(rows):
    return [{"goal": r["question"], "sol1": r["choices"][0], "sol2": r["choices"][1], "label": r["label"]} for r in rows]


def winogrande(rows):
    of = lambda r: {"option1": r["choices"][0], "option2": r["choices"][1], "answer": str(r["label"] + 1)}
    return [{"sentence": r["question"], **of(r)} for r in rows]


def mmlu(path):
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    return [{"question": r["question"], "choices": [r[f"choice{i}"] for i in range(4)], "answer": int(r["answer"])}
            for r in rows]


def mmlu_in_one(path, subject, split):
    """Of a file of rows with their subject and split."""
    rows = [r for r in read_jsonl(path) if (r["subject"], r["split"]) == (subject, split)]
    return [{key: r[key] for key in ("question", "choices", "answer")} for r in rows]


HELLASWAG = '''
import re
def process_docs(dataset):
    def preprocess(text):
        text = text.strip().replace(" [title]", ". ")
        return re.sub("\\\\[.*?\\\\]", "", text).replace("  ", " ")
    def one(doc):
        return {"query": preprocess(doc["ctx"]), "choices": [preprocess(e) for e in doc["endings"]], "gold": int(doc["label"])}
    return dataset.map(one)
'''
HELLASWAG_YAML = "process_docs: !function rows_hellaswag.process_docs\n"
BOOLQ_YAML = 'doc_to_text: "Question: {{question}}\\nAnswer:"\n'


def tasks(data, made):
    """name: (the harness' file, {split: rows}, changes)"""
    d = Path(data)
    wiki = (d / "wikitext-2-raw/wiki.test.raw").read_text(encoding="utf-8")
    choice = lambda name: read_jsonl(next(d.rglob(f"{name}.jsonl")))
    found = {
        "gsm8k": ("gsm8k/gsm8k.yaml",
                  {s: lambda s=s: read_jsonl(d / f"gsm8k/{s}.jsonl") for s in ("train", "test")}, ""),
        "wikitext": ("wikitext/wikitext.yaml", {"test": lambda: pages(wiki)}, ""),
        "lambada_openai": ("lambada/lambada_openai.yaml", {"test": lambda: paragraphs(wiki)}, ""),
        "hellaswag": ("hellaswag/hellaswag.yaml", {"validation": lambda: choice("hellaswag")}, HELLASWAG_YAML),
        "arc_easy": ("arc/arc_easy.yaml", {"test": lambda: arc(choice("ARC-Easy"))}, ""),
        "arc_challenge": ("arc/arc_challenge.yaml", {"test": lambda: arc(choice("ARC-Challenge"))}, ""),
        "piqa": ("piqa/piqa.yaml", {"validation": lambda: piqa(choice("piqa"))}, ""),
        "winogrande": ("winogrande/default.yaml", {"validation": lambda: winogrande(choice("winogrande"))}, ""),
        "openbookqa": ("openbookqa/openbookqa.yaml", {"test": lambda: openbookqa(choice("openbookqa"))}, ""),
        "boolq": ("super_glue/boolq/default.yaml", {"validation": lambda: choice("boolq")}, BOOLQ_YAML),
    }
    for path in sorted((d / "mmlu/test").glob("*_test.csv")):
        subject = path.name.removesuffix("_test.csv")
        dev = d / f"mmlu/dev/{subject}_dev.csv"
        rows = {"test": lambda p=path: mmlu(p), "dev": lambda p=dev: mmlu(p)}
        found[f"mmlu_{subject}"] = (f"mmlu/default/mmlu_{subject}.yaml", rows, "")
    for subject in {r["subject"] for r in read_jsonl(made)} if made else ():
        rows = {split: lambda s=subject, split=split: mmlu_in_one(made, s, split) for split in ("test", "dev")}
        found[f"mmlu_{subject}"] = (f"mmlu/default/mmlu_{subject}.yaml", rows, "")
    return found


def declare(folder, name, declared, train):
    """Writes the rows and a task file that includes the harness' own. With `train` rows the eval split gives up its last
    ones, which few-shot examples are then drawn from."""
    yaml, splits, changes = declared
    yaml_path = HERE / yaml
    files, lines = {}, []
    for split, read in splits.items():
        rows = read()
        if train and split != "dev" and len(splits) == 1:
            files["train"] = save(folder / f"{name}_train.jsonl", rows[-train:])
            rows = rows[:-train]
        files[split] = save(folder / f"{name}_{split}.jsonl", rows)
    lines += [f"include: {yaml_path}", f"task: {name}", "dataset_path: json", "dataset_name: null", "dataset_kwargs:",
              "  data_files:"]
    lines += [f"    {split}: {path}" for split, path in files.items()]
    used = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
    lines += [f"{key}: {split if split in files else 'null'}" for key, split in used.items()]
    if name == "hellaswag":
        (folder / "rows_hellaswag.py").write_text(HELLASWAG)
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n" + changes)


def save(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def digest(arguments):
    """Of all texts that the model was given for an item."""
    texts = [a if isinstance(a, str) else "" for pair in arguments for a in pair]
    return hashlib.sha256("\x00".join(texts).encode()).hexdigest()[:16]


def item(sample):
    out = {"id": sample["doc_id"], "texts": digest(sample["arguments"])}
    first = sample["resps"][0][0]
    if isinstance(first, str):
        out["text"] = first
        out["filtered"] = {sample["filter"]: sample["filtered_resps"][0]}
    elif isinstance(first, (tuple, list)):
        out["ll"] = [round(float(r[0][0]), 5) for r in sample["resps"]]
        out["greedy"] = [bool(r[0][1]) for r in sample["resps"]]
    else:
        out["ll"] = [round(float(first), 4)]
    return out


def items(samples):
    found = {}
    for sample in samples:
        new = item(sample)
        old = found.setdefault(new["id"], new)
        if "filtered" in new:
            old["filtered"].update(new["filtered"])
    return [found[i] for i in sorted(found)]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "data", "out", "tasks"):
        p.add_argument(f"--{name}", required=True)
    p.add_argument("--mmlu", help="one file with rows of all of mmlu's subjects, in place of --data's")
    p.add_argument("--limit", type=int)
    p.add_argument("--num-fewshot", type=int)
    p.add_argument("--train", type=int, default=0, help="give so many of the eval rows to few-shot examples")
    p.add_argument("--max-length", type=int, default=2048)
    p.add_argument("--batch-size", type=int, default=1)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--chat", action="store_true", help="--apply_chat_template")
    p.add_argument("--name", help="of the file written, if not the task's")
    a = p.parse_args()
    folder = Path(a.out).absolute() / "declared" / (a.name or a.tasks.replace(",", "+")[:60])
    folder.mkdir(parents=True, exist_ok=True)
    known, wanted = tasks(a.data, a.mmlu), a.tasks.split(",")
    for name in [n for n in known if n in wanted or ("mmlu" in wanted and n.startswith("mmlu_"))]:
        declare(folder, name, known[name], a.train)
    manager = TaskManager(include_path=str(folder))
    started = time.time()
    results = lm_eval.simple_evaluate(
        model="hf", model_args=dict(pretrained=a.model, dtype=a.dtype, max_length=a.max_length), device="cpu",
        tasks=wanted, num_fewshot=a.num_fewshot, limit=a.limit, batch_size=a.batch_size, task_manager=manager,
        apply_chat_template=a.chat, bootstrap_iters=100000)
    seconds = time.time() - started
    kept = ("results", "groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")
    out = {key: results[key] for key in kept if key in results}
    out["made_with"] = {"lm_eval": lm_eval.__version__, "dtype": a.dtype, "max_length": a.max_length,
                        "num_fewshot": a.num_fewshot, "limit": a.limit, "train": a.train, "chat": a.chat,
                        "batch_size": a.batch_size, "seconds": round(seconds, 1)}
    out["table"] = make_table(results) + ("\n" + make_table(results, "groups") if "groups" in results else "")
    out["items"] = {name: items(samples) for name, samples in results["samples"].items()}
    name = a.name or a.tasks.replace(",", "+")
    text = json.dumps(out, indent=1, default=str)
    # One item a line.
    text = re.sub(r"\{\n\s+\"id\".*?\n   \}", lambda m: re.sub(r"\n\s+", " ", m.group()), text, flags=re.S)
    (Path(a.out) / f"{name}.json").write_text(text + "\n")
    print(out["table"])


if __name__ == "__main__":
    main()
