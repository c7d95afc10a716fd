# SPDX-License-Identifier: Apache-2.0
"""PyTorch within the device memory of a fill job's slot, without a GPU: what it is told, and when."""

import os
import subprocess
import sys
import types
import unittest
from unittest import mock

from pipefill import limit

GIB = 1 << 30
SITE = os.path.join(os.path.dirname(os.path.abspath(limit.__file__)), "site")
JOB = {"PIPEFILL_ROLE": "fill", "PIPEFILL_DEVICE": "gpu:GPU-1", "PIPEFILL_MEM_BYTES": str(8 * GIB),
       "PIPEFILL_DIR": "/nonexistent"}


class FakeCuda(types.ModuleType):
    """torch.cuda of a GPU of 80 GiB, which starts when it is told to."""

    def __init__(self):
        super().__init__("torch.cuda")
        self.fraction = None
        self.fractions = {}
        self.calls = []
        self.fails = False

    def mem_get_info(self, device=None):
        del device
        if self.fails:
            raise RuntimeError("CUDA error: the launch timed out")
        return 70 * GIB, 80 * GIB

    def set_per_process_memory_fraction(self, fraction, device=None):
        self.fraction = fraction
        self.fractions[device] = fraction

    def _lazy_call(self, call):
        self.calls.append(call)


class Limit(unittest.TestCase):
    def test_of_the_environment(self):
        self.assertEqual(limit.bytes_of(JOB), 8 * GIB)
        for change in ({"PIPEFILL_ROLE": "main"}, {"PIPEFILL_DEVICE": "cpu:0"}, {"PIPEFILL_MEM_BYTES": "8GiB"},
                       {"PIPEFILL_MEM_BYTES": "-1"}, {"PIPEFILL_MEM_BYTES": ""}):
            self.assertEqual(limit.bytes_of({**JOB, **change}), 0, change)
        self.assertEqual(limit.bytes_of({}), 0)

    def test_leaves_room_for_the_context(self):
        self.assertEqual(limit.fraction(limit.CONTEXT_BYTES + 8 * GIB, 80 * GIB), 0.1)
        self.assertEqual(limit.fraction(GIB // 2, 80 * GIB), 0.0)
        self.assertEqual(limit.fraction(1 << 50, 80 * GIB), 1.0)

    def test_is_set_when_cuda_starts_and_not_before(self):
        cuda = FakeCuda()
        limit.when_started(cuda, limit.CONTEXT_BYTES + 8 * GIB)
        self.assertIsNone(cuda.fraction)
        cuda.calls[0]()
        self.assertEqual(cuda.fraction, 0.1)

    def test_each_device_of_several(self):
        for devices, want in (("gpu:GPU-1 gpu:GPU-2", {0: 0.1, 1: 0.1}), ("gpu:GPU-1", {None: 0.1}), ("", {None: 0.1})):
            cuda = FakeCuda()
            limit.set_limit(cuda, limit.CONTEXT_BYTES + 8 * GIB, {"PIPEFILL_DEVICES": devices})
            self.assertEqual(cuda.fractions, want, devices)

    def test_no_limit_is_known(self):
        cuda = FakeCuda()
        limit.set_limit(cuda, 0)
        self.assertIsNone(cuda.fraction)

    def test_what_fails_is_said_and_stops_nothing(self):
        cuda = FakeCuda()
        cuda.fails = True
        with mock.patch("sys.stderr") as err:
            limit.when_started(cuda, GIB)
            cuda.calls[0]()
            limit.when_started(types.ModuleType("torch.cuda"), GIB)
        said = "".join(call.args[0] for call in err.write.call_args_list)
        self.assertIn("the launch timed out", said)
        self.assertIn("_lazy_call", said)

    def test_explains(self):
        error = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
        self.assertIn("had taken 512 MiB, and the job's slot has 8192 MiB", limit.explain(error, 8 * GIB, GIB // 2))
        self.assertIsNone(limit.explain(MemoryError(), 8 * GIB, 0))


class Site(unittest.TestCase):
    """In a program that knows nothing of it."""

    def python(self, program, **environment):
        env = {**os.environ, **JOB, "PYTHONPATH": SITE, **environment}
        return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60, check=False)

    def test_torch_is_told(self):
        done = self.python("import torch; print([c[0].__module__ for c in torch.cuda._queued_calls])")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("pipefill.limit", done.stdout)

    def test_not_in_another_job(self):
        for change in ({"PIPEFILL_ROLE": ""}, {"PIPEFILL_DEVICE": "cpu:0"}, {"PIPEFILL_MEM_BYTES": "0"}):
            done = self.python("import sys; print(sys.meta_path)", **change)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn("pipefill.limit", done.stdout, change)

    def test_an_error_is_explained_once(self):
        done = self.python("class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory')")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count("the job's slot has 8192 MiB"), 1, done.stderr)


if __name__ == "__main__":
    unittest.main()
