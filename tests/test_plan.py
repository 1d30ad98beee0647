"""A plan: plain values, checked before anything starts, whose ids cover what can change a number and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, motif_examples

import harness
from harness import registry
from harness.errors import BadData, DataMissing, UnknownName, UserError
from harness.evidence import records
from harness.progress import Reporter
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
            ({"task": []}, UserError, "give a name"),
            ({"seed": -1}, UserError, "seed -1: must be a whole number from 0"),
            ({"split": "half"}, UnknownName, "unknown split of QKI 'half'"),
            ({"sample": False}, DataMissing, "harness data get QKI"),
            ({"genome": "hg38.fa"}, UserError, "QKI reads no genome"),
            ({"init": "zeros"}, UserError, "init 'zeros'"),
            ({"option": {"k": "7"}}, UnknownName, "unknown option of kmer 'k'"),
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

    def test_data_that_changed_since_is_not_used(self, tmp_path):
        (run,) = plan("gc", str(write_table(tmp_path / "t.csv")), device="cpu")
        write_table(tmp_path / "t.csv", motif="GGGGGGG")
        with pytest.raises(UserError, match="has changed since the run was planned"):
            execute(run, tmp_path / "results")
        assert not (tmp_path / "results").exists()

    def test_a_damaged_file_is_refused_although_its_content_was_remembered(self, tmp_path):
        write_table(tmp_path / "t.csv")
        plan("gc", str(tmp_path / "t.csv"))
        (tmp_path / "t.csv").write_text("sequence,label\nACGT,1\n")
        with pytest.raises(BadData):
            plan("gc", str(tmp_path / "t.csv"))


TASKS = ("GTF2F1", "HNRNPL", "HNRNPM", "PTBP1", "ILF3", "MATR3", "KHSRP", "QKI")


class TestId:
    def test_differs_with_all_that_determines_a_result(self, tmp_path):
        one, other = write_table(tmp_path / "one.csv"), write_table(tmp_path / "other.csv", motif="GGGGGGG")
        base = {"model": "msamamba", "task": str(one), **TINY}
        variations = [
            {},
            {"seed": 1},
            {"task": str(other)},
            {"epochs": 3},
            {"init": "random:base"},
            {"option": {"pooling": "last"}},
            {"precision": "bf16"},
            {"model": "cnn"},
            {"checkpoint": str(write_checkpoint(tmp_path / "a")), "init": None},
            {"checkpoint": str(write_checkpoint(tmp_path / "b", seed=1)), "init": None},
            {"checkpoint": str(tmp_path / "a"), "init": None, "allow_partial": True},
        ]
        ids = [run.id for variation in variations for run in plan(**base | variation)]
        assert len(set(ids)) == len(variations)

    def test_does_not_differ_with_paths_or_defaults_that_are_spelt_out(self, tmp_path):
        table, folder = write_table(tmp_path / "t.csv"), write_checkpoint(tmp_path / "weights")
        (tmp_path / "elsewhere").mkdir()
        (run,) = plan("msamamba", str(table), checkpoint=str(folder))
        moved = [shutil.copy(table, tmp_path / "elsewhere"), shutil.copytree(folder, tmp_path / "elsewhere/others")]
        (again,) = plan("msamamba", str(moved[0]), checkpoint=str(moved[1]), learning_rate=3e-4, device=run.device)
        assert again.id == run.id

    def test_differs_with_a_configuration_beside_the_same_weights(self, tmp_path):
        folder = write_checkpoint(tmp_path / "weights")
        ids = set()
        for config in ("{}", '{"layer_norm_eps": 1}'):
            (folder / "config.json").write_text(config)
            ids |= {plan("msamamba", "QKI", checkpoint=str(path))[0].id for path in (folder, folder / "pytorch_model.bin")}
        assert len(ids) == 2
        (folder / "README.md").write_text("what no adapter reads")
        assert plan("msamamba", "QKI", checkpoint=str(folder))[0].id in ids
        (folder / "pytorch_model.bin").rename(folder / "mine.bin")
        assert plan("msamamba", "QKI", checkpoint=str(folder / "mine.bin"))[0].id in ids

    def test_differs_with_the_content_of_a_file_that_an_option_names(self, tmp_path):
        scores = tmp_path / "scores.csv"
        ids = []
        for value in "12":
            scores.write_text(f"chrom,pos,ref,alt,cadd\n1,1,A,C,{value}\n")
            (run,) = plan("cadd", "clinvar", option={"scores": str(scores)})
            ids.append(run.id)
        assert ids[0] != ids[1]
        scores.rename(tmp_path / "renamed.csv")
        assert plan("cadd", "clinvar", option={"scores": str(tmp_path / "renamed.csv")})[0].id == ids[1]

    def test_differs_with_a_module_that_a_plug_in_imports(self, tmp_path):
        template = Path(harness.__file__).parent / "check/template.py"
        model = tmp_path / "mine.py"
        model.write_text("from mine_helper import SIZE\n" + template.read_text().replace("template", "mine"))
        ids = []
        for size in "12":
            (tmp_path / "mine_helper.py").write_text(f"SIZE = {size}\n")
            ids.append(plan(str(model), "QKI", init="random:tiny")[0].id)
        assert ids[0] != ids[1]

    def test_changes_with_code_that_can_change_a_number_and_no_other(self, tmp_path):
        """On a copy of the project, one edit after another."""
        for room in ("harness", "adapters", "tasks", "kernels"):
            shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
        script = tmp_path / "ids.py"
        script.write_text(IDS)
        done = subprocess.run(
            [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        changed = {edit: set(names) for edit, names in json.loads(done.stdout).items()}
        runs = {"kmer QKI", "msamamba QKI", "kmer clinvar", "msamamba clinvar"}
        assert changed == {
            "a new adapter": set(),
            "a screen": set(),
            "a table": set(),
            "a comment and a docstring of the loop": set(),
            "another adapter": set(),
            "this adapter": {"kmer QKI", "kmer clinvar"},
            "a kernel": {"msamamba QKI", "msamamba clinvar"},
            "a task": {"kmer QKI", "msamamba QKI"},
            "what both tasks import": runs,
            "the loop": runs,
        }


IDS = '''
import json
from pathlib import Path
from harness.study import plan as planning
ROOT = Path(__file__).parent

def ids():
    planning._numeric_code.cache_clear()
    runs = planning.plan(["kmer", "msamamba"], ["QKI", "clinvar"], device="cpu", precision="float32")
    return {f"{run.name} {run.task[0]}": run.id for run in runs}

def edited(file, text, old=None):
    before, path = ids(), ROOT / file
    content = path.read_text() if path.exists() else ""
    path.write_text(content + text if old is None else content.replace(old, text, 1))
    assert path.read_text() != content, file
    after = ids()
    return [name for name in before if after[name] != before[name]]

print(json.dumps({
    "a new adapter": edited("adapters/newer.py", (ROOT / "adapters/gc.py").read_text().replace('"gc"', '"newer"')),
    "a screen": edited("harness/cli/screen.py", "\\nX = 1\\n"),
    "a table": edited("harness/evidence/tables.py", "\\nX = 1\\n"),
    "a comment and a docstring of the loop": edited("harness/engine/fit.py", '"""Another docstring."""  # and a comment\\n\\n\\n', '"""fit(): the one training loop."""\\n'),
    "another adapter": edited("adapters/gc.py", "\\nX = 1\\n"),
    "this adapter": edited("adapters/kmer.py", "LARGEST_K = 5", "LARGEST_K = 6"),
    "a kernel": edited("kernels/selective_scan/definition.py", "\\nX = 1\\n"),
    "a task": edited("tasks/rbp.py", "\\nX = 1\\n"),
    "what both tasks import": edited("tasks/_simulate.py", "\\nX = 1\\n"),
    "the loop": edited("harness/engine/fit.py", "\\nX = 1\\n"),
}))
'''


class TestExecute:
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
