"""The id of a run covers what can change its numbers and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from test_plan import TINY, write_checkpoint, write_table

import harness
from harness.study.plan import plan


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

    def test_differs_with_a_file_that_a_plug_in_reads(self, tmp_path):
        template = (Path(harness.__file__).parent / "check/template.py").read_text().replace("template", "reader")
        read = "SCALE = Path(__file__).with_name('scale.txt').read_text()\n"
        (tmp_path / "reader.py").write_text("from pathlib import Path\n" + read + template)
        (tmp_path / "unread.txt").write_text("1")
        ids = []
        for name in ("scale.txt", "scale.txt", "unread.txt"):
            (tmp_path / name).write_text(str(len(ids)))
            ids.append(plan(str(tmp_path / "reader.py"), "QKI", init="random:tiny")[0].id)
        assert ids[0] != ids[1] == ids[2]

    def test_differs_with_a_module_that_a_plug_in_imports(self, tmp_path):
        """Each in a process of its own: within one, a module that changed after it was imported is refused."""
        template = (Path(harness.__file__).parent / "check/template.py").read_text()
        (tmp_path / "mine.py").write_text("from mine_helper import SIZE\n" + template.replace("template", "mine"))
        code = "from harness.study.plan import plan; print(plan('mine.py', 'QKI', init='random:tiny')[0].id)"
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        ids = []
        for size in "12":
            (tmp_path / "mine_helper.py").write_text(f"SIZE = {size}\n")
            done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            ids.append(done.stdout)
        assert ids[0] != ids[1]

    def test_is_the_same_in_a_wheel_and_follows_no_installed_package(self, tmp_path):
        (run,) = plan("msamamba", "QKI", **TINY)
        inside = tmp_path / "lib/site-packages/harness"
        shutil.copytree(ROOT / "harness", inside, ignore=shutil.ignore_patterns("__pycache__"))
        for room in ("adapters", "tasks", "kernels"):
            shutil.copytree(ROOT / room, inside / room, ignore=shutil.ignore_patterns("__pycache__"))
        (inside.parent / "their_model.py").write_text(
            "import numpy\nfrom harness.adapters.gc import BaseComposition\nfrom harness.card import ModelCard\n"
            "class Theirs(BaseComposition):\n    name = 'their_model'\n"
            "    card = ModelCard(summary='s', paper='p', licence='l', alphabet='ACGT')\n"
        )
        (inside.parent / "numpy_beside.py").write_text("x = 1\n")
        code = (
            "from pathlib import Path; import harness; from harness.files.code import code_modules; from harness.study.plan import plan\n"
            f"assert Path(harness.__file__).is_relative_to({str(inside)!r})\n"
            f"print(plan('msamamba', 'QKI', **{TINY!r})[0].id)\n"
            f"print(sorted(name for name in code_modules(Path({str(inside.parent / 'their_model.py')!r})) if 'harness' not in name))"
        )
        environment = os.environ | {"PYTHONPATH": str(inside.parent)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.splitlines() == [run.id, "['their_model']"], done.stderr[-2000:]

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
            "a comment of a CUDA source": set(),
            "what CUDA sources share": {"msamamba QKI", "msamamba clinvar"},
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
    "a comment of a CUDA source": edited("kernels/_device.cuh", "\\n// nothing\\n"),
    "what CUDA sources share": edited("kernels/_device.cuh", "\\n#define X 1\\n"),
    "a task": edited("tasks/rbp.py", "\\nX = 1\\n"),
    "what both tasks import": edited("tasks/_simulate.py", "\\nX = 1\\n"),
    "the loop": edited("harness/engine/fit.py", "\\nX = 1\\n"),
}))
'''
