"""What `harness predict` costs beyond the evaluation of the same windows, and what memory it takes.

    python benchmarks/inference.py speed [--model msamamba] [--windows 100000]   # ratio to engine.predict on examples in memory
    python benchmarks/inference.py memory [--model cnn]                          # peaks for 10,000 and 100,000 windows
    python benchmarks/inference.py scan [--nucleotides 1000000]                  # a scan's share that is not the model's

The model is trained for an epoch on the QKI sample, in a temporary folder.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import harness
from harness.data import Example, Window
from harness.inference.answers import Seeds
from harness.inference.inputs import open_input
from harness.inference.predict import predict
from harness.inference.scan import Layout, scan
from harness.inference.trained import load_run
from harness.study.run import execute

LENGTH = 101


def trained(model: str, folder: Path) -> Path:
    """The folder of a run."""
    record = execute(harness.plan(model, "QKI", device="cpu", epochs=1, keep=True)[0], folder)
    return folder / record.folder


def drawn(count: int, folder: Path) -> Path:
    """A FASTA of random windows."""
    rng, path = np.random.default_rng(0), folder / f"{count}.fa"
    with path.open("w") as file:
        for first in range(0, count, 10_000):
            letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (min(10_000, count - first), LENGTH))]
            file.writelines(f">w{first + n}\n{row.tobytes().decode()}\n" for n, row in enumerate(letters))
    return path


def speed(options: argparse.Namespace) -> None:
    """Seconds of both, in turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, path = load_run(trained(options.model, folder), device=options.device), drawn(options.windows, folder)
        examples = [Example(entry.id, entry.windows, 0) for entry in open_input([path])]
        run.outputs(examples[:1000])
        ratios = []
        for turn in range(options.turns):
            evaluated = _seconds(lambda: run.outputs(examples))
            predicted = _seconds(lambda: predict(Seeds([run]), open_input([path]), folder / f"{turn}.csv"))  # noqa: B023
            ratios.append([mine / other for mine, other in zip(predicted, evaluated, strict=True)])
            print(
                f"{options.model}, {len(examples):,} windows of {LENGTH} nt: evaluation {evaluated[0]:.1f} s "
                f"({len(examples) / evaluated[0]:,.0f}/s), predict {predicted[0]:.1f} s; ratio {ratios[-1][0]:.3f}, "
                f"of processor time {ratios[-1][1]:.3f}",
                flush=True,
            )
        wall, processor = (statistics.median(ratio) for ratio in zip(*ratios, strict=True))
        print(f"median ratio {wall:.3f}, of processor time {processor:.3f}")


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """What it takes by the clock, and of the processors."""
    begun, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - used


def memory(options: argparse.Namespace) -> None:
    """Peak resident memory of `harness predict`, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = trained(options.model, folder)
        for count in (10_000, 100_000):
            words = ["predict", str(run), str(drawn(count, folder)), "--out", str(folder / "out.csv"), "--device", options.device]
            code = "import sys, resource; from harness.cli.main import main\ntry:\n main(sys.argv[1:])\nexcept SystemExit: pass\n"
            code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
            print(f"{options.model}, {count:,} windows: {int(done.stdout.split()[-1]) / 1024:,.0f} MiB at most", flush=True)


def slide(options: argparse.Namespace) -> None:
    """Seconds of a scan, and of the evaluation of the same windows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = load_run(trained(options.model, folder), device=options.device)
        letters = np.random.default_rng(0).choice(list("ACGT"), options.nucleotides)
        (folder / "x.fa").write_text(f">1\n{''.join(letters)}\n")
        text, layout = "".join(letters), Layout(LENGTH, 10)
        begun = time.perf_counter()
        done = scan(Seeds([run]), open_input([folder / "x.fa"]), layout, folder / "x.bedgraph")
        scanned = time.perf_counter() - begun
        examples = [
            Example(str(at), (Window(text[at : at + LENGTH]),), 0) for at in range(0, len(text) - LENGTH + 1, layout.step)
        ]
        begun = time.perf_counter()
        run.outputs(examples)
        evaluated = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{options.model}, {done.windows:,} windows: scan {scanned:.1f} s, evaluation {evaluated:.1f} s, {peak:,.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "scan"))
    parser.add_argument("--model", default="msamamba")
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--nucleotides", type=int, default=1_000_000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    {"speed": speed, "memory": memory, "scan": slide}[options.what](options)


if __name__ == "__main__":
    main()
