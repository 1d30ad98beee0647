"""What the audit finds and costs: `python benchmarks/audit.py sensitivity | speed | chance`.

sensitivity: the share of mutated copies that the search for near duplicates finds, among those that meet its definition by
construction: windows in which exactly so many letters differ, on either strand, with and without an insertion or deletion,
whole or shifted by a tenth of their length; in a set with enough other windows that the seed is the one of a large set.
speed: windows of a simulated genome with repeats (Alu, L1, microsatellites), seconds and peak memory.
chance: pairs among windows of a genome without repeats, which share nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

import numpy as np

from harness.data import Example, Window, reverse_complement
from harness.evidence.audit import audit, described
from harness.evidence.leakage import find_leaks
from harness.files.neighbours import Similarity, near_pairs, near_pairs_between
from harness.task import Splits, Task

LETTERS = np.frombuffer(b"ACGT", np.uint8)


def genome(length: int, rng: np.random.Generator, repeats: bool = True) -> np.ndarray:
    """Letters (length,) with isochores of 35 to 55 % GC, CpG depletion left out; a tenth Alu, an eighth L1, 1 % microsatellites."""
    text = np.empty(length, np.uint8)
    for start in range(0, length, 100_000):
        gc = rng.uniform(0.35, 0.55) / 2
        size = min(100_000, length - start)
        text[start : start + size] = LETTERS[np.searchsorted(np.cumsum([0.5 - gc, gc, gc]), rng.random(size))]
    if not repeats:
        return text
    alu, line = rng.choice(LETTERS, 300, p=[0.2, 0.3, 0.3, 0.2]), rng.choice(LETTERS, 6000, p=[0.4, 0.2, 0.2, 0.2])
    for consensus, share, oldest in ((alu, 0.1, 0.16), (line, 0.125, 0.2)):
        covered = 0
        while covered < share * length:
            size = len(consensus) if len(consensus) < 1000 else int(min(len(consensus), 200 + rng.exponential(900)))
            copy = consensus[-size:].copy()
            changed = rng.random(size) < rng.uniform(0.02, oldest)
            copy[changed] = rng.choice(LETTERS, changed.sum())
            place = int(rng.integers(0, length - size))
            text[place : place + size] = copy if rng.random() < 0.5 else flipped(copy)
            covered += size
    for _ in range(int(length * 0.01 / 40)):
        unit, place = rng.choice(LETTERS, rng.integers(1, 5)), int(rng.integers(0, length - 80))
        size = int(rng.integers(20, 60))
        text[place : place + size] = np.resize(unit, size)
    return text


def flipped(text: np.ndarray) -> np.ndarray:
    return np.frombuffer(reverse_complement(text.tobytes().decode()).encode(), np.uint8)


def mutated(window: np.ndarray, identity: float, indels: int, rng: np.random.Generator) -> np.ndarray:
    """A copy in which (1 - identity) of the letters differ, so many of these by the insertion or deletion of one."""
    copy = window.copy()
    changes = int((1 - identity) * len(window) + 1e-9) - indels
    places = rng.choice(len(window), changes, replace=False)
    copy[places] = LETTERS[(np.searchsorted(LETTERS, copy[places]) + rng.integers(1, 4, changes)) % 4]
    for _ in range(indels):
        place = int(rng.integers(5, len(copy) - 5))
        copy = np.delete(copy, place) if rng.random() < 0.5 else np.insert(copy, place, rng.choice(LETTERS))
    return copy


def sensitivity(windows: int, copies: int) -> None:
    rng = np.random.default_rng(1)
    print("length\tidentity\tfound, no gap\tshifted by 10 %\twith one indel\twith two indels")
    for length in (101, 251, 315):
        text = genome(max(windows * length, 1_000_000), rng, repeats=False)
        starts = rng.choice(len(text) // length, windows, replace=False) * length
        originals = [text[start : start + length] for start in starts]
        train = [window.tobytes().decode() for window in originals]
        for identity in (0.8, 0.85, 0.9, 0.95):
            cells = []
            for indels, shift in ((0, 0.0), (0, 0.1), (1, 0.0), (2, 0.0)):
                test = []
                for window in originals[:copies]:
                    moved = int(shift * length)
                    kept = mutated(window[moved:], identity, indels, rng)
                    kept = np.concatenate([kept, rng.choice(LETTERS, moved)])
                    test.append((flipped(kept) if rng.random() < 0.5 else kept).tobytes().decode())
                pairs = near_pairs_between(train, test)
                found = set(zip(pairs.first.tolist(), pairs.second.tolist()))
                cells.append(sum((number, number) in found for number in range(len(test))) / len(test))
            print(f"{length}\t{identity:.0%}\t" + "\t".join(f"{cell:.1%}" for cell in cells), flush=True)


def overlapping(windows: int, length: int, repeats: bool = True) -> list[str]:
    """Windows of a genome that they cover three times thinner than a genome would be, so that some overlap."""
    rng = np.random.default_rng(2)
    text = genome(int(windows * length * 3), rng, repeats)
    starts = rng.integers(0, len(text) - length, windows)
    return [text[start : start + length].tobytes().decode() for start in starts]


def speed(windows: int, length: int) -> None:
    """Seconds and peak memory of a run's part, and of a whole audit; 80 / 10 / 10 % of the windows are the parts."""
    near_pairs(["ACGT" * 10, "ACGT" * 10])  # compiled or read from Numba's cache
    sequences = overlapping(windows, length)
    examples = [Example(f"w{number}", (Window(text),), number % 2) for number, text in enumerate(sequences)]
    first, second = int(0.8 * windows), int(0.9 * windows)
    splits = Splits(examples[:first], examples[first:second], examples[second:], files={})
    task = Task("made", "made", "", ("no", "yes"), lambda rule: splits, ("given",))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # or the second time would be free
        for what, measure in (
            ("a run's part", lambda: find_leaks(splits)),
            ("the whole audit", lambda: audit(task, splits, "given")),
        ):
            wall, busy = time.perf_counter(), time.process_time()
            found = measure()
            wall, busy = time.perf_counter() - wall, time.process_time() - busy
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(
                f"{windows:,} windows of {length} nt, {what}: {wall:.1f} s ({busy:.1f} s of CPU), peak {peak:.2f} GB", flush=True
            )
    print("\n".join(described(found)))


def chance(windows: int, length: int) -> None:
    rng = np.random.default_rng(3)
    text = genome(windows * length, rng, repeats=False)
    sequences = [text[start : start + length].tobytes().decode() for start in range(0, windows * length, length)]
    print(f"{windows:,} unrelated windows of {length} nt: {len(near_pairs(sequences, Similarity()))} pairs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sensitivity", "speed", "chance"))
    parser.add_argument("--windows", type=int)
    parser.add_argument("--length", type=int, default=315)
    parser.add_argument("--copies", type=int, default=1000)
    given = parser.parse_args()
    if given.what == "sensitivity":
        sensitivity(given.windows or 20_000, given.copies)
    elif given.what == "speed":
        speed(given.windows or 175_000, given.length)
    else:
        chance(given.windows or 100_000, given.length)
