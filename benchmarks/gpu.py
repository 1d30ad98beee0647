"""Every figure that a GPU decides, in one command: `python benchmarks/gpu.py`; about ten minutes on an H100.

    python benchmarks/gpu.py [--rows scan,first_call,…] [--rounds N] [--csv FILE]
    python benchmarks/gpu.py --dry-run

A line has the figure, its value, the goal, whether it is met, and the card with the versions of torch, CUDA and the driver. What
cannot be measured says so and why, and the rest goes on. With --dry-run, all of the code runs at tiny sizes on the CPU, with
stand-ins for mamba_ssm, and no number is shown.

Times of single calls are the device's own, between two CUDA events; those of training loops are the wall's, between moments at
which the device is idle. Contestants take turns after an unmeasured call each, and ratios are of medians. Both directions of a
scan, or both contestants of a loop, see the same numbers.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks._gpu import Bench, Measure, NotMeasured, Row, apart
from benchmarks._gpu_loops import deterministic, dnabert2_loops, pretraining_pace, wait
from benchmarks._gpu_steps import bandwidth, caduceus, first_call, msamamba, scan
from harness.engine.predict import out_of_memory
from harness.errors import RunFailed
from harness.kernels import backends

DRY = "dry run"

GROUPS: dict[str, Callable[[Bench], Iterator[Measure]]] = {
    "bandwidth": bandwidth,
    "scan": scan,
    "first_call": first_call,
    "msamamba": msamamba,
    "caduceus": caduceus,
    "dnabert2": dnabert2_loops,
    "wait": wait,
    "deterministic": deterministic,
    "pretraining": pretraining_pace,
}


def measured(bench: Bench, names: Iterable[str], failures: list[str], separately: bool = False) -> Iterator[Row]:
    """The rows of groups, one after the other. What fails for no known reason is told on standard error and counted.

    With ``separately``, each measurement has a process of its own: after a kernel's fault, a process can no longer use its card.
    """
    for name in names:
        for title, measure in GROUPS[name](bench):
            try:
                for row in apart(listed, measure) if separately else measure():
                    yield Row(row.figure, DRY, row.goal) if bench.dry else row
            except Exception as error:
                yield Row(title, f"not measured: {_reason(error, title, failures)}")


def listed(measure: Callable[[], Iterable[Row]]) -> list[Row]:
    return list(measure())


def _reason(error: Exception, title: str, failures: list[str]) -> str:
    if isinstance(error, RuntimeError) and out_of_memory(error):
        return "too little memory"
    words = str(error).strip().partition("\n")[0]
    if isinstance(error, NotMeasured | RunFailed) or (isinstance(error, ValueError) and backends.VARIABLE in words):
        return words
    traceback.print_exception(error)
    failures.append(title)
    return f"{type(error).__name__}: {words}"


def card(bench: Bench) -> str:
    if bench.dry:
        return "CPU"
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, driver {_driver()}"
    return f"{torch.cuda.get_device_name()}, {versions}"


def _driver() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        told = Path("/proc/driver/nvidia/version")
        found = re.search(r"\s(\d+\.[\d.]+)\s", told.read_text()) if told.is_file() else None
        return found[1] if found else "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", default=",".join(GROUPS), help=f"some of {', '.join(GROUPS)}, with commas")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args(arguments)
    names = given.rows.split(",")
    if unknown := [name for name in names if name not in GROUPS]:
        parser.error(f"--rows {unknown[0]}: choose among {', '.join(GROUPS)}")
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: at least 1")
    if given.csv and not given.csv.parent.is_dir():
        parser.error(f"--csv {given.csv}: there is no folder {given.csv.parent}")
    if not given.dry_run and not torch.cuda.is_available():
        print("no GPU that torch can use: these figures need one (--dry-run runs the code without)", file=sys.stderr)
        return 2
    bench = Bench(given.dry_run, 1 if given.dry_run else given.rounds)
    machine, failures = card(bench), list[str]()
    with given.csv.open("w", newline="") if given.csv else nullcontext() as file:
        writer = csv.writer(file, lineterminator="\n") if file else None
        if writer:
            writer.writerow([*(item.name for item in fields(Row)), "card"])
        for row in measured(bench, names, failures, separately=not bench.dry):
            met = "" if row.met is None else "met" if row.met else "NOT met"
            print(" | ".join((row.figure, row.value, row.goal, met, machine)), flush=True)
            if writer:
                writer.writerow([*astuple(row), machine])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
