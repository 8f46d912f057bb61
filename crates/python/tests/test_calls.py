"""How a pipeline is called: from many threads, interrupted, closed, wrongly."""

import os
import signal
import threading
import unittest

import planish
import testbed
from planish import EngineConfig, GenerationConfig, pipeline

LONG = GenerationConfig(max_new_tokens=1900, ignore_eos=True)
SHORT = GenerationConfig(max_new_tokens=8)


def soon(action):
    """Does something on another thread while this one is in a call."""
    timer = threading.Timer(0.3, action)
    timer.start()
    return timer


class Calls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pipe = pipeline(testbed.TINY, testbed.config(), "off")

    @classmethod
    def tearDownClass(cls):
        cls.pipe.close()

    def assert_interrupted(self, call):
        timer = soon(lambda: os.kill(os.getpid(), signal.SIGINT))
        with self.assertRaises(KeyboardInterrupt):
            call()
        timer.join()
        self.assertEqual(self.pipe("a", SHORT).generate_token_len, 8)

    def test_ctrl_c_ends_a_call(self):
        self.assert_interrupted(lambda: self.pipe(["a"] * 2000, LONG))

    def test_ctrl_c_ends_a_stream(self):
        def read():
            for _ in self.pipe.stream_infer(["a"] * 2000, LONG):
                pass

        self.assert_interrupted(read)

    def test_many_threads_at_once(self):
        prompts = [f"{i} is" for i in range(8)]
        alone = [self.pipe(prompt, SHORT) for prompt in prompts]
        found = [None] * len(prompts)

        def ask(i):
            found[i] = self.pipe(prompts[i], SHORT)

        threads = [threading.Thread(target=ask, args=[i]) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, alone)

    def test_closing_ends_the_calls_of_others(self):
        pipe = pipeline(testbed.TINY, testbed.config(), "off")
        # Only a thread that may run beside the call can close it.
        timer = soon(pipe.close)
        with self.assertRaisesRegex(planish.Error, "stopped"):
            pipe(["a"] * 2000, LONG)
        timer.join()
        pipe.close()
        for call in (lambda: pipe("a"), lambda: pipe.stream_infer("a"), lambda: pipe.info):
            with self.assertRaisesRegex(planish.Error, "closed"):
                call()

    def test_a_stream_that_is_left_ends(self):
        with self.pipe.stream_infer(["a"] * 8, LONG) as stream:
            next(stream)
        self.assertEqual(list(stream), [])
        del stream
        stream = self.pipe.stream_infer("a", LONG)
        next(stream)
        del stream
        self.assertEqual(self.pipe("a", SHORT).generate_token_len, 8)

    def test_a_prompt_that_cannot_be_is_named(self):
        with self.assertRaisesRegex(ValueError, "prompt 2 of 2: token id 999: expected ids below 256"):
            self.pipe([[1, 2], [1, 999]])
        with self.assertRaisesRegex(ValueError, "expected at most 2048 .max_model_len."):
            self.pipe("a" * 3000)
        for stream in (self.pipe.stream_infer([[999]]), self.pipe.stream_infer([[1], [999]], SHORT)):
            with self.assertRaisesRegex(ValueError, "token id 999"):
                list(stream)
        for prompts in (5, None, {"role": "user"}, b"abc", ["a", 3], [["a"]], [[]], ("a", object())):
            with self.assertRaisesRegex(TypeError, "prompts"):
                self.pipe(prompts)
        for message in ({"content": "a"}, {"role": "user", "content": [{"type": "image_url"}]}, {"role": 3}):
            with self.assertRaisesRegex(ValueError, r"prompts\[0\]\[0\]"):
                self.pipe([message])
        with self.assertRaisesRegex(TypeError, "content"):
            self.pipe([{"role": "user", "content": 5}])

    def test_wrong_settings_of_a_call(self):
        with self.assertRaisesRegex(ValueError, "one for each of 2 prompts, found 1"):
            self.pipe(["a", "b"], [SHORT])
        for wrong in ({"max_new_tokens": 3}, 5, ["x"]):
            with self.assertRaisesRegex(TypeError, "gen_config"):
                self.pipe("a", wrong)
        with self.assertRaisesRegex(TypeError, "there is no 'adapter_name'"):
            self.pipe("a", adapter_name="x")
        with self.assertRaisesRegex(TypeError, "do_preprocess"):
            self.pipe("a", do_preprocess="yes")
        with self.assertRaisesRegex(ValueError, "regular expression"):
            self.pipe("a", GenerationConfig(response_format={"type": "regex_schema", "regex_schema": "("}))


class Settings(unittest.TestCase):
    def test_a_field_that_is_not_known_is_refused_with_the_nearest(self):
        for cls, name, near in (
            (GenerationConfig, "max_tokens", "max_new_tokens"),
            (GenerationConfig, "temprature", "temperature"),
            (GenerationConfig, "bad_words", "logit_bias"),
            (EngineConfig, "session_len", "max_model_len"),
            (EngineConfig, "max_batch_size", "max_batch"),
            (EngineConfig, "thread", "threads"),
        ):
            with self.assertRaisesRegex(TypeError, f"{cls.__name__}: there is no '{name}'; did you mean '{near}'"):
                cls(**{name: 1})
        with self.assertRaisesRegex(TypeError, "there are device, threads"):
            EngineConfig(tp=2)
        with self.assertRaisesRegex(TypeError, "did you mean 'engine_config'"):
            pipeline(testbed.TINY, backend_config=None)

    def test_a_value_that_cannot_be_is_refused_at_once(self):
        for fields, error, said in (
            ({"temperature": -1}, ValueError, "temperature: expected a number from 0 up, found -1"),
            ({"temperature": "hot"}, TypeError, "temperature: expected a number, or None, found 'hot'"),
            ({"top_p": 0}, ValueError, "top_p: expected a number above 0"),
            ({"max_new_tokens": -1}, ValueError, "max_new_tokens: expected a number from 0 up, found -1"),
            ({"max_new_tokens": True}, TypeError, "max_new_tokens"),
            ({"max_new_tokens": 2, "min_new_tokens": 3}, ValueError, "min_new_tokens: expected at most"),
            ({"do_sample": False, "top_k": 5}, ValueError, "do_sample: expected True or None beside top_k"),
            ({"stop_words": [1]}, TypeError, "stop_words"),
            ({"stop_token_ids": ["a"]}, TypeError, "stop_token_ids"),
            ({"logit_bias": {1: float("nan")}}, ValueError, "logit_bias"),
            ({"response_format": "json"}, TypeError, "response_format"),
            ({"response_format": {"type": "xml"}}, ValueError, "response_format: expected type text"),
            ({"response_format": {"type": "json_schema"}}, ValueError, "response_format"),
        ):
            with self.subTest(fields), self.assertRaisesRegex(error, said):
                GenerationConfig(**fields)
        for fields, error, said in (
            ({"threads": 0}, ValueError, "threads: expected a number from 1 to 1024, found 0"),
            ({"kv_dtype": "int4"}, ValueError, "kv_dtype: expected one of auto, f32, bf16, int8, fp8"),
            ({"max_batch": 1.5}, TypeError, "max_batch"),
            ({"prefix_cache": "yes"}, TypeError, "prefix_cache"),
        ):
            with self.subTest(fields), self.assertRaisesRegex(error, said):
                EngineConfig(**fields)

    def test_a_model_that_is_not_there(self):
        missing = os.path.join(testbed.TINY, "config.json")
        with self.assertRaises(planish.Error) as failed:
            pipeline(missing, testbed.config())
        self.assertEqual(str(failed.exception), testbed.error_of_program("generate", missing, "-p", "a"))
        self.assertIsInstance(failed.exception, RuntimeError)
        with self.assertRaisesRegex(ValueError, "device: expected auto, cpu"):
            pipeline(testbed.TINY, EngineConfig(device="tpu"))
        with self.assertRaisesRegex(ValueError, "max_batch: expected a number from 1 to"):
            pipeline(testbed.TINY, testbed.config(max_batch=0))
        with self.assertRaisesRegex(TypeError, "engine_config"):
            pipeline(testbed.TINY, {"threads": 1})
        with self.assertRaisesRegex(ValueError, "log_level"):
            pipeline(testbed.TINY, log_level="loud")

    def test_help_says_what_there_is(self):
        self.assertIn("engine_config", planish.pipeline.__doc__)
        for config in (EngineConfig, GenerationConfig):
            for name in config.__dataclass_fields__:
                self.assertRegex(config.__doc__, rf"\b{name}\b")
        with open(os.environ["PLANISH_DOCS"], encoding="utf-8") as page:
            text = page.read()
        for config in (EngineConfig, GenerationConfig, planish.Response):
            for name in config.__dataclass_fields__:
                self.assertIn(f"`{name}", text)
