"""Upstream's recorded masks of k-mers, the draws of torch's generator that they were made with, and tiny runs that hide k-mers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED

from harness.adapters._masking import Fates
from harness.engine.pretrain import pretrain
from harness.progress import Reporter

GOLDEN = Path(__file__).parent / "golden" / "pretraining"
COMPLETE = SHARED / "reference" / "pretraining" / "golden"
SPECIALS = (0, 2, 3)  # [PAD], [CLS], [SEP]


def recorded(source: str, name: str) -> list[dict]:
    """The cases of a golden file, ``trimmed`` in this repository or ``complete`` beside it."""
    file = (GOLDEN if source == "trimmed" else COMPLETE) / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"needs {file}, upstream's recorded masks in full")
    return json.loads(file.read_text())["cases"]


def drawn(seed: int, tokens: np.ndarray, rate: float, vocabulary: int) -> tuple[np.ndarray, np.ndarray, Fates]:
    """Eligible tokens, centres and fates (B, T), in the order of upstream's draws from torch's global generator."""
    eligible = ~np.isin(tokens, SPECIALS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        centres = torch.bernoulli(torch.full(tokens.shape, rate).masked_fill(~torch.from_numpy(eligible), 0.0)).bool()
        masked, random = (torch.bernoulli(torch.full(tokens.shape, share)).bool() for share in (0.8, 0.5))
        ids = torch.randint(vocabulary, tokens.shape)
    return eligible, centres.numpy(), Fates(masked.numpy(), (masked | random).numpy(), ids.numpy())


def columns(chosen: np.ndarray) -> list[list[int]]:
    """Where each row (B, T) is true."""
    return [np.flatnonzero(row).tolist() for row in chosen]


def pretrained(model: str, data: Path, out: Path, **changes: Any) -> Path:
    """A tiny model of 3-mers after a few steps of short windows."""
    arguments = {
        "init": "random:tiny",
        "options": {"k": "3"},
        "context": 40,
        "steps": 4,
        "tokens_per_step": 320,
        "evaluate_every": 2,
        "device": "cpu",
        "reporter": Reporter(),
    }
    settings = {"batch_size": 8, "precision": "float32"} | changes.pop("settings", {})
    return pretrain(model, data, out=out, settings=settings, **(arguments | changes))


def write_runs(path: Path) -> Path:
    """A genome of runs of one letter: what is hidden can be told from what stands around it, but not from frequencies."""
    runs = "".join(letter * 120 for letter in np.random.default_rng(0).choice(list("ACGT"), 100))
    path.write_text(f">chr1\n{runs}\n")
    return path
