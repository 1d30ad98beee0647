"""The contract of pretraining, for every model and each of its objectives, on a small simulated world.

A killed run ends with the same bits as one that was left alone, its folder loads as the model that was trained, and what it
learns is worth more than its yardstick.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import made_hf
import numpy as np
import pytest
import torch
from conftest import ROOT, pretraining_batch
from made_genomes import Interrupted
from safetensors.torch import load_file

from harness import registry
from harness.adapter import Pretrainable
from harness.data import Locus
from harness.engine.pretrain import pretrain
from harness.engine.pretrain_asked import open_source
from harness.errors import UserError
from harness.facts import class_options, keyword_options
from harness.files.simulated import simulate
from harness.progress import Reporter

MODELS = {name: registry.adapter_class(name) for name in registry.model_files()}
OBJECTIVES = [
    pytest.param(name, objective, id=f"{name}-{objective}")
    for name, adapter in MODELS.items()
    if issubclass(adapter, Pretrainable)
    for objective in adapter.objectives
]
VARIANTS = [
    pytest.param("caduceus", "token", {"variant": "ph"}, id="caduceus-ph"),
    pytest.param("genemask", "pmi", {"ranks": "position"}, id="genemask-position"),
    pytest.param("rnaernie", "motif", {"as_released": "true"}, id="rnaernie-released"),
]
RNA = ("rnafm", "rnaernie")


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "simulated"
    simulate(folder, 40_000)
    made_hf.checkpoint("llama", folder.with_name("llama"))
    return folder


def asked(world: Path, name: str, objective: str) -> dict:
    """The arguments that name a model's data and what an objective needs."""
    options = {
        "motif": {"motifs": str(world / "motifs.txt")},
        "weighted": {
            "phastcons": str(world / "phastcons.bedGraph"),
            "phylop": str(world / "phylop.bedGraph"),
            "conserved": "0.5",
        },
    }
    given = {"options": options.get(objective, {})}
    if (name, objective) == ("hf", "next"):
        given = {"options": {"config": str(world.with_name("llama"))}, "init": "random"}
    if objective == "motif":
        given |= {"context": 64, "tokens_per_step": 512}  # a tenth of which is longer than a motif
    if MODELS[name].card.reads == "alignment":
        return given | {"msa": next(world.glob("alignment.*.fa"))}
    return given | {"data": world / ("rna.fa" if name in RNA else "genome.fa")}


def train(world: Path, name: str, objective: str, out: Path, **changes) -> Path:
    """Four steps of eight windows of 32 nt, a tiny model."""
    arguments = {
        "objective": objective,
        "init": "random:tiny",
        "context": 32,
        "steps": 4,
        "tokens_per_step": 256,
        "evaluate_every": 2,
        "device": "cpu",
        "settings": {"batch_size": 4, "precision": "float32"},
        "reporter": Reporter(),
    }
    return pretrain(name, out=out, **(arguments | asked(world, name, objective) | changes))


@pytest.mark.usefixtures("quick_pretraining")
@pytest.mark.parametrize(
    ("name", "objective", "options"), [*(pytest.param(*it.values, {}, id=it.id) for it in OBJECTIVES), *VARIANTS]
)
def test_a_resumed_run_ends_with_the_same_bits(world, tmp_path, name, objective, options):
    options = asked(world, name, objective)["options"] | options
    whole = train(world, name, objective, tmp_path / "whole", options=options)
    with pytest.raises(KeyboardInterrupt):
        train(world, name, objective, tmp_path / "cut", options=options, reporter=Interrupted(3))
    torch.manual_seed(99)
    cut = train(world, name, objective, tmp_path / "cut", options=options)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    first, second = (json.loads((folder / "pretrain.json").read_text()) for folder in (whole, cut))
    assert first["settings"] == second["settings"]
    assert first["settings"]["objective"] == objective
    assert first["scores"] == second["scores"]
    check_loaded(world, name, objective, whole, options)


def check_loaded(world: Path, name: str, objective: str, folder: Path, options: dict[str, str]) -> None:
    """The folder is the model that was trained: loaded and asked again, it gives the loss that the record states."""
    model = MODELS[name].from_checkpoint(folder)
    assert model.audit is not None
    assert model.audit.matched == model.audit.expected
    assert not model.audit.unused
    given: dict[str, Any] = {"init": None, "checkpoint": str(folder), "steps": 1, "settings": still()}
    kept = {key: value for key, value in options.items() if key in keyword_options(model.objectives[objective].__init__)}
    again = train(world, name, objective, folder.with_name("again"), options=kept, **given)
    stated, found = (json.loads((it / "pretrain.json").read_text()) for it in (folder, again))
    assert found["data"]["validation_targets"] == stated["data"]["validation_targets"]
    assert found["scores"]["validation_loss"] == pytest.approx(stated["scores"]["validation_loss"], rel=1e-5)


def still() -> dict:
    """A step that moves nothing."""
    return {"batch_size": 4, "precision": "float32", "learning_rate": 1e-12, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("name", "objective"), [it for it in OBJECTIVES if it.values[1] not in ("weighted", "pmi", "motif")]
)  # these look at the data first; their own tests ask the same
def test_what_is_asked_is_known_and_logits_are_of_the_places_asked(world, name, objective):
    """Logits at a subset of the places are those at all places; targets are tokens of the vocabulary."""
    given = asked(world, name, objective)
    torch.manual_seed(0)
    size = "base" if "init" in given else "tiny"
    model = MODELS[name].from_checkpoint(size=size, **given["options"]).eval()
    source = open_source(model, given.get("data"), given.get("msa"), "")
    windows = [source.window(Locus(chromosome, start, start + 32)) for chromosome, start, end in source.stretches[:3] if end > 32]
    batch = pretraining_batch(model, windows, np.random.default_rng(0), objective)
    assert set(batch) >= {"tokens", "targets", "asked"}
    assert len(batch["asked"]) > 2
    with torch.inference_mode():
        every = model.pretraining_logits(batch)
        some = model.pretraining_logits(batch | {"asked": batch["asked"][::2]})
        ready = model.pretraining_logits(model.for_accelerator(batch))
    assert every.shape[0] == len(batch["asked"])
    assert int(batch["targets"].max()) < every.shape[1]
    torch.testing.assert_close(some, every[::2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ready, every, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "objective"), OBJECTIVES)
def test_an_objective_has_no_option_of_its_model(name, objective):
    """But for one that the model has in fine-tuning alone, and refuses otherwise."""
    shared = set(keyword_options(MODELS[name].objectives[objective].__init__)) & set(class_options(MODELS[name]))
    assert shared == ({"as_released"} if (name, objective) == ("rnaernie", "motif") else set())
    for option in shared:
        with pytest.raises(UserError, match=f"option {option}=true: is about how to guide"):
            MODELS[name].from_checkpoint(size="tiny", layout="paddle", **{option: True})


# What lets a tiny model learn within a minute or so: steps, learning rate, and options. Others take the first line.
LEARNING = {
    "": (300, 3e-3, {}),
    "gpn_msa": (40, 1e-3, {}),
    "msamamba": (150, 3e-3, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "objective"), [it for it in OBJECTIVES if it.values[0] != "hyenadna"])
def test_it_beats_its_yardstick(world, tmp_path, name, objective):
    """HyenaDNA's has a genome of its own in test_next_objective.py: here a chain of order 3 knows nearly all it can learn."""
    steps, rate, options = LEARNING.get(name, LEARNING[""])
    folder = train(
        world,
        name,
        objective,
        tmp_path / "out",
        options=asked(world, name, objective)["options"] | options,
        context=64,
        steps=steps,
        tokens_per_step=2048,
        evaluate_every=steps,
        settings={"batch_size": 32, "learning_rate": rate, "schedule": "constant"},
    )
    scores = json.loads((folder / "pretrain.json").read_text())["scores"]
    assert scores["validation_loss"] < scores["yardstick_loss"], scores


@pytest.mark.slow
def test_a_run_that_was_killed(world, tmp_path):
    """By SIGKILL, in the middle of a step, and from a shell."""
    command = [sys.executable, "-m", "harness", "pretrain", "--model", "msamamba", "--init", "random:tiny", "--context", "32"]
    command += ["--data", str(world / "genome.fa"), "--tokens-per-step", "1024", "--steps", "60", "--evaluate-every", "10"]
    settings = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], **settings)
    while not (tmp_path / "killed/state.pt").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert json.loads((tmp_path / "killed/pretrain.json").read_text())["step"] < 60
    for name in ("killed", "whole"):
        subprocess.run([*command, "--out", str(tmp_path / name)], check=True, **settings)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
