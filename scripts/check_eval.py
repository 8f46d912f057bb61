#!/usr/bin/env python3
"""Compares `planish eval` with the real harness, document by document.

    planish eval MODEL --tasks hellaswag --limit 200 --data-dir DIR --json --log-samples LOG > FOUND
    python scripts/check_eval.py REFERENCE.json FOUND LOG

REFERENCE is what scripts/reference_eval.py wrote. Prompts must be equal, log-likelihoods within 1e-2 (5e-6 of the sum over
a long page), and all results equal. Where they are not, the two likeliest answers of a document must be nearer to each other than 2e-2: such near ties are listed.
"""
import json
import sys

# torch's log_softmax sums a row in float32 and loses a part of its tail: some 7e-6 nats a token, always to the same side.
# In the sums over whole pages that is more than 1e-2.
ROUNDING = 5e-6


def near_tie(numbers):
    first, second = sorted(numbers, reverse=True)[:2]
    return first - second < 2e-2


def main():
    reference, found = (json.load(open(path, encoding="utf-8")) for path in sys.argv[1:3])
    samples = [json.loads(line) for line in open(sys.argv[3], encoding="utf-8")]
    worst, other_prompts, far, texts, ties, count = 0.0, 0, 0, 0, [], 0
    for line in samples:
        item = reference["items"].get(line["task"], [])
        if line["doc_id"] >= len(item):
            continue
        item, answer, count = item[line["doc_id"]], line["answer"], count + 1
        other_prompts += line["texts"] != item["texts"]
        if "text" in item:
            texts += item["text"] != answer["text"]
            continue
        ll = answer.get("ll", [answer.get("total")])
        for ours, theirs in zip(ll, item["ll"]):
            allowed = max(1e-2, ROUNDING * abs(theirs))
            worst, far = max(worst, abs(ours - theirs)), far + (abs(ours - theirs) >= allowed)
        if len(ll) > 1 and near_tie(item["ll"]):
            ties.append(f"{line['task']}/{line['doc_id']}")
    differ = []
    for task, values in reference["results"].items():
        for key, value in values.items():
            ours = found["results"].get(task, {}).get(key)
            equal = ours == value or (isinstance(value, float) and isinstance(ours, float)
                                      and abs(ours - value) <= 1e-3 * max(abs(value), 1e-9))
            if not equal:
                differ.append(f"{task} {key}: {ours}, harness {value}")
    print(f"{count} documents: greatest difference of log-likelihoods {worst:.2e}, {far} of more than is allowed, "
          f"{other_prompts} other prompts, {texts} other texts; near ties: {', '.join(ties) or 'none'}")
    print("results: " + ("; ".join(differ) if differ else "all equal"))
    sys.exit(bool(differ or far or other_prompts))


if __name__ == "__main__":
    main()
