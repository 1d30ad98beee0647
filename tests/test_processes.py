"""Several processes train as one: every gradient of every step is that of a single process (on CPUs, through gloo)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

# What each process does, and what a single one does: two epochs, whose gradients are noted before they are clipped.
SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from conftest import motif_examples
from torch import nn
from harness.engine import fit as module, hardware
from harness.engine.classifier import Classifier
from harness.recipe import Recipe
from harness.registry import adapter_class

name, examples, packed, unused, compiled, out = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:6]), sys.argv[6]
recipe = Recipe(epochs=2, batch_size=8, accumulation=2, dropout=0.0, learning_rate=1e-4, compile=bool(compiled))
module.COMPILER = "aot_eager"
torch.manual_seed(0)
adapter = adapter_class(name).from_checkpoint(size="tiny")
for part in adapter.modules():
    if hasattr(part, "shape") and hasattr(part.shape, "dropout"):
        object.__setattr__(part.shape, "dropout", 0.0)
        object.__setattr__(part.shape, "attention_dropout", 0.0)
if unused:  # a weight that the loss does not depend on
    adapter.idle = nn.Parameter(torch.ones(3))
classifier, noted = Classifier(adapter, 2, recipe), []
if packed:
    module.collated = lambda classifier, examples, ready: classifier.adapter.for_accelerator(classifier.collate(examples))

def clip(parameters, norm):
    noted.append([None if it.grad is None else it.grad.clone() for it in parameters])

nn.utils.clip_grad_norm_ = clip
accelerator = hardware.accelerator("cpu")
train = motif_examples(examples, (20, 60))
fitted = module.fit(classifier, train, train[:9], recipe, accelerator)
if accelerator.is_main_process:
    torch.save((noted, [row["train_loss"] for row in fitted.history]), out)
"""


def outcome(folder: Path, processes: int, name: str, examples: int, packed: bool, unused: bool, compiled: bool):
    script, out = folder / "script.py", folder / f"{processes}.pt"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2"] if processes == 2 else []
    arguments = [name, str(examples), *(str(int(it)) for it in (packed, unused, compiled)), str(out)]
    done = subprocess.run(
        [sys.executable, *launch, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    ("name", "examples", "packed", "unused", "compiled"),
    [
        pytest.param("dnabert2", 37, True, False, False, id="packed, and a last step of five"),
        pytest.param(
            "dnabert1", 33, False, True, True, id="compiled, an idle weight, and a last step of one", marks=pytest.mark.slow
        ),
    ],
)
def test_gradients_are_those_of_one_process(name, examples, packed, unused, compiled, tmp_path):
    """Steps of 16 in micro-batches of 8; what is left over is no multiple of the processes."""
    settings = (name, examples, packed, unused, compiled)
    (alone, losses), (shared, shared_losses) = outcome(tmp_path, 1, *settings), outcome(tmp_path, 2, *settings)
    assert len(alone) == len(shared) == 2 * -(-examples // 16)
    torch.testing.assert_close(torch.tensor(shared_losses), torch.tensor(losses), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(shared, alone, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            if other is not None and other.any():
                torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)
            else:
                assert one is None or not one.any()
