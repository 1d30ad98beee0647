"""Time and memory of reading a GenomicBenchmarks task: intervals into windows, and a split rule, with a genome of real size.

    harness data get human_ensembl_regulatory
    python benchmarks/genomic_benchmarks.py                       # 2bit, split published
    python benchmarks/genomic_benchmarks.py --format fasta bgzip --split published chromosome locus

The genome has the lengths of hg38's chromosomes and random letters; it is written to a temporary folder (2bit 0.8 GB, FASTA
3.1 GB) unless `--genome` gives one. Each line is a process of its own: seconds (those of computing tell on a busy machine), windows, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TASK = "human_ensembl_regulatory"
CHROMOSOMES = (*map(str, range(1, 23)), "X", "Y")
# fmt: off
LENGTHS = (
    248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636, 138394717, 133797422, 135086622,
    133275309, 114364328, 107043718, 101991189, 90338345, 83257441, 80373285, 58617616, 64444167, 46709983, 50818468, 156040895,
    57227415,
)
# fmt: on
LINE = 60  # letters


def write(path: Path, form: str) -> Path:
    """A random genome of hg38's size as ``2bit``, ``fasta`` or ``bgzip``."""
    if form == "2bit":
        with path.open("wb") as file:
            names = [f"chr{name}".encode() for name in CHROMOSOMES]
            file.write(struct.pack("<4I", 0x1A412743, 0, len(names), 0))
            at = 16 + sum(5 + len(name) for name in names)
            for name, length in zip(names, LENGTHS, strict=True):
                file.write(struct.pack("<B", len(name)) + name + struct.pack("<I", at))
                at += 16 + -(-length // 4)
            for number, length in enumerate(LENGTHS):
                file.write(struct.pack("<4I", length, 0, 0, 0) + np.random.default_rng(number).bytes(-(-length // 4)))
        return path
    pieces = _lines()
    with path.open("wb") as file:
        for piece in pieces if form == "fasta" else _blocks(pieces):
            file.write(piece)
    return path


def _lines() -> Iterator[bytes]:
    for number, (name, length) in enumerate(zip(CHROMOSOMES, LENGTHS, strict=True)):
        yield f">chr{name}\n".encode()
        rng = np.random.default_rng(number)
        for start in range(0, length, LINE << 18):
            size = min(LINE << 18, length - start)
            letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, -(-size // LINE) * LINE, np.uint8)]
            lines = np.full((len(letters) // LINE, LINE + 1), ord("\n"), np.uint8)
            lines[:, :LINE] = letters.reshape(-1, LINE)
            yield lines.tobytes()[: size + size // LINE] + (b"\n" if size % LINE else b"")


def _blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), 65280):
            text = piece[start : start + 65280]
            packed = zlib.compress(text, 1, -15)
            header = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\0BC\x02\0" + struct.pack("<H", len(packed) + 25)
            yield header + packed + struct.pack("<II", zlib.crc32(text), len(text))
    yield bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def measure(task: str, genome: Path, rule: str) -> dict[str, float]:
    """Seconds and bytes of loading a task."""
    from harness import registry
    from harness.task import Reference

    begun, used = time.perf_counter(), time.process_time()
    bound = registry.tasks()[task].bind
    assert bound is not None
    splits = bound(Reference(genome)).load(rule)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    windows = sum(map(len, (splits.train, splits.validation, splits.test)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "cpu": cpu, "windows": windows, "bytes": peak}


def main() -> None:
    """Write the genomes and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--format", nargs="+", default=["2bit"], choices=["2bit", "fasta", "bgzip"])
    parser.add_argument("--split", nargs="+", default=["published"])
    parser.add_argument("--genome", type=Path)
    parser.add_argument("--keep", type=Path, help="Write the random genome as this 2bit file, and measure nothing.")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.task, given.genome, given.split[0])))
        return
    if given.keep:
        write(given.keep, "2bit")
        return
    with tempfile.TemporaryDirectory() as folder:
        for form in given.format:
            genome = given.genome or write(Path(folder) / f"random.{form}", form)
            for turn in ("first", "again"):  # the index of a FASTA file is made the first time
                for rule in given.split:
                    command = [sys.executable, __file__, "--one", "--task", given.task, "--genome", genome, "--split", rule]
                    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                    print(
                        f"{given.task}, {form}, split {rule}, {turn}: {found['windows']:,} windows in {found['seconds']:.1f} s "
                        f"({found['cpu']:.1f} s of computing), peak {found['bytes'] / 1e9:.2f} GB"
                    )
            if not given.genome:
                genome.unlink()


if __name__ == "__main__":
    main()
