"""How long `harness data pmi` takes, and how much memory, on a made genome in each format that it reads.

    python benchmarks/pmi.py [--letters 300_000_000] [--formats fasta gzip bgzip 2bit] [--folder /tmp]

The genome has 24 chromosomes, of which 5 % are runs of N and half is in lower case, in lines of 60 letters; it is made block by block,
and removed again. Seconds and peak resident memory are those of the whole command in a process of its own, of which the first
compiles. The last column is the time that 3.1 Gb would take at the same rate, to be compared with ten minutes.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

CHROMOSOMES = 24
BLOCK = 6_000_000
LINE = 60
HUMAN = 3_100_000_000


def chromosomes(letters: int) -> Iterator[tuple[str, int]]:
    for number in range(CHROMOSOMES):
        yield f"chr{number + 1}", letters // CHROMOSOMES


def blocks(rng: np.random.Generator, size: int) -> Iterator[np.ndarray]:
    """ASCII letters, each block with a run of N at its beginning and lower case in its second half."""
    for start in range(0, size, BLOCK):
        block = np.frombuffer(b"ACGTTGCAATTAAATT", np.uint8)[rng.integers(0, 16, min(BLOCK, size - start), np.uint8)]
        block[len(block) // 2 :] |= 32
        block[: len(block) // 20] = ord("N")
        yield block


def fasta(letters: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for name, size in chromosomes(letters):
        yield f">{name}\n".encode()
        for block in blocks(rng, size):
            whole = len(block) // LINE * LINE
            lines = np.full((whole // LINE, LINE + 1), ord("\n"), np.uint8)
            lines[:, :LINE] = block[:whole].reshape(-1, LINE)
            yield lines.tobytes() + (block[whole:].tobytes() + b"\n" if whole < len(block) else b"")


def two_bit(letters: int) -> Iterator[bytes]:
    """UCSC's 2bit: header, index, and then the records."""
    names = list(chromosomes(letters))
    codes = np.zeros(256, np.uint8)
    codes[list(b"TCAGtcag")] = [0, 1, 2, 3] * 2
    counts = [-(-size // BLOCK) for _, size in names]
    at = 16 + sum(5 + len(name) for name, _ in names)
    yield np.array([0x1A412743, 0, len(names), 0], "<u4").tobytes()
    for (name, size), count in zip(names, counts, strict=True):
        yield bytes([len(name)]) + name.encode() + np.array([at], "<u4").tobytes()
        at += 16 + 8 * count + -(-size // 4)
    rng = np.random.default_rng(0)
    for (_, size), count in zip(names, counts, strict=True):
        starts = np.arange(count) * BLOCK
        unknown = np.minimum(BLOCK, size - starts) // 20
        yield np.concatenate([[size, count], starts, unknown, [0, 0]]).astype("<u4").tobytes()
        for block in blocks(rng, size):
            padded = np.append(codes[block], np.zeros(-len(block) % 4, np.uint8)).reshape(-1, 4)
            yield (padded << np.array([6, 4, 2, 0], np.uint8)).sum(axis=1, dtype=np.uint8).tobytes()


def write(kind: str, letters: int, folder: Path) -> Path:
    if kind == "2bit":
        path, pieces, file = folder / "genome.2bit", two_bit(letters), (folder / "genome.2bit").open("wb")
    elif kind == "bgzip":
        from Bio import bgzf

        path, pieces = folder / "genome.bgz.fa.gz", fasta(letters)
        file = bgzf.BgzfWriter(str(path), "wb", compresslevel=1)
    elif kind == "gzip":
        path, pieces = folder / "genome.fa.gz", fasta(letters)
        file = gzip.open(path, "wb", compresslevel=1)  # noqa: SIM115
    else:
        path, pieces, file = folder / "genome.fa", fasta(letters), (folder / "genome.fa").open("wb")
    with file:
        for piece in pieces:
            file.write(piece)
    return path


def measure(path: Path, out: Path) -> tuple[float, float]:
    """Seconds, and MiB of peak resident memory."""
    command = [sys.executable, "-m", "harness", "data", "pmi", str(path), "--out", str(out), "--force", "--quiet"]
    begun = perf_counter()
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: failed")
    return perf_counter() - begun, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letters", type=int, default=300_000_000)
    parser.add_argument("--formats", nargs="+", default=["fasta", "gzip", "bgzip", "2bit"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    print(f"{'format':<8}{'letters':>15}{'file, GB':>10}{'seconds':>9}{'Mb/s':>8}{'peak, MiB':>11}{'3.1 Gb, s':>11}")
    tables = set()
    for kind in given.formats:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            path = write(kind, given.letters, Path(folder))
            seconds, peak = measure(path, Path(folder) / "table.csv")
            tables.add((Path(folder) / "table.csv").read_text())
            rate = given.letters / seconds
            print(
                f"{kind:<8}{given.letters:>15,}{path.stat().st_size / 1e9:>10.2f}{seconds:>9.1f}{rate / 1e6:>8.0f}{peak:>11.0f}{HUMAN / rate:>11.0f}",
                flush=True,
            )
    print("one table" if len(tables) == 1 else "THE TABLES DIFFER")


if __name__ == "__main__":
    main()
