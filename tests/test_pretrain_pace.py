"""Pretraining: how fast it says it is, batches made ahead, and runs of earlier versions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from made_genomes import Interrupted
from safetensors.torch import load_file
from test_pretrain import UNKNOWN, Listener, curve, noisy_copies, train, write_alignment

from harness.engine.batches import Batches


@pytest.fixture
def msa(tmp_path) -> Path:
    return write_alignment(tmp_path / "msa", noisy_copies())


def test_the_screen_and_the_record_say_how_fast_it_is_and_how_long_it_will_take(msa, tmp_path):
    listener = Listener()
    folder = train(msa, tmp_path / "out", steps=6, evaluate_every=6, reporter=listener)
    (estimate,) = [text for text in listener.said if "steps left" in text]
    assert re.search(r"[\d,]+ tokens/s, each a column of 4 rows; .* waiting for windows; peak memory .* GiB;", estimate)
    assert estimate.endswith("for the 3 steps left")
    timing = json.loads((folder / "pretrain.json").read_text())["timing"]
    assert timing["hours_left"] == 0
    assert timing["tokens_per_second"] == pytest.approx(64 / timing["seconds_per_step"])
    assert 0 < timing["wait"] < timing["seconds"]
    assert timing["wait_share"] == pytest.approx(timing["wait"] / timing["seconds"])


def test_a_run_that_is_cut_knows_the_hours_left(msa, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(msa, tmp_path / "out", reporter=Interrupted(3))
    timing = json.loads((tmp_path / "out/pretrain.json").read_text())["timing"]
    assert timing["hours_left"] == pytest.approx(2 * timing["seconds_per_step"] / 3600)


def test_steps_made_ahead_by_a_thread_are_the_same(msa, tmp_path, monkeypatch):
    """As where an accelerator computes. Unusable windows are counted with the step that drew them."""
    rows = noisy_copies()
    rows[0, 300:700] = UNKNOWN
    msa = write_alignment(tmp_path / "gaps", rows)
    records = []
    for device in ("cpu", "meta"):
        with monkeypatch.context() as patched:
            patched.setattr(
                "harness.engine.pretrain.Batches",
                lambda make, items, _, kind=device: Batches(make, items, torch.device(kind)),
            )
            with pytest.raises(KeyboardInterrupt):
                train(msa, tmp_path / device, reporter=Interrupted(3))
            records.append([json.loads((tmp_path / device / "pretrain.json").read_text())["data"]])
            train(msa, tmp_path / device)
            records[-1] += [json.loads((tmp_path / device / "pretrain.json").read_text())["data"], curve(tmp_path / device)]
    assert records[0] == records[1]
    assert records[0][0]["skipped_windows"] < records[0][1]["skipped_windows"]
    first, second = (load_file(tmp_path / device / "model.safetensors") for device in ("cpu", "meta"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_of_an_earlier_version_goes_on(msa, tmp_path):
    """It said reading_seconds for what is waited."""
    with pytest.raises(KeyboardInterrupt):
        train(msa, tmp_path / "out", reporter=Interrupted(3))
    record, state = json.loads((tmp_path / "out/pretrain.json").read_text()), torch.load(tmp_path / "out/state.pt")
    record["timing"] = {"reading_seconds" if name == "wait" else name: value for name, value in record["timing"].items()}
    for row in state["history"]:
        row["reading_seconds"] = row.pop("wait_seconds")
    (tmp_path / "out/pretrain.json").write_text(json.dumps(record))
    torch.save(state, tmp_path / "out/state.pt")
    assert len(curve(train(msa, tmp_path / "out"))) == 4
