"""What a pipeline answers: the same as the program, in whatever way it is asked."""

import re
import unittest
from dataclasses import replace

import testbed
from planish import GenerationConfig, Response, pipeline

PROMPTS = ["Hi, pls intro yourself", "Shanghai is", "1, 2, 3,"]
GREEDY = GenerationConfig(max_new_tokens=12)


class Answers:
    """Of some model."""

    model = ""

    @classmethod
    def setUpClass(cls):
        cls.pipe = pipeline(cls.model, engine_config=testbed.config(), log_level="off")

    @classmethod
    def tearDownClass(cls):
        cls.pipe.close()

    def assert_same(self, found, theirs):
        self.assertEqual([answer.text for answer in found], [answer["text"] for answer in theirs])
        self.assertEqual([answer.token_ids for answer in found], [answer["token_ids"] for answer in theirs])
        self.assertEqual([a.input_token_len for a in found], [len(a["prompt_token_ids"]) for a in theirs])
        self.assertEqual([a.generate_token_len for a in found], [len(a["token_ids"]) for a in theirs])
        self.assertEqual([answer.finish_reason for answer in found], [answer["finish_reason"] for answer in theirs])

    def test_texts_as_they_are(self):
        found = self.pipe(PROMPTS, GREEDY, do_preprocess=False)
        self.assert_same(found, testbed.generated(self.model, PROMPTS, "--max-new-tokens", "12"))
        self.assertEqual([answer.index for answer in found], [0, 1, 2])
        self.assertEqual(self.pipe(PROMPTS, GREEDY, False), found)
        self.assertEqual(self.pipe.infer(PROMPTS, GREEDY, False), found)

    def test_texts_go_through_the_template(self):
        found = self.pipe(PROMPTS, gen_config=GREEDY)
        self.assert_same(found, testbed.generated(self.model, PROMPTS, "--max-new-tokens", "12", "--chat"))
        messages = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
        self.assertEqual(self.pipe(messages, GREEDY), found)
        parts = [{"role": "user", "content": [{"type": "text", "text": PROMPTS[0]}]}]
        self.assertEqual(self.pipe(parts, GREEDY), found[0])

    def test_one_gives_one_and_a_list_gives_a_list(self):
        one = self.pipe(PROMPTS[1], GREEDY)
        self.assertIsInstance(one, Response)
        several = self.pipe.infer(PROMPTS, gen_config=[GREEDY, replace(GREEDY, max_new_tokens=5), GREEDY])
        self.assertEqual(self.pipe(tuple(PROMPTS), GREEDY)[1], replace(one, index=1))
        self.assertEqual(several[1].token_ids, one.token_ids[:5])
        self.assertEqual(self.pipe([PROMPTS[1]], GREEDY), [one])
        self.assertEqual(self.pipe([], GREEDY), [])

    def test_a_batch_answers_as_each_alone(self):
        alone = [self.pipe(prompt, GREEDY) for prompt in PROMPTS]
        together = self.pipe(PROMPTS, GREEDY)
        self.assertEqual([answer.token_ids for answer in together], [answer.token_ids for answer in alone])

    def test_pieces_join_to_the_whole(self):
        config = replace(GREEDY, n=2, do_sample=True, random_seed=5, logprobs=2, prompt_logprobs=1)
        whole = self.pipe(PROMPTS, config)
        self.assertEqual([(a.index, a.choice) for a in whole], [(i, c) for i in range(3) for c in range(2)])
        joined = {(i, c): [] for i in range(3) for c in range(2)}
        for piece in self.pipe.stream_infer(PROMPTS, config):
            joined[piece.index, piece.choice].append(piece)
        for answer in whole:
            pieces = joined[answer.index, answer.choice]
            self.assertEqual("".join(piece.text for piece in pieces), answer.text)
            self.assertEqual([i for piece in pieces for i in piece.token_ids], answer.token_ids)
            self.assertEqual([p for piece in pieces for p in piece.logprobs or []], answer.logprobs)
            self.assertEqual(pieces[-1].finish_reason, answer.finish_reason)
            self.assertEqual({piece.finish_reason for piece in pieces[:-1]} - {None}, set())
            self.assertEqual(pieces[-1].generate_token_len, answer.generate_token_len)
            of_prompt = [p for piece in joined[answer.index, 0] for p in piece.prompt_logprobs or []]
            self.assertEqual(of_prompt, answer.prompt_logprobs)

    def test_token_ids_are_prompts(self):
        ids = testbed.generated(self.model, [PROMPTS[0]], "--max-new-tokens", "12")[0]["prompt_token_ids"]
        self.assertEqual(self.pipe(ids, GREEDY), self.pipe(PROMPTS[0], GREEDY, do_preprocess=False))
        self.assertEqual(len(self.pipe([ids, ids[:2]], GREEDY)), 2)

    def test_logprobs(self):
        flags = ["--max-new-tokens", "4", "--logprobs", "2", "--prompt-logprobs", "1"]
        theirs = testbed.generated(self.model, PROMPTS[:1], *flags)[0]
        config = GenerationConfig(max_new_tokens=4, logprobs=2, prompt_logprobs=1)
        found = self.pipe(PROMPTS[0], config, do_preprocess=False)
        for ours, of_program in ((found.logprobs, theirs["logprobs"]), (found.prompt_logprobs, theirs["prompt_logprobs"])):
            self.assertEqual(len(ours), len(of_program))
            for mine, other in zip(ours, of_program):
                self.assertAlmostEqual(mine[other["id"]], other["logprob"], 5)
                self.assertLessEqual({top["id"] for top in other["top"]}, mine.keys())
        self.assertIsNone(self.pipe(PROMPTS[0], GREEDY).logprobs)

    def test_a_seed_is_repeated_and_none_is_not(self):
        seeded = GenerationConfig(max_new_tokens=24, temperature=1.5, top_k=0, random_seed=7)
        flags = ["--max-new-tokens", "24", "--temperature", "1.5", "--seed", "7"]
        first = self.pipe(PROMPTS[0], seeded, do_preprocess=False)
        self.assertEqual(first.token_ids, testbed.generated(self.model, PROMPTS[:1], *flags)[0]["token_ids"])
        free = replace(seeded, random_seed=None)
        drawn = {tuple(self.pipe(PROMPTS[0], free).token_ids) for _ in range(4)}
        self.assertGreater(len(drawn), 1)

    def test_stop_words_end_an_answer_and_are_no_part_of_it(self):
        text = self.pipe(PROMPTS[0], GREEDY).text
        self.assertGreater(len(text), 4)
        stop = text[3:6]
        answer = self.pipe(PROMPTS[0], replace(GREEDY, stop_words=[stop]))
        self.assertEqual((answer.text, answer.finish_reason), (text[: text.index(stop)], "stop"))
        ids = self.pipe(PROMPTS[0], GREEDY).token_ids
        answer = self.pipe(PROMPTS[0], replace(GREEDY, stop_token_ids=[ids[4]]))
        self.assertEqual(answer.token_ids, ids[: ids.index(ids[4])])

    def test_an_answer_has_the_form_that_is_asked_for(self):
        form = {"type": "regex_schema", "regex_schema": "[0-9]{3}-[a-f]{2}"}
        answer = self.pipe(PROMPTS[0], GenerationConfig(response_format=form))
        self.assertRegex(answer.text, re.compile(r"\A[0-9]{3}-[a-f]{2}\Z"))
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [1, 2]}}}
        self.assertIn(self.pipe(PROMPTS[0], GenerationConfig(response_format=schema)).text.strip(), ("1", "2"))


class TinyAnswers(Answers, unittest.TestCase):
    model = testbed.TINY

    def test_without_a_template_texts_stay_as_they_are(self):
        with pipeline(testbed.PLAIN, testbed.config(), "off") as pipe:
            plain = pipe(PROMPTS, GREEDY)
            self.assertEqual(plain, self.pipe(PROMPTS, GREEDY, do_preprocess=False))
            for call in (lambda: pipe("a", do_preprocess=True), lambda: pipe([{"role": "user", "content": "a"}])):
                with self.assertRaisesRegex(ValueError, "no chat template"):
                    call()

    def test_settings_reach_the_engine(self):
        config = testbed.config(max_model_len=64, max_batch=3, kv_dtype="bf16")
        with pipeline(testbed.TINY, config, "off") as pipe:
            info = pipe.info
            self.assertEqual((info["max_model_len"], info["max_batch"], info["kv_dtype"]), (64, 3, "bf16"))
            self.assertIn("cpu", info["device"])
            self.assertEqual(pipe("abc", GenerationConfig(ignore_eos=True)).finish_reason, "length")

    def test_variables_reach_the_template(self):
        tools = [{"type": "function", "function": {"name": "f"}}]
        self.assertEqual(self.pipe("a", GREEDY, tools=tools, chat_template_kwargs={"x": 1}), self.pipe("a", GREEDY))
        with self.assertRaisesRegex(ValueError, "extra"):
            self.pipe("a", chat_template_kwargs={"messages": 1})


@unittest.skipUnless(testbed.REAL, "no model")
class RealAnswers(Answers, unittest.TestCase):
    model = testbed.REAL
