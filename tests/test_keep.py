"""What a run keeps of its model: the same answers to the last bit, as a checkpoint of another run, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import motif_examples, planned_run, variant_examples
from made_kinds import multilabel_task, regression_task
from safetensors.torch import load_file, save_file

import harness
from harness.data import Example
from harness.engine import keep
from harness.engine.build import request
from harness.errors import BadData, CheckpointMismatch, DataMissing, UserError
from harness.evidence.records import read_predictions
from harness.evidence.verify import verify
from harness.inference.trained import load_run, run_folders_of
from harness.study.plan import Run, sealed
from harness.study.run import execute, finished
from harness.task import Splits, Task


@pytest.fixture
def task() -> tuple[Task, Splits]:
    examples = motif_examples(90)
    splits = Splits(examples[:60], examples[60:75], examples[75:], {"made": "0" * 64})
    made = Task("made", "made", "is the motif planted?", ("no", "yes"), lambda rule: splits, ("drawn",))
    return made, splits


def folder_of(run, results, opened):
    record = execute(run, results, opened=opened)
    assert record.finished, record.error
    return results / record.folder


def answers(folder, splits):
    return load_run(folder, device="cpu").outputs(splits.test), read_predictions(folder).outputs


WAYS = [
    ("cnn", {"epochs": 2}),
    ("kmer", {}),
    ("dnabert1", {"tune": "lora", "epochs": 1}),
    ("dnabert1", {"tune": "probe"}),
    ("dnabert1", {"epochs": 1, "head": "tanh"}),
    ("caduceus", {"tune": "lora", "epochs": 1}),
    ("msamamba", {"epochs": 1}),
]


@pytest.mark.parametrize(
    ("model", "settings"), WAYS, ids=lambda it: it if isinstance(it, str) else "-".join(map(str, it.values()))
)
def test_answers_are_those_of_the_run_to_the_last_bit(model, settings, task, tmp_path):
    folder = folder_of(planned_run(model, *task, **settings), tmp_path, task)
    found, recorded = answers(folder, task[1])
    assert np.array_equal(found, recorded)
    assert not verify(tmp_path).problems


def test_of_a_run_from_a_checkpoint_only_what_was_trained_is_kept(task, tmp_path):
    """Its own weights lie where they lay, and must be the same still."""
    first = folder_of(planned_run("dnabert1", *task, epochs=1), tmp_path, task)
    run = planned_run("dnabert1", *task, tune="lora", epochs=1, learning_rate=0.01)
    run = sealed(replace(run, checkpoint=str(first)), task[0])
    second = folder_of(run, tmp_path, task)
    names = set(load_file(second / keep.WEIGHTS))
    assert any("lora_" in name for name in names)
    assert all("lora_" in name or name.startswith("head.") for name in names)
    assert np.array_equal(*answers(second, task[1]))
    moved = tmp_path / "moved"
    shutil.move(first, moved)
    with pytest.raises(DataMissing, match="which is not here; give its place with --checkpoint"):
        load_run(second)
    assert np.array_equal(
        load_run(second, checkpoint=moved, device="cpu").outputs(task[1].test), read_predictions(second).outputs
    )
    tensors = load_file(moved / keep.WEIGHTS)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, moved / keep.WEIGHTS)
    with pytest.raises(CheckpointMismatch, match="whose content is another one"):
        load_run(second, checkpoint=moved)


@pytest.mark.parametrize("made", [regression_task, multilabel_task])
def test_other_kinds_of_task(made, tmp_path):
    opened = made()
    folder = folder_of(planned_run("cnn", *opened, epochs=1), tmp_path, opened)
    found, recorded = answers(folder, opened[1])
    assert np.array_equal(np.squeeze(found), np.squeeze(recorded))


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_run_as_checkpoint_begins_where_it_ended(tune, task, tmp_path):
    """With its head, a probe's embeddings aside, the model answers as the run did: merged LoRA parts included."""
    folder = folder_of(planned_run("dnabert1", *task, tune=tune, epochs=1, learning_rate=0.01), tmp_path, task)
    asked = request("dnabert1", checkpoint=str(folder))
    again, trained = asked.build().eval(), load_run(folder, device="cpu")
    windows = [example.windows[0] for example in task[1].test]
    with torch.inference_mode():
        ours, theirs = (it(it.collate(windows)) for it in (again, trained.adapter))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not any("lora" in name for name in again.state_dict())
    fresh = harness.load_model("dnabert1", init="random:tiny")
    frozen = {name for name, item in fresh.named_parameters() if not item.requires_grad}
    assert {name for name, item in again.named_parameters() if not item.requires_grad} == frozen
    assert again.audit is not None
    assert "trained before, by dnabert1 on made, seed 0" in again.audit.warnings[-1]


def test_the_head_is_reused_if_asked_for(task, tmp_path):
    folder = folder_of(planned_run("dnabert1", *task, epochs=3, learning_rate=0.01), tmp_path, task)
    plain = planned_run("dnabert1", *task, epochs=1, learning_rate=1e-9)
    new, same = (sealed(replace(plain, checkpoint=str(folder), reuse_head=reuse), task[0]) for reuse in (False, True))
    assert new.id != same.id
    outputs = [read_predictions(folder_of(run, tmp_path, task)).outputs for run in (new, same)]
    before = read_predictions(folder).outputs
    assert np.allclose(outputs[1], before, atol=1e-4)
    assert not np.allclose(outputs[0], before, atol=1e-2)
    with pytest.raises(UserError, match="reuse-head: the checkpoint is not the folder of a run"):
        execute(replace(plain, reuse_head=True), tmp_path, opened=task)


def test_a_run_is_known_by_its_weights_and_by_the_folder_of_its_model(task, tmp_path):
    run = planned_run("cnn", *task, epochs=1)
    folder = folder_of(run, tmp_path, task)
    for path in (folder / keep.WEIGHTS, folder.parent):
        assert request("cnn", checkpoint=str(path)).checkpoint == str(folder)
    folder_of(replace(run, seed=1), tmp_path, task)
    with pytest.raises(DataMissing, match=r"holds 2 runs \(seed0-.*give the folder of one"):
        request("cnn", checkpoint=str(folder.parent))


def test_the_id_goes_by_what_was_trained_and_not_by_the_path(task, tmp_path):
    folder = folder_of(planned_run("cnn", *task, epochs=1), tmp_path, task)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    (copy / "record.json").write_text("{}")
    here, there = (request("cnn", checkpoint=str(it)).fingerprint() for it in (folder, copy))
    assert here == there
    tensors = load_file(copy / keep.WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, copy / keep.WEIGHTS)
    assert request("cnn", checkpoint=str(copy)).fingerprint() != here


class TestSize:
    def test_large_models_are_kept_if_asked_for(self, task, tmp_path, monkeypatch):
        monkeypatch.setattr(keep, "SMALL", 1000)
        run = planned_run("cnn", *task, epochs=1)
        folder = folder_of(run, tmp_path, task)
        assert not (folder / keep.WEIGHTS).exists()
        with pytest.raises(DataMissing, match=r"its weights were not kept.*run again with --keep"):
            load_run(folder)
        with pytest.raises(DataMissing, match="weights were not kept"):
            request("cnn", checkpoint=str(folder))
        assert finished(run, tmp_path) is not None
        wanted = replace(run, keep=True)
        assert wanted.id == run.id
        assert finished(wanted, tmp_path) is None  # recorded, but not kept
        assert np.array_equal(*answers(folder_of(wanted, tmp_path, task), task[1]))
        assert finished(run, tmp_path) == finished(wanted, tmp_path)

    def test_heads_are_kept_however_large_the_model(self, task, tmp_path, monkeypatch):
        """Random weights that are not kept are drawn again."""
        monkeypatch.setattr(keep, "SMALL", 1000)
        folder = folder_of(planned_run("dnabert1", *task, tune="probe"), tmp_path, task)
        assert set(load_file(folder / keep.WEIGHTS)) == {"head.1.weight", "head.1.bias"}
        assert np.array_equal(*answers(folder, task[1]))


class TestRefused:
    @pytest.fixture
    def folder(self, task, tmp_path):
        return folder_of(planned_run("cnn", *task, epochs=1), tmp_path, task)

    @pytest.mark.parametrize(
        ("damage", "error", "message"),
        [
            (lambda it: (it / "run.json").unlink(), DataMissing, "has no run.json"),
            (lambda it: shutil.rmtree(it), DataMissing, "no such folder"),
            (lambda it: (it / "model.safetensors").unlink(), DataMissing, "it was deleted since the run"),
            (lambda it: (it / "model.safetensors").write_bytes(b"abc"), BadData, "cannot be read as weights"),
            (lambda it: (it / "run.json").write_text("["), BadData, "cannot be read"),
            (lambda it: edit(it, format=2), BadData, "has format '2', and this version reads 1; use the version that wrote it"),
            (lambda it: edit(it, more=1), BadData, "cannot be read"),
            (lambda it: edit(it, lengths=[1, 2, 3]), BadData, "cannot be read"),
            (lambda it: edit(it, kept="some"), BadData, "cannot be read"),
            (lambda it: edit(it, classes=["a", "b", "c"]), CheckpointMismatch, "is not what this run trained"),
            (lambda it: edit(it, run={"model": "cnn"}), BadData, "run.json"),
            (lambda it: drop(it, "head.1.bias"), CheckpointMismatch, "1 are missing, such as head.1.bias"),
        ],
        ids=[
            "no plan",
            "nothing",
            "no weights",
            "weights damaged",
            "plan damaged",
            "newer",
            "odd",
            "lengths",
            "kept",
            "classes",
            "run",
            "tensor",
        ],
    )
    def test_folders(self, folder, damage, error, message):
        damage(folder)
        with pytest.raises(error, match=message):
            load_run(folder)

    def test_edited_weights_are_a_problem_and_deleted_ones_are_not(self, folder, tmp_path):
        (folder / keep.WEIGHTS).unlink()
        assert not verify(tmp_path).problems
        (folder / keep.WEIGHTS).write_bytes(b"other")
        (problem,) = verify(tmp_path).problems
        assert problem.path.name == keep.WEIGHTS
        assert "not the file that was written with the record" in problem.what

    def test_as_a_checkpoint_of_another_model(self, folder):
        with pytest.raises(CheckpointMismatch, match="is a run of cnn, not of kmer"):
            request("kmer", checkpoint=str(folder))

    def test_sequences(self, folder):
        trained = load_run(folder)
        assert trained.predict([]).shape == (0, 2)
        assert np.array_equal(trained.predict(["acgu" * 9]), trained.predict(["ACGT" * 9]))
        with pytest.raises(BadData, match="sequence 1: letters '!'"):
            trained.predict(["ACGT", "AC!"])
        with pytest.raises(UserError, match="trained on single sequences"):
            trained.predict([("ACGT", "ACGA")])
        with pytest.raises(UserError, match="one alone; give a list"):
            trained.predict("ACGT")

    def test_files_that_changed_since_the_run_are_said(self, folder):
        assert load_run(folder).notes == []
        edit(folder, run=keep.read(folder).run | {"origin": "0" * 64})
        assert "have changed since the run" in load_run(folder).notes[0]

    def test_longer_than_the_model(self, task, tmp_path):
        folder = folder_of(planned_run("dnabert1", *task, tune="probe"), tmp_path, task)
        trained = load_run(folder)
        trained.adapter.max_length = 100
        with pytest.raises(UserError, match="sequence 0: 200 nt, but dnabert1 takes at most 100"):
            trained.predict(["ACGT" * 50])


def edit(folder, **changed):
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(content | changed))


def drop(folder, name):
    tensors = load_file(folder / keep.WEIGHTS)
    del tensors[name]
    save_file(tensors, folder / keep.WEIGHTS)


def test_runs_of_one_model_that_differ_in_the_seed(task, tmp_path):
    run = planned_run("cnn", *task, epochs=1)
    folders = {folder_of(replace(run, seed=seed), tmp_path, task) for seed in (0, 1)}
    model = next(iter(folders)).parent
    assert set(run_folders_of(model)) == folders
    assert run_folders_of(min(folders)) == [min(folders)]
    folder_of(planned_run("cnn", *task, epochs=2), tmp_path, task)
    with pytest.raises(UserError, match="differ in more than the seed; name one of them"):
        run_folders_of(model)
    with pytest.raises(DataMissing, match="nor of a model with runs"):
        run_folders_of(tmp_path)


def test_plans_travel_as_json(task):
    run = replace(planned_run("cnn", *task), keep=True)
    assert Run.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_zero_shot_runs_train_nothing_and_can_be_asked_all_the_same(tmp_path):
    made = variant_examples(60)
    splits = Splits(made[:40], made[40:50], made[50:], {"made": "0" * 64})
    opened = (Task("made", "made", "?", ("benign", "pathogenic"), lambda rule: splits, ("drawn",)), splits)
    folder = folder_of(planned_run("msamamba", *opened, tune="zero"), tmp_path, opened)
    assert not load_file(folder / keep.WEIGHTS)
    assert np.array_equal(*answers(folder, splits))
    with pytest.raises(DataMissing, match="has no head"):
        keep.head_of(folder)


def test_examples_of_two_windows(tmp_path):
    made = motif_examples(60)
    pairs = [Example(it.id, (it.windows[0], other.windows[0]), it.label) for it, other in zip(made, made[::-1])]
    splits = Splits(pairs[:40], pairs[40:50], pairs[50:], {"made": "0" * 64})
    opened = (Task("pairs", "made", "?", ("no", "yes"), lambda rule: splits, ("drawn",)), splits)
    folder = folder_of(planned_run("cnn", *opened, epochs=1), tmp_path, opened)
    assert np.array_equal(*answers(folder, splits))
    with pytest.raises(UserError, match="pairs of sequences, reference and alternate; give pairs"):
        load_run(folder).predict(["ACGT"])
