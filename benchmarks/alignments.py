"""Windows a second that one process reads from alignments.

    python benchmarks/alignments.py [--windows N] [--columns N] [--rows N] [--length N] [--chunk N] [--rounds N]

A random alignment is written as our store and, if zarr is installed, in the layout of songlab's stores (S1, chunks of
``--chunk`` columns). Both must give the same windows. They take turns; the best round of each is shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.data import Locus
from harness.files.alignments import Alignment, build_store, open_alignment


def write_fasta(path: Path, letters: np.ndarray) -> Path:
    """``letters`` (rows, columns) as an aligned FASTA file of chr1 from 0."""
    lines = [f">s{row} chr1:0-{letters.shape[1]}\n{line.tobytes().decode()}\n" for row, line in enumerate(letters)]
    path.write_text("".join(lines))
    return path


def write_zarr(path: Path, letters: np.ndarray, chunk: int) -> Path:
    """``letters`` (rows, columns) in the layout of songlab's stores."""
    import zarr

    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    array = group.create_array("1", shape=letters.T.shape, chunks=(chunk, len(letters)), dtype="S1")
    array[:] = np.ascontiguousarray(letters.T).view("S1")
    return path


def windows_per_second(alignment: Alignment, loci: list[Locus]) -> float:
    begun = perf_counter()
    for locus in loci:
        alignment.columns(locus)
    return len(loci) / (perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("windows", 2000), ("columns", 200_000), ("rows", 90), ("length", 128), ("chunk", 512), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    letters = rng.choice(np.frombuffer(b"ACGT-", np.uint8), (given.rows, given.columns))
    letters[0] = rng.choice(np.frombuffer(b"ACGT", np.uint8), given.columns)  # the target has no gaps
    starts = rng.integers(0, given.columns - given.length, given.windows).tolist()
    loci = [Locus("chr1", start, start + given.length) for start in starts]
    with tempfile.TemporaryDirectory() as folder:
        build_store(write_fasta(Path(folder, "a.fa"), letters), Path(folder, "store"))
        kinds = {"our store": open_alignment(Path(folder, "store"))}
        if importlib.util.find_spec("zarr"):
            names = ",".join(f"s{row}" for row in range(1, given.rows)) if given.rows not in (90, 100) else ""
            kinds["zarr"] = open_alignment(write_zarr(Path(folder, "zarr"), letters, given.chunk), names)
        for name, alignment in kinds.items():
            for locus in loci[:20]:
                assert (alignment.columns(locus) == letters[:, locus.start : locus.end]).all(), name
        best = dict.fromkeys(kinds, 0.0)
        for _ in range(given.rounds):
            for name, alignment in kinds.items():
                best[name] = max(best[name], windows_per_second(alignment, loci))
    print(f"windows of {given.length} nt x {given.rows} rows, read at random")
    for name, rate in best.items():
        print(f"{name:>10}: {rate:10,.0f} windows/s, {best['our store'] / rate:5.1f} times the store's time")


if __name__ == "__main__":
    main()
