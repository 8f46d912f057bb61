"""Quantizing from Python: the program's files, its report, its refusals."""

import json
import os
import pathlib
import signal
import tempfile
import threading
import unittest

import planish
import testbed
from planish import GenerationConfig, pipeline, quantize

# Nothing here depends on the machine.
HERE = {"device": "cpu", "threads": 1, "log_level": "off"}


def contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


class Quantizing(unittest.TestCase):
    def setUp(self):
        room = tempfile.TemporaryDirectory()
        self.addCleanup(room.cleanup)
        self.room = pathlib.Path(room.name)
        self.calibration = self.room / "calibration.json"
        self.write(40)

    def write(self, count):
        rows = [[(7 * i + 11 * j) % 250 for j in range(64)] for i in range(count)]
        self.calibration.write_text(json.dumps({"calibration_ids": rows}))

    def test_the_programs_own_files_and_report(self):
        ours, theirs = self.room / "ours", self.room / "theirs"
        report = quantize(testbed.TINY, ours, smooth=0.5, calib_dataset=self.calibration, calib_seqlen=64, **HERE)
        flags = ["--smooth", "0.5", "--calib-seqlen", "64", "--calib-dataset", str(self.calibration)]
        said = testbed.program("quantize", testbed.TINY, "--work-dir", str(theirs), *flags)
        self.assertEqual(contents(ours), contents(theirs))
        self.assertEqual(report["layers"], said["layers"])
        self.assertEqual((report["work_dir"], report["settings"]["smooth"]), (str(ours), "0.5"))
        with pipeline(ours, testbed.config(), "off") as pipe:
            answer = pipe("Shanghai is", GenerationConfig(max_new_tokens=8))
        flags = ["--chat", "--max-new-tokens", "8"]
        self.assertEqual(answer.token_ids, testbed.generated(str(ours), ["Shanghai is"], *flags)[0]["token_ids"])

    def test_fp8_needs_no_words(self):
        report = quantize(testbed.TINY, self.room / "fp8", "fp8", max_shard_size=50_000, ignore="re:.*down_proj", **HERE)
        self.assertEqual((report["settings"]["quant_dtype"], report["settings"]["weights"]), ("float8_e4m3fn", "rtn"))
        self.assertGreater(len(list((self.room / "fp8").glob("*.safetensors"))), 1)

    def test_what_cannot_be_is_refused(self):
        for given, error, said in (
            ({"quant_dtype": "int4"}, ValueError, "quant_dtype"),
            ({"smooth": 2}, ValueError, "smooth"),
            ({"smooth": True}, TypeError, "smooth"),
            ({"calib_samples": -1}, ValueError, "calib_samples: expected a number from 0 up, or None, found -1"),
            ({"budget": 0}, ValueError, "budget"),
            ({"max_shard_size": "5XB"}, ValueError, "max_shard_size"),
            ({"device": "null"}, planish.Error, "device"),
            ({"recipe": "/no/recipe.yaml"}, planish.Error, "recipe"),
            ({"num_calibration_samples": 5}, TypeError, "did you mean 'calib_samples'"),
            ({"work_dri": "x"}, TypeError, "did you mean 'work_dir'"),
        ):
            with self.subTest(given), self.assertRaisesRegex(error, said):
                quantize(testbed.TINY, self.room / "no", **{**HERE, **given})
        self.assertFalse((self.room / "no").exists())
        with self.assertRaises(planish.Error) as failed:
            quantize(testbed.TINY, self.room, calib_dataset=self.calibration, **HERE)
        flags = ["--work-dir", str(self.room), "--calib-dataset", str(self.calibration)]
        self.assertEqual(str(failed.exception), testbed.error_of_program("quantize", testbed.TINY, *flags))

    def test_ctrl_c_ends_a_run_and_resume_goes_on(self):
        self.write(4000)
        given = {"calib_dataset": self.calibration, "calib_samples": 4000, "calib_seqlen": 64, **HERE}
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with self.assertRaises(KeyboardInterrupt):
            quantize(testbed.TINY, self.room / "cut", **given)
        timer.join()
        self.assertFalse((self.room / "cut" / "config.json").exists())
        quantize(testbed.TINY, self.room / "cut", resume=True, **given)
        quantize(testbed.TINY, self.room / "whole", **given)
        self.assertEqual(contents(self.room / "cut"), contents(self.room / "whole"))


@unittest.skipUnless(testbed.REAL, "no model")
class QuantizingReal(unittest.TestCase):
    def test_a_real_model_still_answers(self):
        with tempfile.TemporaryDirectory() as room:
            report = quantize(testbed.REAL, f"{room}/int8", weights="rtn", smooth="off", log_level="off")
            self.assertLess(report["self_checks"]["quantized_kl_mean"], 0.5)
            with pipeline(f"{room}/int8", log_level="off") as pipe:
                config = GenerationConfig(max_new_tokens=24)
                self.assertIn("Paris", pipe("What is the capital of France?", config).text)


if __name__ == "__main__":
    unittest.main()
