"""What only a machine with an NVIDIA GPU can show: that runs use the fused kernels, and that these touch no foreign memory.

With a GPU, test_kernels.py holds the kernels to their definitions there, and test_adapters.py every model to the contract.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from harness.kernels import backends
from harness.study.plan import plan
from harness.study.run import execute

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")

KERNELS = """
import torch
from harness.kernels import backends
from harness.kernels.causal_conv1d import causal_conv1d
from harness.kernels.selective_scan import selective_scan
for dtype in (torch.float32, torch.bfloat16):
    for batch, channels, length, state in ((3, 40, 101, 16), (1, 200, 1000, 5)):
        for reverse in (False, True):
            u, delta, z = (torch.randn(batch, length, channels, device="cuda", dtype=dtype).mT.requires_grad_() for _ in "udz")
            B, C = (torch.randn(batch, state, length, device="cuda", dtype=dtype) for _ in "BC")
            with backends.using("cuda"):
                x = causal_conv1d(u, torch.randn(channels, 4, device="cuda"), activation="silu", reverse=reverse)
                A = -torch.rand(channels, state, device="cuda")
                selective_scan(x, delta, A, B, C, z=z, delta_softplus=True, reverse=reverse).float().sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("model", ["msamamba", "caduceus"])
@pytest.mark.usefixtures("own_cache")
def test_a_run_uses_fused_kernels(tmp_path, model):
    (run,) = plan(model, "QKI", init="random:tiny", epochs=1, device="cuda")
    record = execute(run, tmp_path)
    assert record.finished, record.error
    assert set(record.environment["kernels"].values()) <= {"cuda", *backends.UPSTREAM}
    assert record.timing["peak_memory_bytes"] > 0


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_kernels_touch_only_their_own_memory(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", KERNELS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
