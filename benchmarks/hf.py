"""What `hf` costs beside plain `transformers`: the same checkpoint, windows, batches and pooling, in turns, in one process.

    python benchmarks/hf.py [--length 510] [--batch 16] [--width 256] [--layers 6] [--rounds 15] [--device cpu]

Checkpoints are random, of four architectures and vocabularies, and written to a temporary folder. Plain is what a careful user
writes: AutoTokenizer with padding, AutoModel, and the mean over real tokens without special ones (of a causal model, the last token).
Both begin with text and end with embeddings on the processor; "forward" has no gradients, "step" adds a linear head and the backward pass.
The ratio is of the medians over the rounds, ours to plain; the batches have windows of different lengths, 60 to 100 % of the longest.
On the processor, time is that of one thread's computing, so that a busy machine changes little; on a GPU it is wall time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from made_hf import checkpoint
from transformers.utils import logging

from harness.data import Window
from harness.registry import adapter_class

NAMES = ("bert", "bert_kmer", "modernbert", "llama")
SPACED = {
    "bert": lambda text: " ".join(text),
    "bert_kmer": lambda text: " ".join(text[at : at + 3] for at in range(len(text) - 2)),
}


def plain(name: str, folder: Path, device: str) -> Callable[[list[str]], torch.Tensor]:
    """Embeddings of sequences by transformers alone."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, words = AutoTokenizer.from_pretrained(folder), {"add_pooling_layer": False} if name.startswith("bert") else {}
    model = AutoModel.from_pretrained(folder, **words).to(device).eval()
    tokenizer.padding_side = "right"

    def embed(sequences: list[str]) -> torch.Tensor:
        texts = [SPACED[name](text) for text in sequences] if name in SPACED else sequences
        batch = tokenizer(texts, padding=True, return_tensors="pt", return_special_tokens_mask=True).to(device)
        special = batch.pop("special_tokens_mask")
        batch.pop("token_type_ids", None)
        hidden = model(**batch).last_hidden_state
        if name == "llama":
            return hidden[torch.arange(len(hidden), device=device), batch["attention_mask"].sum(1) - 1]
        real = (1 - special).unsqueeze(-1)
        return (hidden * real).sum(1) / real.sum(1)

    embed.model = model  # type: ignore[attr-defined]
    return embed


def wrapped(folder: Path, device: str) -> Callable[[list[str]], torch.Tensor]:
    """Embeddings of sequences by the adapter."""
    adapter = adapter_class("hf").from_checkpoint(folder).to(device).eval()

    def embed(sequences: list[str]) -> torch.Tensor:
        batch = adapter.collate([Window(text) for text in sequences])
        return adapter({name: it.to(device) for name, it in batch.items()})

    embed.model = adapter  # type: ignore[attr-defined]
    return embed


def timed(embed: Callable[[list[str]], torch.Tensor], sequences: list[str], step: bool) -> float:
    clock = perf_counter if torch.cuda.is_available() else process_time
    begun = clock()
    if step:
        embed(sequences).sum().backward()
    else:
        with torch.inference_mode():
            embed(sequences).sum().item()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=510)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rng = np.random.default_rng(0)
    lengths = rng.integers(int(0.6 * given.length), given.length + 1, given.batch)
    sequences = ["".join(rng.choice(list("ACGT"), length)) for length in lengths]
    shape = {
        "hidden_size": given.width,
        "num_hidden_layers": given.layers,
        "num_attention_heads": 4,
        "intermediate_size": 4 * given.width,
    }
    print(
        f"{given.batch} windows of {lengths.min()} to {lengths.max()} nt, {shape}, {given.device}, {torch.get_num_threads()} threads"
    )
    print(f"{'checkpoint':<14}{'what':<10}{'plain ms':>10}{'hf ms':>10}{'ratio':>8}{'largest difference':>20}")
    with tempfile.TemporaryDirectory() as root:
        for name in NAMES:
            more = {"num_key_value_heads": 4} if name == "llama" else {}
            folder = checkpoint(name, Path(root) / name, max_position_embeddings=given.length + 2, **shape, **more)
            both = plain(name, folder, given.device), wrapped(folder, given.device)
            with torch.inference_mode():
                gap = float((both[0](sequences) - both[1](sequences)).abs().max())
            for step in (False, True):
                times: tuple[list[float], list[float]] = ([], [])
                for turn in range(given.rounds + 1):
                    for number in (0, 1) if turn % 2 else (1, 0):
                        times[number].append(timed(both[number], sequences, step))
                theirs, ours = (statistics.median(part[1:]) for part in times)
                line = f"{name:<14}{'step' if step else 'forward':<10}{1e3 * theirs:>10.1f}{1e3 * ours:>10.1f}{ours / theirs:>8.3f}{gap:>20.1e}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
