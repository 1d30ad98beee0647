"""Interval files and genomes in the layout of GenomicBenchmarks, made by the tests; no real data."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.files import sources
from harness.tasks import _gb_intervals
from harness.tasks._gb_facts import FILES, PARTS, SETS, File

Interval = tuple[str, int, int, str]  # region, start, end, strand as the files write it


def letters(length: int, seed: int) -> str:
    """Random letters."""
    return np.random.default_rng(seed).choice(np.frombuffer(b"ACGT", np.uint8), length).tobytes().decode()


def genome(name: str, records: Mapping[str, str], titles: Mapping[str, str] = {}) -> Path:
    """A genome in the data folder, by the name that `harness data get` takes; FASTA, for a file is known by its content."""
    path = sources.locate(sources.REFERENCES[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f">{record}{titles.get(record, '')}\n{sequence}\n" for record, sequence in records.items()).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def intervals(monkeypatch: pytest.MonkeyPatch, task: str, **rows: tuple[Sequence[Interval], Sequence[Interval]]) -> None:
    """Interval files of a task, train and test by class, as if they were the published ones; genomes may be of any length."""
    found: dict[str, tuple[File, ...]] = {}
    for label in SETS[task].classes:
        files = []
        for part, chosen in zip(PARTS, rows[label], strict=True):
            path = sources.data_home() / f"genomic_benchmarks/{task}/{part}/{label}.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{number},{','.join(map(str, row))}" for number, row in enumerate(chosen)]
            content = gzip.compress("\n".join(["id,region,start,end,strand", *lines, ""]).encode(), mtime=0)
            path.write_bytes(content)
            files.append(File(len(chosen), len(content), hashlib.sha256(content).hexdigest()))
        found[label] = tuple(files)
    monkeypatch.setitem(FILES, task, found)
    monkeypatch.setattr(_gb_intervals, "LENGTHS", {})


def tiles(chromosome: str, count: int, length: int = 20, step: int = 30, start: int = 0, strand: str = "+") -> list[Interval]:
    """Windows that do not overlap."""
    return [(chromosome, start + n * step, start + n * step + length, strand) for n in range(count)]
