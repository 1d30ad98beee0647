"""A plan: plain values, checked before anything starts, whose ids cover what can change a number and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, motif_examples

import harness
from harness import registry
from harness.errors import BadData, DataMissing, UnknownName, UserError
from harness.evidence import records
from harness.files.code import _imports
from harness.progress import Reporter
from harness.study import plan as planning
from harness.study.plan import Run, open_task, plan
from harness.study.run import execute, finished
from harness.study.trial import Trial

TINY = {"init": "random:tiny", "device": "cpu", "precision": "float32"}


def write_table(path: Path, count: int = 40, motif: str = "ACTAACT") -> Path:
    rows = [f"{example.windows[0].sequence},{example.label}\n" for example in motif_examples(count, 30, motif=motif)]
    path.write_text("sequence,label\n" + "".join(rows))
    return path


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    torch.save(registry.adapter_class("msamamba").from_checkpoint(size="tiny").state_dict(), folder / "pytorch_model.bin")
    return folder


class TestRun:
    def test_is_plain_json(self):
        for run in plan(["kmer", "msamamba"], ["QKI", "clinvar"], seed=[0, 7], epochs=3, betas=(0.5, 0.9)):
            assert Run.from_json(json.loads(json.dumps(run.to_json()))) == run
        assert run.recipe == {"epochs": 3, "betas": [0.5, 0.9]}

    def test_of_another_version_is_refused(self):
        (run,) = plan("kmer", "QKI")
        with pytest.raises(UserError, match=r"shape .*plan it again"):
            Run.from_json(run.to_json() | {"shape": 1})

    def test_is_executed_from_its_json_as_planned(self, tmp_path):
        (run,) = plan("gc", str(write_table(tmp_path / "t.csv")), device="cpu")
        record = execute(Run.from_json(run.to_json()), tmp_path / "results")
        assert record.finished
        assert record.run_id == run.id
        assert finished(run, tmp_path / "results") == record


class TestPlan:
    def test_every_model_on_every_task_with_every_seed_task_by_task(self):
        runs = plan(["floors", "kmer"], "rbp", seed=range(2))
        assert [(run.name, run.seed) for run in runs[:6]] == [(name, seed) for name in ("cnn", "gc", "kmer") for seed in (0, 1)]
        assert len({run.id for run in runs}) == len(runs) == 8 * 3 * 2
        assert list(dict.fromkeys(run.label for run in runs)) == [
            f"{name} (sample)" for name in registry.tasks() if name in TASKS
        ]

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"model": ["kmer", "kmers"]}, UnknownName, "unknown model 'kmers': did you mean kmer"),
            ({"task": ["QKI", "QKJ"]}, UnknownName, "unknown task 'QKJ'"),
            ({"task": ["QKI", "a.csv"]}, UserError, "task 'QKI' and files: give one or the other"),
            ({"task": []}, UserError, "task: give a name, a family or files"),
            ({"model": ","}, UserError, "model: give a name, floors or a path"),
            ({"seed": -1}, UserError, "seed -1: must be a whole number from 0"),
            ({"seed": "3"}, UserError, "seed '3': must be a whole number"),
            ({"seed": [0, 1.5]}, UserError, "seed 1.5: must be a whole number"),
            ({"seed": True}, UserError, "seed True: must be a whole number"),
            ({"seed": []}, UserError, "seed: give at least one"),
            ({"name": "mine"}, UserError, "name 'mine': only a task made of your own files can be named"),
            ({"split": "half"}, UnknownName, "unknown split of QKI 'half'"),
            ({"sample": False}, DataMissing, "harness data get QKI"),
            ({"genome": "hg38.fa"}, UserError, "QKI reads no genome"),
            ({"init": "zeros"}, UserError, "init 'zeros'"),
            ({"option": {"k": "7"}}, UserError, "option 'k': kmer has no options"),
            (
                {"model": "dnabert1", "init": "random", "option": {"kk": "7"}},
                UnknownName,
                "option of dnabert1 'kk': did you mean k",
            ),
            ({"device": "tpu"}, UserError, "device 'tpu'"),
            ({"epochs": 0}, UserError, "epochs 0: must be a whole number, at least 1"),
            ({"epoch": 3}, UserError, "setting 'epoch': choose one of tune, epochs"),
            ({"model": "msamamba", "checkpoint": "none.pt"}, DataMissing, "'none.pt': no such file"),
        ],
        ids=str,
    )
    def test_mistakes_are_noticed_before_anything_starts(self, arguments, error, words):
        with pytest.raises(error, match=words):
            plan(**({"model": "kmer", "task": "QKI"} | arguments))

    def test_a_setting_that_does_not_count_is_refused_or_left_out(self):
        with pytest.raises(UserError, match="learning-rate: not used by kmer, which is tuned by 'probe'; leave it out"):
            plan("kmer", "QKI", learning_rate=5.0)
        with pytest.raises(UserError, match="lora-rank: not used by cnn, which is tuned by 'full'"):
            plan("cnn", "QKI", lora_rank=2)
        kmer, cnn = plan(["kmer", "cnn"], "QKI", learning_rate=5.0)
        assert (kmer.recipe, cnn.recipe) == ({}, {"learning_rate": 5.0})
        assert kmer.id == plan("kmer", "QKI")[0].id

    def test_the_thesis_settings_for_every_model(self):
        kmer, cnn = plan(["kmer", "cnn"], "QKI", recipe="thesis", epochs=2)
        assert kmer.recipe == {}
        assert cnn.recipe == {"learning_rate": 3e-5, "patience": 3, "epochs": 2, "weight_decay": 0.01, "batch_size": 16}
        with pytest.raises(UserError, match="recipe 'these': choose thesis"):
            plan("cnn", "QKI", recipe="these")

    def test_what_is_named_twice_is_planned_once(self):
        runs = plan("gc,kmer,gc", ["QKI", "QKI", "rbp"], seed=[0, np.int64(0)])
        assert len(runs) == len({run.id for run in runs}) == 2 * 8

    def test_a_table_is_one_task_and_can_be_named(self, tmp_path):
        tables = [str(write_table(tmp_path / f"{name}.csv")) for name in ("one", "other")]
        assert [run.label for run in plan("gc", Path(tables[0]), name="mine")] == ["mine"]
        with pytest.raises(UserError, match="one table is one task; run them one by one, or join the parts of one set"):
            plan("gc", tables)
        with pytest.raises(UserError, match="name 'mine': only a task made"):
            plan("gc", ["QKI", "PTBP1"], name="mine")

    def test_means_the_same_in_every_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        template = Path(harness.__file__).parent / "check/template.py"
        (tmp_path / "mine.py").write_text(template.read_text().replace("template", "mine"))
        write_table(tmp_path / "t.csv")
        (run,) = plan("./mine.py", "t.csv", init="random:tiny", epochs=1, device="cpu")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert execute(Run.from_json(run.to_json()), tmp_path / "results").run_id == run.id

    def test_a_set_of_which_a_part_is_here_is_not_replaced_by_its_sample(self, tmp_path, monkeypatch):
        (tmp_path / "data/rbp/QKI_K562_IDR").mkdir(parents=True)
        (tmp_path / "data/rbp/QKI_K562_IDR/train.csv").write_text("sequence,label\n")
        with pytest.raises(DataMissing, match=r"only 1 of its 3 files are in .*; `harness data get QKI` fetches the rest"):
            plan("gc", "QKI")

    def test_weights_or_code_that_changed_since_are_not_used(self, tmp_path):
        table, folder = str(write_table(tmp_path / "t.csv")), write_checkpoint(tmp_path / "weights")
        template = Path(harness.__file__).parent / "check/template.py"
        model = tmp_path / "mine.py"
        model.write_text(template.read_text().replace("template", "mine"))
        (weights,) = plan("msamamba", table, checkpoint=str(folder), epochs=1, device="cpu")
        (code,) = plan(str(model), table, init="random:tiny", epochs=1, device="cpu")
        write_checkpoint(folder, seed=1)
        model.write_text(model.read_text().replace(".clamp(min=1)", ".clamp(min=2)"))
        for run, what in ((weights, "weights"), (code, "code")):
            with pytest.raises(UserError, match=f"the {what} changed since the run was planned"):
                execute(run, tmp_path / "results")
        with pytest.raises(UserError, match="the code changed"):
            execute(replace(plan("gc", table, device="cpu")[0], code=""), tmp_path / "results")
        assert not (tmp_path / "results").exists()

    def test_data_that_changed_since_is_not_used(self, tmp_path):
        (run,) = plan("gc", str(write_table(tmp_path / "t.csv")), device="cpu")
        write_table(tmp_path / "t.csv", motif="GGGGGGG")
        with pytest.raises(UserError, match="the data changed since the run was planned"):
            execute(run, tmp_path / "results")
        assert not (tmp_path / "results").exists()

    def test_a_damaged_file_is_refused_although_its_content_was_remembered(self, tmp_path):
        write_table(tmp_path / "t.csv")
        plan("gc", str(tmp_path / "t.csv"))
        (tmp_path / "t.csv").write_text("sequence,label\nACGT,1\n")
        with pytest.raises(BadData):
            plan("gc", str(tmp_path / "t.csv"))


TASKS = ("GTF2F1", "HNRNPL", "HNRNPM", "PTBP1", "ILF3", "MATR3", "KHSRP", "QKI")


class TestExecute:
    def test_a_helper_that_changed_after_it_was_imported_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        template = (Path(harness.__file__).parent / "check/template.py").read_text().replace("template", "helped")
        (tmp_path / "helped.py").write_text("from helped_by import SCALE\n" + template)
        asked = {"task": str(write_table(tmp_path / "t.csv")), "init": "random:tiny", "epochs": 1, "device": "cpu"}
        (tmp_path / "helped_by.py").write_text("SCALE = 1\n")
        (run,) = plan(str(tmp_path / "helped.py"), **asked)
        assert execute(run, tmp_path / "results").finished
        (tmp_path / "helped_by.py").write_text("SCALE = 2\n")
        with pytest.raises(UserError, match="helped_by: its code has changed since it was imported; start Python again"):
            plan(str(tmp_path / "helped.py"), **asked)

    def test_all_that_computes_is_in_the_id(self):
        """A new module of the engine goes into NUMERIC, or here with the reason why it cannot change a number."""
        harmless = {
            "engine/cache.py": "keeps what was computed, with its checksum",
            "engine/hardware.py": "what it decides, device and precision, is in the id itself",
            "evidence/records.py": "stores; its judge() only calls the metrics",
            "evidence/folders.py": "stores",
            "evidence/schema.py": "checks what is stored",
            "study/plan.py": "what it decides is in the id itself",
        }
        imported = {
            Path(file).relative_to(ROOT / "harness").as_posix()
            for name in planning.NUMERIC
            for module, file in _imports("harness." + name[:-3].replace("/", "."), ROOT / "harness" / name)
            if module.startswith(("harness.engine.", "harness.evidence.", "harness.study."))
        }
        assert imported <= {*planning.NUMERIC, *harmless}

    def test_a_finished_run_is_found_without_torch(self, harness, tmp_path):
        command = ("run", "--model", "kmer", "--task", "QKI")
        assert harness(*command, "--quiet").returncode == 0
        code = f"""
import sys
from harness.cli import main
try:
    main({command!r})
except SystemExit as stopped:
    print(stopped.code, sorted(set(sys.modules) & {{"torch", "pandas", "sklearn", "numba", "accelerate"}}))"""
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "0 []"
        assert "recorded already" in done.stderr

    def test_the_test_split_is_not_seen_while_fitting(self, tmp_path):
        class Sealed(list):
            def __getitem__(self, index):
                raise AssertionError("the test split was read")

        (run,) = plan("cnn", str(write_table(tmp_path / "t.csv")), epochs=1, **TINY)
        task, splits = open_task(run)
        trial = Trial.prepare(run, task, splits, "cpu")
        trial.splits = replace(splits, test=Sealed(splits.test))
        assert [row["epoch"] for row in trial.fit(Reporter()).history] == [1]
        with pytest.raises(AssertionError, match="the test split was read"):
            trial.score()

    def test_random_parts_of_partial_weights_are_each_seeds_own(self, tmp_path):
        """A cached probe must not depend on which seed ran before."""
        torch.manual_seed(0)
        state = registry.adapter_class("msamamba").from_checkpoint(size="tiny").state_dict()
        del state["layers.1.norm3.scale"], state["embed.weight"]
        torch.save(state, tmp_path / "part.pt")
        table = str(write_table(tmp_path / "t.csv"))
        asked = {"checkpoint": str(tmp_path / "part.pt"), "allow_partial": True, "tune": "probe", "device": "cpu"}
        first, second = plan("msamamba", table, seed=[0, 1], **asked)
        alone = execute(second, tmp_path / "alone")
        execute(first, tmp_path / "both")
        after = execute(second, tmp_path / "both")
        assert after.metrics == alone.metrics
        assert first.id != second.id

    def test_a_record_holds_the_effective_recipe_and_the_run(self, tmp_path):
        (run,) = plan("cnn", str(write_table(tmp_path / "t.csv")), epochs=1, **TINY)
        record = execute(run, tmp_path / "results")
        assert record.recipe == records.plain(asdict(registry.model_facts("cnn").recipe.override(epochs=1, precision="float32")))
        assert (record.code, record.seed, record.model["size"]) == (run.code, 0, "tiny")
        assert record.environment["device"] == "cpu"
