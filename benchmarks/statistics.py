"""Calibration of `harness compare` by simulation, and its speed.

    python benchmarks/statistics.py                     # 2,000 draws of each design, on all cores
    python benchmarks/statistics.py --draws 200
    python benchmarks/statistics.py speed               # 10 models x 8 tasks x 5 seeds, 1,000 to 5,000 test examples each

Two models answer the same test examples. Whether an answer is right depends on the example, on the model, on the seed (which
moves a model's separation of the classes, and its threshold, by SEED_SD), and on all of these together. With blocks, of 5 to 60
examples, the class balance and the models' answers vary between blocks. Under the null, both models are drawn from the same
distribution, and every verdict is wrong; otherwise the second separates the classes better, and the true difference is the mean
over very many examples and seeds. With one seed the two runs are all there is, so seeds vary in nothing. Of each metric: the
percentage of verdicts that find a difference (of the null, wrongly), and of 95 % intervals that hold the true one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ != "__main__":  # a script of this folder asks for the standard library's module, which this file's name hides
    from importlib.util import module_from_spec, spec_from_file_location

    _spec = spec_from_file_location("statistics", Path(os.__file__).with_name("statistics.py"))
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules["statistics"] = _module = module_from_spec(_spec)
    _spec.loader.exec_module(_module)
else:
    sys.path[0] = str(Path(__file__).parents[1])
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # one process per core


def calibration(draws: int, processes: int) -> None:
    """Print a line for each design."""
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial

    designs = [
        (size, blocked, seeds, better)
        for size, blocked in ((400, False), (40, True))
        for seeds in (1, 3, 5)
        for better in (0.0, 0.3)
    ]
    print(f"{'design':<46}" + "".join(f"{metric + ': found, held':>24}" for metric in METRICS))
    with ProcessPoolExecutor(processes) as pool:
        for design, found in zip(designs, pool.map(partial(simulated, draws=draws), designs), strict=True):
            size, blocked, seeds, better = design
            what = f"{size} {'blocks' if blocked else 'examples'}, {seeds} seed{'s' * (seeds > 1)}"
            cells = "".join(f"{100 * hit:>15.1f}{100 * held:>9.1f}" for hit, held in found)
            print(f"{what:<26}{'second is better' if better else 'null':<20}{cells}", flush=True)
    print(f"\nMonte-Carlo error (sd) of 5 %: {100 * (0.95 * 0.05 / draws) ** 0.5:.1f}")


METRICS = ("accuracy", "log_loss", "auroc")
SEPARATION, SEED_SD = 1.5, 0.15
SWAPS, REPLICATES = 1_999, 499  # fewer than compare's, so that 2,000 draws take minutes; more change nothing but noise


def drawn(rng, size, blocked, seeds, better, vary):
    """Probabilities of the second class, (2 models, seeds, N), labels (N,) and the block of each example (N,)."""
    import numpy as np
    from scipy.special import expit

    sizes = rng.integers(5, 61, size) if blocked else np.ones(size, int)
    member = np.repeat(np.arange(size), sizes)
    examples, of_block = len(member), float(blocked)
    labels = (of_block * rng.normal(size=size)[member] + rng.logistic(size=examples) > 0).astype(int)
    own = 0.5 * rng.normal(size=(2, 1, examples)) + of_block * 0.35 * rng.normal(size=(2, 1, size))[:, :, member]
    separation = SEPARATION + np.array([0, better])[:, None, None] + vary * rng.normal(size=(2, seeds, 1))
    score = separation * (labels - 0.5) + 0.6 * rng.normal(size=examples) + own + vary * rng.normal(size=(2, seeds, 1))
    return expit(1.5 * (score + 0.6 * rng.normal(size=(2, seeds, examples)))), labels, member


def simulated(design, draws):
    """Of each metric: the share of draws with a verdict, and of intervals that hold the true difference."""
    import numpy as np

    from harness.evidence.answers import Answer, Answers, Test
    from harness.evidence.cells import Column, Row
    from harness.evidence.intervals import Grouped
    from harness.evidence.pairs import compared
    from harness.evidence.resampling import measured, redrawn
    from harness.evidence.statistics import LEVEL, drawn_blocks

    size, blocked, seeds, better = design
    vary = SEED_SD if seeds > 1 else 0.0
    true = true_differences(blocked, better, vary)
    rng = np.random.default_rng([size, blocked, seeds, int(10 * better)])
    rows = Row("first"), Row("second")
    column = Column("simulated", None, True, "", "")
    hits, held = np.zeros(len(METRICS)), np.zeros(len(METRICS))
    for _ in range(draws):
        chances, labels, member = drawn(rng, size, blocked, seeds, better, vary)
        sample = Grouped(member, size)
        weights = drawn_blocks(size, REPLICATES, int(rng.integers(2**32)))
        for place, metric in enumerate(METRICS):
            answers = {}
            for row, of_model in zip(rows, chances, strict=True):
                runs = {}
                for seed, chance in enumerate(of_model):
                    found = measured(metric, "classification", np.stack([1 - chance, chance], axis=1), labels, sample)
                    runs[seed] = Answer(found, redrawn([found], weights)[0], None)
                answers[row] = Answers(row, runs, (), False)
            (pair,), _ = compared(Test(column, sample, answers), [rows], metric, SWAPS)
            low, high = pair.spread.interval(pair.difference)
            hits[place] += pair.p < LEVEL
            held[place] += low <= true[place] <= high
    return list(zip(hits / draws, held / draws, strict=True))


def true_differences(blocked, better, vary):
    """The first model's metrics less the second's, over very many examples and seeds."""
    import numpy as np

    from harness.evidence.intervals import Grouped
    from harness.evidence.resampling import measured

    if not better:
        return [0.0] * len(METRICS)
    rng = np.random.default_rng(1)
    found = []
    for _ in range(40):
        chances, labels, _ = drawn(rng, 1_000 if blocked else 20_000, blocked, 20 if vary else 1, better, vary)
        sample = Grouped(np.zeros(len(labels), int), 1)
        outputs = np.stack([1 - chances, chances], axis=-1)
        with np.errstate(all="ignore"):
            values = [[[measured(m, "classification", o, labels, sample).value for o in of] for of in outputs] for m in METRICS]
        found.append(np.mean(values, axis=2))
    first, second = np.mean(found, axis=0).T
    return list(first - second)


def speed(models: int = 10, tasks: int = 8, seeds: int = 5) -> None:
    """Print how long `harness compare` takes on so many made-up runs."""
    import subprocess
    import tempfile
    import time

    import numpy as np

    from harness.evidence.records import Predictions, RunRecord, write

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for task, examples in enumerate(np.linspace(1_000, 5_000, tasks).astype(int)):
            labels = rng.integers(0, 2, examples)
            ids = tuple(f"test:{number}" for number in range(examples))
            for model in range(models):
                for seed in range(seeds):
                    score = (1 + 0.1 * model) * (labels - 0.5) + rng.normal(size=examples)
                    chance = 1 / (1 + np.exp(-score))
                    record = made_record(RunRecord, f"task{task}", f"model{model}", seed)
                    write(record, Predictions(ids, labels, np.stack([1 - chance, chance], 1), ("no", "yes")), Path(folder))
        for metric in ("accuracy", "log_loss", "auroc", "auprc"):
            command = [sys.executable, "-m", "harness", "compare", "--results", folder, "--metric", metric, "--format", "csv"]
            start = time.perf_counter()
            lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=sys.path[0]).stdout.splitlines()
            print(f"{metric:<10}{len(lines) - 1:>6} differences{time.perf_counter() - start:>8.1f} s", flush=True)


def made_record(make, task, model, seed):
    """The least that a record holds."""
    card = {"floor": False, "reads": "sequence"}
    return make(
        run_id=f"seed{seed}",
        task={"name": task, "family": "made", "split": "made", "default_split": "made", "simulated": False}
        | {"classes": ["no", "yes"], "files": {task: task}},
        model={"name": model, "card": card, "recipe": {"tune": "full"}, "checkpoint": None, "size": "base", "options": {}},
        recipe={"tune": "full"},
        seed=seed,
        code="made",
    )


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description="Calibration of `harness compare` by simulation, and its speed.")
    parser.add_argument("what", nargs="?", choices=("calibration", "speed"), default="calibration")
    parser.add_argument("--draws", type=int, default=2_000, help="of each design")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.what == "speed":
        del os.environ["OPENBLAS_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]
        speed()
    else:
        calibration(options.draws, options.processes)


if __name__ == "__main__":
    main()
