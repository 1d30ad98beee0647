"""GPN-MSA's objective against outputs of its authors' code: smoothing, weights, label noise, masks and loss."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED

from harness.adapter import Pretrainable
from harness.adapters._gpn_objective import loss_weights, noise_probability, relabel, smoothed
from harness.adapters._masking import Fates, hide
from harness.adapters.gpn_msa import MASK
from harness.engine.corpus import split, weight_of
from harness.engine.pretrain import Pretraining


def golden(file: Path) -> list[dict]:
    return json.loads(file.read_text())["cases"]


@pytest.fixture(params=["trimmed", "all"])
def cases(request) -> list[dict]:
    if request.param == "trimmed":
        return golden(ROOT / "tests/golden/pretraining/gpn_msa_loss.json")
    file = SHARED / "reference/pretraining/golden/gpn_msa_loss.json"
    if not file.is_file():
        pytest.skip(f"needs {file}, which holds all outputs; the trimmed ones are tested above")
    return golden(file)


class Recorded(torch.nn.Module, Pretrainable):
    """A model that answers with recorded logits (B, T, V)."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def pretraining_logits(self, batch):
        return self.logits.flatten(0, 1)[batch["asked"]]


def test_weights_and_noise_are_upstreams(cases):
    weighed = 0
    for case in cases:
        conserved = smoothed(np.array(case["phastCons"], float))
        np.testing.assert_array_equal(noise_probability(conserved), case["flip_p"])
        if "loss_weight" in case:
            weighed += 1
            np.testing.assert_array_equal(conserved, case["phastCons_smoothed"])
            found = loss_weights(conserved, np.array(case["phyloP"], float), np.array(case["lowercase"]))
            np.testing.assert_array_equal(found, case["loss_weight"])
    assert weighed


def test_masks_and_labels_are_upstreams(cases):
    """Given upstream's draws; there every symbol may be hidden."""
    for case in cases:
        tokens = torch.tensor(case["input_ids"])
        torch.manual_seed(case["seed"])
        chosen, masked, random = (torch.bernoulli(torch.full(tokens.shape, p)).bool().numpy() for p in (0.15, 0.8, 0.5))
        ids = torch.randint(1, 5, tokens.shape).numpy()
        noisy = torch.bernoulli(torch.tensor(case["flip_p"], dtype=torch.float64)).bool().numpy()
        others = torch.randint(1, 5, tokens.shape).numpy()
        found = tokens.numpy().copy()
        targets = relabel(hide(found, chosen, Fates(masked, random, ids), MASK), noisy, others)
        np.testing.assert_array_equal(found, case["masked_inputs"])
        np.testing.assert_array_equal(targets, case["labels"])


def test_the_loss_is_upstreams(cases):
    """Through what a step of training adds up, in batches of one window."""
    judged = 0
    for case in cases:
        if "logits" not in case:
            continue
        judged += 1
        weights = torch.tensor(case["loss_weight"], dtype=torch.float64).float()
        whole = {"targets": torch.tensor(case["labels"]), "weights": weights, "row": torch.arange(len(weights))}
        total = 0.0
        for batch in split(whole, 1):
            adapter = Recorded(torch.tensor(case["logits"])[batch["row"]])
            run: Any = SimpleNamespace(adapter=adapter, device=torch.device("cpu"), precision="float32")
            total += float(Pretraining._loss(run, *Pretraining._asked(run, batch)))
        assert total / weight_of(whole) == pytest.approx(case["loss"], rel=1e-6)
    assert judged
