"""What the rows of gpu.py share: where they are measured and how, what a row is, and made data."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import kernels
from harness.adapters.msamamba import MSAMamba
from harness.data import Example, Window
from harness.engine import hardware


class NotMeasured(Exception):
    """Why a figure cannot be had here."""


@dataclass(frozen=True)
class Row:
    """A figure, and whether it meets the goal; None where nothing was asked or measured."""

    figure: str
    value: str
    goal: str = ""
    met: bool | None = None


Measure = tuple[str, Callable[[], Iterable[Row]]]  # what is measured, and its rows


@dataclass(frozen=True)
class Bench:
    """Where and how much is measured."""

    dry: bool = False
    rounds: int = 10

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry else "cuda")

    @property
    def precision(self) -> str:
        return hardware.pick_precision("auto", self.device)

    @property
    def fused(self) -> str:
        """The backend that is measured: never upstream's, though it would be preferred."""
        return "cpu" if self.dry else "cuda"

    def size(self, full: Any, tiny: Any) -> Any:
        return tiny if self.dry else full

    def wait(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def clock(self, call: Callable[[], object]) -> float:
        """Seconds that a call keeps the device busy."""
        if self.dry:
            return kernels.seconds_of(call)
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1000

    def race(self, **contestants: tuple[Callable[[], object], int]) -> dict[str, float]:
        """Median seconds of each contestant (a call and its number of rounds); see :func:`kernels.race`."""
        return {name: median(seconds) for name, seconds in kernels.race(contestants, self.clock).items()}

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second of a copy, which reads and writes each."""
        numbers = self.size(min(2**29, torch.cuda.mem_get_info()[0] // 16 if not self.dry else 0), 2**16)
        source, target = torch.empty(2, numbers, device=self.device)
        seconds = self.race(copy=(lambda: target.copy_(source), self.rounds))["copy"]
        return 2 * source.nbytes / seconds

    @property
    def upstream(self) -> bool:
        """Whether mamba_ssm is here, or a stand-in for it."""
        return self.dry or find_spec("mamba_ssm") is not None


def windows(count: int, length: int) -> list[Example]:
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), (count, length))
    return [Example(str(number), (Window(row.tobytes().decode()),), number % 2) for number, row in enumerate(letters)]


def alignments(bench: Bench, count: int) -> tuple[MSAMamba, list[Example]]:
    rows, length = bench.size((90, 1024), (3, 16))
    letters = np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), (count, rows, length))
    windows = [Window(alignment[0].tobytes().decode(), None, alignment) for alignment in letters]
    adapter = MSAMamba.from_checkpoint(size=bench.size("base", "tiny"))
    return adapter, [Example(str(number), (window,), number % 2) for number, window in enumerate(windows)]


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(function, *args).result()
