"""How fast windows become token ids, as ratios of times measured side by side in this process.

    python benchmarks/tokenisation.py [--windows N] [--length N] [--rounds N]

"upstream's way" is what DNABERT's fine-tuning script does for each window: it joins k-mers with spaces, splits the text at every
special token and at white space, looks each k-mer up in a method call, and pads lists one by one. "dictionary" is minimal plain
Python: one look-up per k-mer and nothing else. The three take turns; ratios are of best times, with those of medians in
parentheses. All three must give the same ids.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.adapters._kmer_bert import CLS, PAD, SEP, SPECIALS, UNK, KmerBert, vocabulary
from harness.data import Window
from harness.registry import adapter_class

K = 6


class UpstreamsWay:
    """A tokenizer that works like upstream's, on the same vocabulary."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {token: number for number, token in enumerate(vocabulary(K))}
        self.added: dict[str, int] = {}

    def kmer_text(self, sequence: str) -> str:
        return " ".join([sequence[start : start + K] for start in range(len(sequence) + 1 - K)])

    def split(self, text: str) -> list[str]:
        parts = [text]
        for special in SPECIALS:
            parts = [piece for part in parts for piece in (part.split(special) if part not in SPECIALS else [part])]
        return [token for part in parts for token in part.strip().split()]

    def id_of(self, token: str) -> int:
        return self.added[token] if token in self.added else self.look_up(token)

    def look_up(self, token: str) -> int:
        return self.ids.get(token, UNK)

    def encode(self, sequence: str, length: int) -> tuple[list[int], list[int], list[int]]:
        ids = []
        for token in self.split(self.kmer_text(sequence)):
            ids.append(self.id_of(token))
        ids = [CLS, *ids, SEP]
        missing = length - len(ids)
        return ids + [PAD] * missing, [1] * len(ids) + [0] * missing, [0] * length

    def __call__(self, windows: list[Window]) -> torch.Tensor:
        length = max(len(window) for window in windows) - K + 3
        features = [self.encode(window.sequence, length) for window in windows]
        ids, *_ = (torch.tensor([feature[part] for feature in features], dtype=torch.long) for part in range(3))
        return ids


class Dictionary:
    def __init__(self) -> None:
        self.ids = {token: number for number, token in enumerate(vocabulary(K))}

    def __call__(self, windows: list[Window]) -> torch.Tensor:
        get, rows = self.ids.get, []
        for window in windows:
            text = window.sequence
            rows.append([CLS, *[get(text[start : start + K], UNK) for start in range(len(text) - K + 1)], SEP])
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def ours() -> Callable[[list[Window]], torch.Tensor]:
    model = adapter_class("dnabert1").from_checkpoint(None, size="tiny")
    assert isinstance(model, KmerBert)
    return lambda windows: model.collate(windows)["tokens"][:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=2048)
    parser.add_argument("--length", type=int, default=101)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    settings = parser.parse_args()
    rng = np.random.default_rng(0)
    windows = [Window("".join(rng.choice(list("ACGT"), settings.length))) for _ in range(settings.windows)]
    batches = [windows[start : start + settings.batch] for start in range(0, len(windows), settings.batch)]

    contestants = {"upstream's way": UpstreamsWay(), "dictionary": Dictionary(), "dnabert1.collate": ours()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(settings.rounds):
        answers = []
        for name, tokenise in contestants.items():
            begun = perf_counter()
            ids = [tokenise(batch) for batch in batches]
            times[name].append(perf_counter() - begun)
            answers.append(ids)
        for others in answers[:-1]:
            assert all(torch.equal(one, other.to(one.dtype)) for one, other in zip(others, answers[-1], strict=True))

    print(
        f"{settings.windows} windows of {settings.length} nt in batches of {settings.batch}; best of {settings.rounds} (median)"
    )
    mine = times["dnabert1.collate"]
    for name, seconds in times.items():
        best, middle = min(seconds) / min(mine), median(seconds) / median(mine)
        print(f"{name:>18}: {settings.windows / min(seconds):12,.0f} windows/s; ours is {best:6.1f}x ({middle:.1f}x)")


if __name__ == "__main__":
    main()
