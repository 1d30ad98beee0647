"""Pretraining: which windows are drawn, the column vote, that a run learns, resumes exactly, and refuses what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from made_genomes import Interrupted, curve
from safetensors.torch import load_file

from harness import registry
from harness.adapter import IGNORED
from harness.engine.corpus import Corpus, Validation
from harness.engine.pretrain import pretrain
from harness.engine.pretrain_folder import held
from harness.errors import BadData, RunFailed, UserError
from harness.files.alignments import open_alignment
from harness.files.sequences import Columns
from harness.progress import Reporter

BASES = np.frombuffer(b"ACGT", np.uint8)
GAP, UNKNOWN = ord("-"), ord("N")


def write_alignment(folder: Path, rows: np.ndarray, start: int = 1000) -> Path:
    """An aligned FASTA file of chr1 from ``start``, uint8 (rows, length)."""
    folder.mkdir(exist_ok=True)
    path = folder / f"rows.chr1_{start}_{start + rows.shape[1]}.fa"
    path.write_text("".join(f">s{number}\n{row.tobytes().decode()}\n" for number, row in enumerate(rows)))
    return path


def noisy_copies(rows: int = 4, length: int = 1600, noise: float = 0.2, seed: int = 0) -> np.ndarray:
    """A random target, and rows in which a share of its letters is replaced by letters or gaps."""
    rng = np.random.default_rng(seed)
    letters = np.tile(rng.choice(BASES, length), (rows, 1))
    changed = rng.random(letters.shape) < noise
    changed[0] = False
    letters[changed] = rng.choice(np.append(BASES, GAP), changed.sum())
    return letters


@pytest.fixture
def msa(tmp_path) -> Path:
    return write_alignment(tmp_path / "msa", noisy_copies())


class Listener(Reporter):
    """Keeps what is said and concluded."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.concluded: list[str] = []

    def say(self, message):
        self.said.append(message)

    def conclude(self, text):
        self.concluded.append(text)


def train(msa: Path, out: Path | None, **changes) -> Path:
    """Four steps of four windows of 16 nt, a tiny model."""
    arguments = {
        "model": "msamamba",
        "init": "random:tiny",
        "context": 16,
        "steps": 4,
        "tokens_per_step": 64,
        "evaluate_every": 2,
        "device": "cpu",
        "reporter": Reporter(),
    }
    settings = {"batch_size": 2, "precision": "float32"} | changes.pop("settings", {})
    return pretrain(**(arguments | {"msa": msa, "out": out, "settings": settings} | changes))


def columns(path: Path) -> Columns:
    return Columns(open_alignment(path))


def validation(adapter, corpus: Corpus, count: int, batch_size: int) -> Validation:
    return Validation(adapter, adapter.objectives["token"](), corpus, count, batch_size)


class TestCorpus:
    @pytest.mark.parametrize("context", [16, 100, 512])
    def test_training_never_touches_what_is_held_out(self, tmp_path, context):
        length = 5000
        corpus = Corpus(columns(write_alignment(tmp_path, noisy_copies(2, length))), context)
        seen = np.zeros(length, bool)
        for window in corpus.draw(np.random.default_rng(0), 3000):
            seen[window.locus.start - 1000 : window.locus.end - 1000] = True
        held_out = np.zeros(length, bool)
        windows = corpus.held_out(1000)
        for window in windows:
            held_out[window.locus.start - 1000 : window.locus.end - 1000] = True
        assert not (seen & held_out).any()
        assert held_out.sum() == len(windows) * context, "validation windows overlap"
        assert 0.03 < held_out.mean() < 0.2
        assert seen.mean() > 0.7
        assert corpus.letters >= seen.sum()

    def test_every_place_is_as_likely(self, tmp_path):
        corpus = Corpus(columns(write_alignment(tmp_path, noisy_copies(2, 200))), 4)
        starts = Counter(window.locus.start for window in corpus.draw(np.random.default_rng(0), 20_000))
        expected = 20_000 / len(starts)
        assert all(abs(count - expected) < 6 * expected**0.5 for count in starts.values())

    def test_windows_of_an_unknown_target_are_drawn_again_and_counted(self, tmp_path):
        rows = noisy_copies(3, 2000)
        rows[0, 500:1500] = UNKNOWN
        corpus = Corpus(columns(write_alignment(tmp_path, rows)), 20)
        windows = corpus.draw(np.random.default_rng(0), 300)
        assert min(sum(letter != "N" for letter in window.sequence) for window in windows) >= 10
        assert corpus.skipped == pytest.approx(300, rel=0.3)

    def test_nothing_known_at_all(self, tmp_path):
        rows = noisy_copies(3, 400)
        rows[0] = UNKNOWN
        corpus = Corpus(columns(write_alignment(tmp_path, rows)), 20)
        with pytest.raises(BadData, match="less than half of row 0"):
            corpus.draw(np.random.default_rng(0), 1)
        with pytest.raises(BadData, match="that is held out, less than half of row 0"):
            corpus.held_out(1)


class TestVote:
    def judged(self, folder: Path, rows: np.ndarray) -> Validation:
        adapter = registry.adapter_class("msamamba").from_checkpoint(size="tiny")
        return validation(adapter, Corpus(columns(write_alignment(folder, rows)), 50), count=40, batch_size=3)

    def test_copies_are_always_right(self, tmp_path):
        assert self.judged(tmp_path, noisy_copies(noise=0)).yardstick_accuracy == 1

    def test_the_majority_of_a_column_wins_and_gaps_do_not_vote(self, tmp_path):
        rows = np.tile(noisy_copies(1, 5000), (6, 1))
        rows[1] = BASES[(np.searchsorted(BASES, rows[0]) + 1) % 4]  # one vote against two
        rows[4:] = GAP
        assert self.judged(tmp_path, rows).yardstick_accuracy == 1

    def test_without_bases_the_most_common_one_of_the_target(self, tmp_path):
        rows = np.full((3, 5000), GAP)
        rows[0] = np.random.default_rng(0).choice(BASES, 5000, p=[0.2, 0.1, 0.6, 0.1])
        judged = self.judged(tmp_path, rows.astype(np.uint8))
        assert judged.targets == pytest.approx(0.15 * 50 * judged.windows, rel=0.3)
        assert judged.yardstick_accuracy == pytest.approx(0.6, abs=0.15)

    def test_a_tie_goes_to_the_base_that_is_more_common_in_the_target(self, tmp_path):
        target = np.random.default_rng(0).choice(BASES, 5000, p=[0.1, 0.1, 0.1, 0.7])
        rows = np.array([target, np.full(5000, ord("A")), np.full(5000, ord("T"))], np.uint8)
        alone = np.array([target, np.full(5000, ord("T"))], np.uint8)
        assert self.judged(tmp_path / "a", rows).yardstick_accuracy == self.judged(tmp_path / "b", alone).yardstick_accuracy > 0.5


class TestRun:
    def test_it_learns_to_read_the_columns(self, msa, tmp_path):
        """Three noisy copies tell what is hidden: chance is a quarter, the vote about 0.95."""
        folder = train(
            msa,
            tmp_path / "out",
            steps=40,
            evaluate_every=40,
            context=8,
            tokens_per_step=128,
            settings={"learning_rate": 1e-2, "batch_size": 16},
        )
        losses = [float(row["train_loss"]) for row in curve(folder)]
        assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
        scores = json.loads((folder / "pretrain.json").read_text())["scores"]
        assert scores["validation_accuracy"] > 0.8

    def test_the_folder(self, msa, tmp_path):
        folder = train(msa, tmp_path / "out")
        assert sorted(path.name for path in folder.iterdir()) == ["loss.csv", "loss.png", "model.safetensors", "pretrain.json"]
        assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
        rows = curve(folder)
        assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
        assert [bool(row["validation_loss"]) for row in rows] == [False, True] * 2
        record = json.loads((folder / "pretrain.json").read_text())
        assert record["step"] == 4
        assert record["scores"]["validation_accuracy"] == float(rows[-1]["validation_accuracy"])
        assert record["settings"]["species"] == ["s0", "s1", "s2", "s3"]
        assert record["settings"]["betas"] == [0.9, 0.95]
        loaded = registry.adapter_class("msamamba").from_checkpoint(folder)
        assert loaded.audit.matched == loaded.audit.expected == len(load_file(folder / "model.safetensors"))
        assert all(
            torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in load_file(folder / "model.safetensors").items()
        )

    def test_every_weight_is_trained(self, msa, tmp_path):
        """The language head too, which an adapter freezes for fine-tuning."""
        folder = train(msa, tmp_path / "out", seed=3)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            fresh = registry.adapter_class("msamamba").from_checkpoint(size="tiny").state_dict()
        unmoved = {name for name, tensor in load_file(folder / "model.safetensors").items() if torch.equal(tensor, fresh[name])}
        assert not unmoved

    def test_a_step_is_the_same_in_any_batches(self, msa, tmp_path):
        losses = []
        for size in (1, 4):
            folder = train(msa, tmp_path / str(size), options={"mask_rows": "0"}, settings={"batch_size": size})
            losses.append([float(row["train_loss"]) for row in curve(folder)])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    def test_starting_from_a_checkpoint(self, msa, tmp_path):
        first = train(msa, tmp_path / "first")
        second = train(msa, tmp_path / "second", init=None, checkpoint=str(first), steps=2, settings={"learning_rate": 1e-12})
        before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)

    def test_one_row_alone(self, tmp_path):
        folder = train(write_alignment(tmp_path / "msa", noisy_copies(rows=1)), tmp_path / "out")
        assert json.loads((folder / "pretrain.json").read_text())["data"]["rows"] == 1

    def test_divergence_is_an_error_that_says_what_to_do(self, msa, tmp_path):
        with pytest.raises(RunFailed, match="lower --learning-rate"):
            train(msa, tmp_path / "out", settings={"learning_rate": 1e30})


@pytest.mark.usefixtures("quick_pretraining")
class TestResume:
    @pytest.mark.parametrize("stop", [1, 3])
    def test_a_resumed_run_ends_with_the_same_bits(self, msa, tmp_path, stop):
        whole = train(msa, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(msa, tmp_path / "cut", reporter=Interrupted(stop))
        assert (tmp_path / "cut/state.pt").exists() == (stop > 1)
        torch.manual_seed(99)  # the state a process happens to have does not matter
        cut = train(msa, tmp_path / "cut")
        assert curve(cut) == curve(whole)
        expected, found = (load_file(folder / "model.safetensors") for folder in (whole, cut))
        assert all(torch.equal(expected[name], found[name]) for name in expected)
        assert not (cut / "state.pt").exists()

    def test_the_callers_random_state_is_left_alone(self, msa, tmp_path):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        train(msa, tmp_path / "out", steps=2)
        assert torch.equal(before, torch.get_rng_state())

    def test_a_finished_run_is_left_as_it_is(self, msa, tmp_path):
        first_time, second_time = Listener(), Listener()
        folder = train(msa, tmp_path / "out", reporter=first_time)
        first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        train(msa, folder, reporter=second_time)
        assert "--force" in second_time.said[-1]
        assert second_time.concluded == first_time.concluded != []
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == first
        train(msa, folder, force=True, steps=1)
        assert len(curve(folder)) == 1

    def test_the_same_command_finds_its_folder(self, msa, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        first = train(msa, None, steps=2)
        assert train(msa, None, steps=2) == first
        assert train(msa, None, steps=2, seed=1) != first

    def test_another_run_is_refused_by_what_differs(self, msa, tmp_path):
        folder = train(msa, tmp_path / "out")
        for change, words in (
            ({"steps": 7}, "steps 4 there, 7 here"),
            ({"seed": 1}, "seed 0 there, 1 here"),
            ({"options": {"mask_rows": "0"}}, "options"),
            ({"species": "s1,s2"}, "species"),
            ({"settings": {"learning_rate": 1e-3}}, r"learning_rate 3e-05 there"),
        ):
            with pytest.raises(UserError, match=words):
                train(msa, folder, **change)

    def test_remains_of_a_killed_write_are_cleared(self, msa, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(msa, tmp_path / "out", reporter=Interrupted(3))
        (tmp_path / "out/.state.pt.0123abcd.tmp").write_bytes(b"half a file")
        assert not [path.name for path in train(msa, tmp_path / "out").iterdir() if path.name.startswith(".")]

    def test_a_change_of_the_code_between_the_parts_is_recorded(self, msa, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(msa, tmp_path / "out", reporter=Interrupted(3))
        record = json.loads((tmp_path / "out/pretrain.json").read_text())
        assert record["events"] == []
        (tmp_path / "out/pretrain.json").write_text(json.dumps(record | {"code": "another version's"}))
        (event,) = json.loads((train(msa, tmp_path / "out") / "pretrain.json").read_text())["events"]
        assert event.startswith("the code changed after step 2")

    def test_a_damaged_state(self, msa, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            train(msa, tmp_path / "out", reporter=Interrupted(3))
        (tmp_path / "out/state.pt").write_bytes(b"damaged")
        with pytest.raises(BadData, match=r"state\.pt.*--force"):
            train(msa, tmp_path / "out")


@pytest.mark.usefixtures("quick_pretraining")
class TestRefused:
    def test_a_folder_in_which_another_process_is_pretraining(self, msa, tmp_path):
        with (
            held(tmp_path / "out"),
            pytest.raises(UserError, match=r"another process is pretraining there; choose another --out"),
        ):
            train(msa, tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []
        train(msa, tmp_path / "out")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"context": 801, "tokens_per_step": 801}, "choose --context 800 or less"),
            ({"context": 0}, "context 0: must be at least 1"),
            ({"steps": 0}, "steps 0"),
            ({"seed": -1}, "seed -1"),
            ({"tokens_per_step": 15}, "tokens-per-step 15: must be at least 16"),
            ({"model": "cnn"}, "cannot be pretrained.*gpn_msa.*msamamba"),
            ({"options": {"rows": "3"}}, "unknown option of msamamba"),
            ({"checkpoint": "somewhere"}, "choose one of them"),
            ({"species": "dog"}, "'dog': not in"),
        ],
    )
    def test_settings(self, msa, tmp_path, change, words):
        with pytest.raises(UserError, match=words):
            train(msa, tmp_path / "out", **change)
        assert not (tmp_path / "out").exists()

    def test_a_context_longer_than_the_model_reads(self, tmp_path):
        msa = write_alignment(tmp_path / "msa", noisy_copies(2, 4000))
        with pytest.raises(UserError, match="gpn_msa takes at most 1536"):
            train(msa, tmp_path / "out", model="gpn_msa", objective="token", context=1600, tokens_per_step=1600)

    def test_an_alignment_that_is_none(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(BadData, match="expected an alignment"):
            train(tmp_path / "notes.txt", tmp_path / "out")

    def test_a_folder_of_something_else(self, msa, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/model.safetensors").write_text("precious")
        for force in (False, True):
            with pytest.raises(UserError, match="--out"):
                train(msa, tmp_path / "out", force=force)
        assert (tmp_path / "out/model.safetensors").read_text() == "precious"

    def test_a_place_that_cannot_be_written(self, msa, tmp_path):
        (tmp_path / "file").write_text("")
        for out in (tmp_path / "file", tmp_path / "file/out"):
            with pytest.raises(UserError, match=r"out .*file.* cannot be written .*--out"):
                train(msa, out)


def test_command_line(msa, tmp_path):
    small = ("--init", "random:tiny", "--context", "16", "--tokens-per-step", "64", "--steps", "2", "--out", "here")
    plain = ("--model", "gpn-msa", "--objective", "token")
    command = [sys.executable, "-m", "harness", "pretrain", *plain, "--msa", str(msa), *small]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "held out" in done.stderr
    assert "the column vote" in done.stdout
    assert "harness run --model gpn_msa --checkpoint here" in done.stdout


def test_targets_are_bases_of_the_target_row(msa):
    """What the corruption hides is what the window holds, so that model and vote are judged on the same."""
    adapter = registry.adapter_class("msamamba").from_checkpoint(size="tiny")
    corpus = Corpus(columns(msa), 16)
    (batch,) = validation(adapter, corpus, count=4, batch_size=4).batches
    for window, targets in zip(corpus.held_out(4), batch["targets"].tolist(), strict=True):
        assert all(
            target == IGNORED or "-ACGT?"[target] == letter for letter, target in zip(window.sequence, targets, strict=True)
        )
