"""Shared by all tests: small windows, an accelerator on the CPU, and the shared folder where there is one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

# Processes of pytest-xdist share the cores. Said before torch is imported.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))

import numpy as np
import pytest

from harness.cli.main import main
from harness.data import Example, Window
from harness.evidence.records import data_digest
from harness.files.hub import weights_home
from harness.study.plan import Run, sealed
from harness.task import Splits, Task

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
WEIGHTS = weights_home()  # read before a fixture hides this machine's folders


def pytest_make_parametrize_id(config, val, argname):
    """Bytes that are no text are named by their argument: gzip holds the time, and every process must find the same names."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, tmp_path_factory, monkeypatch):
    """No test sees this machine's data or writes outside its own folder; what is remembered is shared by all tests."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def harness(tmp_path, monkeypatch):
    """Runs `harness …` in this process, in an empty folder, and returns what came of it."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as changed, redirect_stdout(out), redirect_stderr(err):
            for name, value in environment.items():
                changed.setenv(name, value)
            with pytest.raises(SystemExit) as stopped:
                main(arguments)
        code = stopped.value.code
        return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())

    return call


def start(*arguments: str, folder: Path, **options) -> subprocess.Popen[str]:
    """`harness …` as a process of its own, in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, env=environment, **pipes | options)


@pytest.fixture
def one_thread():
    """torch with one thread, as the processes have that a run is compared with."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shared() -> Path:
    """The folder of real data and upstream outputs beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which holds real data and upstream outputs")
    return SHARED


def published(hub_id: str) -> Path:
    """The folder of published weights that `harness weights get` made on this machine, else the test is skipped."""
    folders = sorted((WEIGHTS / hub_id.replace("/", "--")).glob("*/"))
    if not folders:
        pytest.skip(f"needs the published weights {hub_id}: `harness weights get` puts them into {WEIGHTS}")
    return folders[-1]


def random_windows(count: int, length: int | tuple[int, int] = 40, seed: int = 0) -> list[Window]:
    """Windows of uniform random letters; of lengths in a half-open range when given two."""
    rng = np.random.default_rng(seed)
    low, high = length if isinstance(length, tuple) else (length, length + 1)
    return [Window("".join(rng.choice(list("ACGT"), rng.integers(low, high)))) for _ in range(count)]


def motif_examples(count: int, length: int | tuple[int, int] = 40, seed: int = 0, motif: str = "ACTAACT") -> list[Example]:
    """Half of the windows carry the motif in the middle (label 1)."""
    examples = []
    for number, window in enumerate(random_windows(count, length, seed)):
        sequence = window.sequence
        if number % 2:
            start = len(sequence) // 2
            sequence = sequence[:start] + motif + sequence[start + len(motif) :]
        examples.append(Example(f"w{number}", (Window(sequence),), number % 2))
    return examples


def variant_examples(count: int, length: int = 40, alignment: bool = False, seed: int = 0) -> list[Example]:
    """Pairs that differ at ``length // 2``; with an alignment, harmful (1) where the auxiliary rows all have the reference."""
    rng = np.random.default_rng(seed)
    examples = []
    for number, window in enumerate(random_windows(count, length, seed)):
        label, centre = number % 2, length // 2
        letters = np.frombuffer(window.sequence.encode(), np.uint8)
        alternate = letters.copy()
        alternate[centre] = rng.choice([base for base in b"ACGT" if base != letters[centre]])
        rows = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (5, length))]
        if label:
            rows[:, centre] = letters[centre]
        pair = (np.vstack([target, rows]) if alignment else None for target in (letters, alternate))
        texts = (letters.tobytes().decode(), alternate.tobytes().decode())
        examples.append(
            Example(f"17:{number}:x:y", tuple(Window(*made) for made in zip(texts, (None, None), pair, strict=True)), label)
        )
    return examples


def planned_run(model: str, task: Task, splits: Splits, **recipe) -> Run:
    """A run of a tiny model on a task that exists in memory only; for ``execute(…, opened=(task, splits))``."""
    asked = {"split": task.split_rules[0], "seed": 0, "size": "tiny", "recipe": {"precision": "float32", **recipe}}
    return sealed(Run(model, [task.name], **asked, data=data_digest(splits.files), label=task.label, name=model), task)


def pretraining_batch(model, windows, rng, objective: str | None = None, **options):
    """One batch of these windows as an objective of the model, by default its first, makes them."""
    from harness.engine.corpus import split

    goal = model.objectives[objective or next(iter(model.objectives))](**options)
    goal.attach(model)
    (batch,) = split(goal.collate(model, windows, rng), len(windows), at_once=1)
    return batch


def as_checkpoint(model, folder: Path) -> Path:
    """The folder that `harness pretrain` would write of a model, as far as loading it goes."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in model.checkpoint_tensors().items()}
    save_file(weights, folder / "model.safetensors")
    for name, text in model.checkpoint_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def quick_pretraining(monkeypatch):
    """Pretraining holds out a 24th of the usual windows, as many for its yardstick to learn from, and draws no picture."""
    monkeypatch.setattr("harness.engine.pretrain.TOKENS_PER_STEP", 2048)
    monkeypatch.setattr("harness.engine.pretrain_folder.plot", lambda path, histories: path.touch())
