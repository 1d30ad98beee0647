"""Pretraining of RNA-FM and RNAErnie: what is asked for, that it learns and resumes exactly, that the very same model comes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, as_checkpoint, pretraining_batch, random_windows
from test_pretrain import Listener

from harness import registry
from harness.adapter import IGNORED
from harness.adapters import _rna, rnaernie, rnafm
from harness.adapters._rnaernie_files import LAYOUTS
from harness.data import Window
from harness.engine.pretrain import pretrain
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError
from harness.files.simulated import simulate
from harness.progress import Reporter

LAYOUT_NAMES = tuple(LAYOUTS)
# Heads of another width than published; every other setting that changes what is computed.
ODD = {"layers": 3, "width": 30, "heads": 5, "inner": 14, "positions": 50, "dropout": 0.2, "attention_dropout": 0.05}
ODD |= {"epsilon": 1e-3, "activation": "relu", "head_activation": "gelu"}
SHAPES = {"tiny": {"layers": 2, "width": 64, "heads": 4, "inner": 128}, "a layer of base": {"layers": 1}, "odd": ODD}


def rnafm_of(vocabulary: _rna.Vocabulary, changes):
    return rnafm.RNAFM(replace(rnafm.BASE, vocabulary=vocabulary.size, **changes), vocabulary, "mean")


def rnaernie_of(layout: str, changes):
    known = LAYOUTS[layout]
    shape = replace(known.base, vocabulary=known.vocabulary.size, **changes)
    model = rnaernie.RNAErnie(shape, known.vocabulary, "mean", pooler=known.pooler)
    model.family = known.families[0]
    return model


MODELS = {
    "rnafm": lambda changes: rnafm_of(rnafm.OFFICIAL, changes),
    "rnafm, port": lambda changes: rnafm_of(_rna.MULTIMOLECULE, changes),
    "rnafm, earlier port": lambda changes: rnafm_of(_rna.MULTIMOLECULE_EARLIER, changes),
    **{layout: lambda changes, layout=layout: rnaernie_of(layout, changes) for layout in LAYOUT_NAMES},
}


def train(data: Path, out: Path | None, model: str, **changes) -> Path:
    """A tiny model on windows of at most 96 nt."""
    arguments = {"init": "random:tiny", "context": 96, "steps": 4, "tokens_per_step": 768, "evaluate_every": 2, "device": "cpu"}
    settings = {"batch_size": 8, "precision": "float32"} | changes.pop("settings", {})
    return pretrain(model, data, out=out, **({"reporter": Reporter()} | arguments | {"settings": settings} | changes))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with rna.fa, RNAs of four families, and motifs.txt, the motif of each."""
    folder = tmp_path_factory.mktemp("simulated") / "world"
    simulate(folder, letters=10_000)
    return folder


class TestFolder:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("name", MODELS)
    def test_the_very_same_model_comes_back(self, name, shape, tmp_path):
        torch.manual_seed(0)
        model = MODELS[name](SHAPES[shape])
        with torch.no_grad():
            for parameter in model.parameters():  # norms and biases, too
                parameter.add_(torch.randn_like(parameter) * 0.02)
        model.eval()
        folder = as_checkpoint(model, tmp_path / "there")
        again = type(model).from_checkpoint(folder, pooling="mean").eval()
        assert again.shape == model.shape
        assert again.vocabulary.tokens == model.vocabulary.tokens
        assert (again.audit.matched, again.audit.unused) == (again.audit.expected, ())
        windows = random_windows(3, (10, 40))
        batch = pretraining_batch(model, windows, np.random.default_rng(0), "token")
        with torch.inference_mode():
            assert torch.equal(again(again.collate(windows)), model(model.collate(windows)))
            assert torch.equal(again.pretraining_logits(batch), model.pretraining_logits(batch))
        assert again.checkpoint_files() == model.checkpoint_files()
        assert set(again.objectives) == set(model.objectives)
        assert np.array_equal(again.random_ids, model.random_ids)

    def test_a_model_that_was_loaded_from_its_authors_files(self, tmp_path):
        if not SHARED.is_dir():
            pytest.skip(f"needs {SHARED}, which holds checkpoints in the authors' layouts")
        windows = random_windows(2, 40)
        for name, folder in (
            ("rnafm", "rnafm"),
            ("rnafm", "rnafm_multimolecule"),
            ("rnaernie", "rnaernie"),
            ("rnaernie", "rnaernie_multimolecule"),
        ):
            adapter = registry.adapter_class(name)
            model = adapter.from_checkpoint(SHARED / "parity" / folder / "checkpoint").eval()
            again = adapter.from_checkpoint(as_checkpoint(model, tmp_path / folder)).eval()
            assert again.pooling == model.pooling
            with torch.inference_mode():
                assert torch.equal(again(again.collate(windows)), model(model.collate(windows)))

    def test_without_its_config_it_is_refused(self, tmp_path):
        for name in ("rnafm", "paddle"):
            folder = as_checkpoint(MODELS[name](SHAPES["tiny"]), tmp_path / name)
            (folder / "config.json").unlink()
            with pytest.raises(DataMissing, match=r"config\.json that was written with it must lie beside it"):
                registry.adapter_class("rnafm" if name == "rnafm" else "rnaernie").from_checkpoint(folder)

    def test_another_model_and_another_layout_are_refused(self, tmp_path):
        folder = as_checkpoint(MODELS["paddle"](SHAPES["tiny"]), tmp_path / "paddle")
        with pytest.raises(CheckpointMismatch, match="model_type 'ernie', expected rnafm"):
            registry.adapter_class("rnafm").from_checkpoint(folder)
        with pytest.raises(CheckpointMismatch, match="pretrained in the layout paddle, not llm-eda"):
            registry.adapter_class("rnaernie").from_checkpoint(folder, layout="llm-eda")
        with pytest.raises(UserError, match=r"only for the multimolecule port, and .* is paddle, pretrained here"):
            registry.adapter_class("rnaernie").from_checkpoint(folder, transposed="yes")


class TestToken:
    @pytest.mark.parametrize("name", MODELS)
    def test_bases_are_hidden_and_nothing_else(self, name):
        model = MODELS[name](SHAPES["tiny"])
        windows = [Window("ACGTN" * 8), Window("GGNNAC")]
        before, asked = model.collate(windows)["tokens"], 0
        for seed in range(40):
            batch = pretraining_batch(model, windows, np.random.default_rng(seed), "token")
            targets, tokens = batch["targets"], batch["tokens"]
            assert set(targets[targets != IGNORED].tolist()) <= set(model.vocabulary.bases)
            assert torch.equal(tokens[targets == IGNORED], before[targets == IGNORED])
            assert torch.equal(batch["asked"], (targets != IGNORED).flatten().nonzero()[:, 0])
            asked += len(batch["asked"])
        assert 0.1 < asked / 40 / 36 < 0.2

    def test_what_a_token_may_be_replaced_by(self):
        """LLM-EDA's collator takes any token, specials included, as BERT does; the paper's code takes bases."""
        found = {name: make(SHAPES["tiny"]).random_ids.tolist() for name, make in MODELS.items()}
        assert found["rnafm"] == list(range(25))
        assert found["llm-eda"] == list(range(11))
        assert found["paddle"] == [35, 36, 37, 38]
        assert found["multimolecule"] == [6, 7, 8, 9]

    def test_logits_are_those_of_the_places_asked_for(self):
        """A base that was replaced by the padding token is read nevertheless, as by BERT, whose attention mask is older."""
        model = MODELS["llm-eda"](SHAPES["tiny"]).eval()
        batch = pretraining_batch(model, random_windows(3, (10, 40)), np.random.default_rng(0), "token")
        lengths = (batch["tokens"] != model.vocabulary.pad).sum(dim=1)
        batch["tokens"].view(-1)[batch["asked"][::2]] = model.vocabulary.pad
        with torch.inference_mode():
            read = torch.arange(batch["tokens"].shape[1]) < lengths[:, None]
            expected = model.logits(model.encoder(batch["tokens"], read))[batch["targets"] != IGNORED]
            torch.testing.assert_close(model.pretraining_logits(batch), expected)

    def test_windows_in_pieces_are_refused(self):
        model = registry.adapter_class("rnaernie").from_checkpoint(size="tiny", layout="paddle", long="chunks")
        with pytest.raises(UserError, match="context: rnaernie is pretrained on windows in one piece, of at most 511 nt"):
            pretraining_batch(model, random_windows(1, 600), np.random.default_rng(0), "token")

    def test_without_a_head_there_is_no_objective(self):
        assert rnafm.RNAFM(replace(rnafm.BASE, **SHAPES["tiny"]), rnafm.OFFICIAL, "mean", language_head=False).objectives == {}


@pytest.mark.slow
def test_motif_learns_the_bases_and_the_types(world, tmp_path):
    """Members of a family of RNAs are alike, and each family is a type."""
    folder = train(
        world / "rna.fa",
        tmp_path / "out",
        "rnaernie",
        options={"motifs": str(world / "motifs.txt")},
        context=200,
        tokens_per_step=3200,
        steps=60,
        evaluate_every=60,
        settings={"learning_rate": 3e-3, "batch_size": 16, "warmup": 0.1},
    )
    record = json.loads((folder / "pretrain.json").read_text())
    assert record["settings"]["options"] == {"layout": "paddle"}, "no other vocabulary has types"
    assert record["objective"]["records_with_type"] == 600
    assert record["scores"]["validation_loss"] < record["scores"]["yardstick_loss"] - 0.02
    assert record["scores"]["validation_accuracy"] > record["scores"]["yardstick_accuracy"]


@pytest.mark.usefixtures("quick_pretraining")
class TestRun:
    def test_what_is_left_out_is_said(self, world, tmp_path):
        motifs = tmp_path / "motifs.txt"
        motifs.write_text("ACUAAC\nnothing\n")
        listener = Listener()
        options = {"motifs": str(motifs)}
        train(world / "genome.fa", tmp_path / "out", "rnaernie", options=options, reporter=listener, steps=1)
        said = "\n".join(listener.said)
        assert "motifs.txt: 1 of 2 motifs are left out: 5 letters clash with ACGU and T (HINO)" in said
        assert "genome.fa: 3 of 3 records have no type that the model knows; it is not asked for" in said

    def test_motifs_longer_than_what_is_hidden_of_a_window(self, world, tmp_path):
        motifs, listener = tmp_path / "motifs.txt", Listener()
        motifs.write_text("ACUAAC\n" + "ACGU" * 20 + "\n")
        train(world / "rna.fa", tmp_path / "out", "rnaernie", options={"motifs": str(motifs)}, reporter=listener, steps=1)
        assert "1 of 2 motifs are never hidden: they are longer than" in "\n".join(listener.said)
        motifs.write_text("ACGU" * 20 + "\n")
        with pytest.raises(BadData, match=r"of 1 motifs none fits into .* give shorter ones, or a longer --context"):
            train(world / "rna.fa", tmp_path / "new", "rnaernie", options={"motifs": str(motifs)})

    def test_a_changed_motif_file_is_another_run(self, world, tmp_path):
        motifs = tmp_path / "motifs.txt"
        motifs.write_text("ACUAAC\n")
        train(world / "rna.fa", tmp_path / "out", "rnaernie", options={"motifs": str(motifs)})
        motifs.write_text("ACUAAG\n")
        with pytest.raises(UserError, match=r"holds another run .*objective_facts"):
            train(world / "rna.fa", tmp_path / "out", "rnaernie", options={"motifs": str(motifs)})
        with pytest.raises(UserError, match=r"holds another run .*objective motif there, token here"):
            train(world / "rna.fa", tmp_path / "out", "rnaernie", objective="token")

    def test_another_spelling_of_a_path_is_the_same_run(self, world, tmp_path, monkeypatch):
        monkeypatch.chdir(world)
        listener = Listener()
        for motifs in ("motifs.txt", str(world / "motifs.txt")):
            train(world / "rna.fa", tmp_path / "out", "rnaernie", options={"motifs": motifs}, reporter=listener)
        assert "holds this very run, finished" in "\n".join(listener.said)

    def test_starting_over_with_another_model_leaves_none_of_the_earlier_ones_files(self, world, tmp_path):
        for out, model in (("out", "dnabert1"), ("out", "rnafm"), ("new", "rnafm")):
            train(world / "genome.fa", tmp_path / out, model, force=True, steps=1)
        names = [sorted(path.name for path in (tmp_path / out).iterdir()) for out in ("out", "new")]
        assert names[0] == names[1]

    def test_records_of_other_types_are_another_run(self, world, tmp_path):
        rna, options = tmp_path / "rna.fa", {"motifs": str(world / "motifs.txt")}
        rna.write_text((world / "rna.fa").read_text())
        train(rna, tmp_path / "out", "rnaernie", options=options)
        rna.write_text(rna.read_text().replace(" miRNA\n", " tRNA\n"))
        with pytest.raises(UserError, match="holds another run"):
            train(rna, tmp_path / "out", "rnaernie", options=options)

    def test_the_layout_is_chosen_for_the_objective_at_random_initialisation_alone(self, world, tmp_path):
        with pytest.raises(UserError, match="no tokens for types of RNA"):
            train(world / "rna.fa", None, "rnaernie", options={"motifs": "x", "layout": "llm-eda"})
        folder = as_checkpoint(MODELS["llm-eda"](SHAPES["tiny"]), tmp_path / "eda")
        with pytest.raises(UserError, match="no tokens for types of RNA"):
            train(world / "rna.fa", None, "rnaernie", options={"motifs": "x"}, init=None, checkpoint=str(folder))
        train(world / "rna.fa", tmp_path / "out", "rnaernie", objective="token", init=None, checkpoint=str(folder), steps=1)
