"""embed(): embeddings of sequences, pooled as the model does or base by base after any block; in memory, or to a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

import harness
from harness.adapter import Adapter, BaseResolved
from harness.data import Example, Window
from harness.engine import hardware
from harness.engine.bases import BaseReader
from harness.engine.build import ModelRequest
from harness.engine.cache import EmbeddingCache
from harness.engine.classifier import Classifier
from harness.engine.predict import PREDICT_BATCH, embed_bases
from harness.engine.predict import embed as embed_windows
from harness.errors import BadData, HarnessError, UserError
from harness.progress import Reporter
from harness.registry import model_facts

from .embedding_files import Npz, check_out, embedding_file
from .inputs import VARIANTS, Entry, Input, as_window, together

CHUNK = 4096  # sequences that are embedded, and written, together,
CHUNK_NUMBERS = 1 << 26  # unless the states of their bases are more numbers than this
SAMPLE = 1024  # sequences whose unknown tokens are counted
LARGE = 1 << 30  # bytes of an .npz above which its need of memory is said
FORMAT = 1  # of the metadata


@dataclass
class Embedder:
    """A model as it is asked for embeddings.

    ``layer`` is the block whose states are read, counted from 1; None where the model pools. Without ``per_base``, a layer's
    states are averaged over the window's bases; with neither, the embedding is the model's own.

    Raises:
        UserError: the model has no states of bases, or no such block.
    """

    adapter: Adapter
    accelerator: Accelerator
    precision: str = "float32"
    layer: int | None = None
    per_base: bool = False
    batch_size: int = PREDICT_BATCH

    def __post_init__(self) -> None:
        self.reader = BaseReader(self.adapter, self.layer) if self.per_base or self.layer is not None else None

    @property
    def pooling(self) -> str:
        """How tokens become an embedding, in words."""
        if self.per_base:
            return "of each base, the mean of the tokens that hold it"
        if self.layer is not None:
            return "the mean over bases, each the mean of the tokens that hold it"
        first = (type(self.adapter).__doc__ or "").split(".\n")[0]
        return " ".join(first.removeprefix("Embedding:").split())

    def __call__(self, examples: Sequence[Example], cache: EmbeddingCache | None = None) -> Any:
        """Embeddings float32 (N, windows × D), or per base a list of (length, D).

        For a variant they are those of the reference, and their difference to the alternate's.
        """
        if self.reader is not None and self.per_base:
            return embed_bases(self.reader, examples, self.accelerator, **self._how)
        if cache is not None:
            return cache.gather(examples, self._pooled)
        return self._pooled(examples)

    def _pooled(self, examples: Sequence[Example]) -> np.ndarray:
        source = self.reader
        if source is None:  # a classifier, as that of a probe, whose head is not asked
            source = Classifier(self.adapter, 1, self.adapter.recipe.override(tune="probe"), len(examples[0].windows))
            source.to(self.accelerator.device)
        return embed_windows(source, examples, self.accelerator, **self._how)

    @property
    def _how(self) -> dict[str, Any]:
        return {"precision": self.precision, "batch_size": self.batch_size}

    def check(self, entry: Entry) -> None:
        """Refuse what the model cannot read, and say where it stands.

        Raises:
            BadData: a window is too long.
            UserError: a variant, base by base.
        """
        if self.reader is not None and len(entry.windows) > 1:
            raise UserError(f"{entry.where}: a variant has two windows; leave --per-base and --layer out")
        longest, limit = max(entry.windows, key=len), self.adapter.max_length
        if limit is not None and len(longest) > limit:
            try:
                self.adapter.collate([longest])  # says what remedy the model has
            except HarnessError as error:
                raise BadData(f"{entry.where}: {error}") from None
            raise BadData(f"{entry.where}: {len(longest)} nt, but {self.adapter.name} takes at most {limit}")


def embed(
    model: Adapter,
    sequences: Sequence[str | Window],
    *,
    per_base: bool = False,
    layer: int | None = None,
    batch_size: int = PREDICT_BATCH,
) -> Any:
    """Embeddings of sequences in any usual spelling, or of windows: float32 (N, D); ``per_base``, a list of (length, D).

    Computed in float32 where the model is. Each base has the mean of the states of the tokens that hold it, after the block
    ``layer`` (from 1; by default where the model pools), and NaN if no token does; special tokens are left out. With a layer and
    not ``per_base``, an embedding is the mean over the bases.

    Raises:
        UserError: the model has no states of bases, or no such block.
        BadData: a sequence is empty, has letters that are no nucleotide codes, or is longer than the model takes.
    """
    if isinstance(sequences, str | Window):
        raise UserError("sequences: one alone; give a list of them")
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    embedder = Embedder(model, Accelerator(cpu=device.type == "cpu"), "float32", layer, per_base, batch_size)
    examples = []
    for number, sequence in enumerate(sequences):
        window = as_window(sequence, f"sequence {number}")
        embedder.check(Entry(str(number), (window,), None, f"sequence {number}"))
        examples.append(Example(str(number), (window,), 0))
    if not examples:
        return [] if per_base else np.empty((0, model.embedding_dim), np.float32)
    return embedder(examples)


def embed_file(
    request: ModelRequest,
    source: Input,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    per_base: bool = False,
    layer: int | None = None,
    batch_size: int = PREDICT_BATCH,
    force: bool = False,
    reporter: Reporter | None = None,
) -> int:
    """Embed everything in ``source`` and write ``out``: .parquet, .npz or .zarr, by its ending. Returns how many there were.

    Ids and order are the input's; bases go 5'→3' on an interval's strand. The metadata say which model, weights, layer and
    pooling it was. Pooled embeddings are taken from the cache where a probe, or an earlier call, left them. ``seed`` draws random
    weights. ``layer`` and ``per_base`` are those of :func:`embed`.

    Raises:
        UserError: ``out`` cannot be written, the model cannot be built, or it has no states of bases, or no such layer.
        BadData: the input cannot be read, or has a window longer than the model takes; nothing was written.
    """
    reporter = reporter or Reporter()
    check_out(out, force)
    accelerator = hardware.accelerator(device)
    device_type, precision = hardware.resolve(device, precision)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter = request.build().to(accelerator.device).eval()
        embedder = Embedder(adapter, accelerator, precision, layer, per_base, batch_size)
    count = _look_through(source, embedder, reporter)
    has_weights = next(adapter.parameters(), None) is not None
    if has_weights and adapter.audit is None:
        reporter.say(f"{adapter.name}: its weights are random, drawn from seed {seed}")
    more = [] if layer is None else ["mean over bases", layer]
    cache = EmbeddingCache.of(request, adapter, seed, device_type, precision, *more) if has_weights else None
    about = _about(request, embedder, seed, source.kind)
    said, without = False, 0
    with embedding_file(out, about, per_base) as file:
        for entries in _chunks(source, embedder):
            found = embedder([entry.example for entry in entries], cache)
            file.add([entry.id for entry in entries], found)
            without += sum(int(np.isnan(part[:, 0]).sum()) for part in found) if per_base else 0
            if isinstance(file, Npz) and file.bytes > LARGE and not said:
                said = True
                reporter.say("an .npz is held in memory until its end; .parquet and .zarr are written as they come")
    if without:
        reporter.say(f"{without:,} bases are held by no token of {adapter.name}: their numbers are NaN")
    reporter.conclude(f"{count:,} sequences → {out}  ({_size(out)})")
    return count


def _look_through(source: Input, embedder: Embedder, reporter: Reporter) -> int:
    """How many entries there are, all of which the model can read; says what the files have of note."""
    count, first, aligned, adapter = 0, list[Window](), False, embedder.adapter
    for entry in source:
        embedder.check(entry)
        count += 1
        first += entry.windows if count <= SAMPLE else ()
        aligned = aligned or entry.windows[0].alignment is not None
    if not count:
        raise BadData(f"{', '.join(map(str, source.paths))}: no sequence in it; there is nothing to embed")
    for note in source.notes:
        reporter.say(note)
    if counts := ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in source.changes.items() if number):
        reporter.say(f"counted: {counts}")
    if adapter.card.reads == "alignment" and not aligned:
        reporter.say(f"{adapter.name} reads alignments: sequences alone, as here, are not what it was trained for")
    unknown = [adapter.unknown_tokens(adapter.collate(first[start : start + 64])) for start in range(0, len(first), 64)]
    if number := sum(one for one, _ in unknown):
        share = number / sum(total for _, total in unknown)
        reporter.say(f"{share:.2%} of the tokens of the first {min(count, SAMPLE):,} sequences are unknown to {adapter.name}")
    return count


def _chunks(source: Input, embedder: Embedder) -> Iterator[list[Entry]]:
    """Entries to embed together: many, but for base by base not more than memory holds."""
    most = CHUNK_NUMBERS // embedder.adapter.embedding_dim if embedder.per_base else CHUNK_NUMBERS
    return together(source, lambda entry: sum(map(len, entry.windows)), CHUNK, most)


def _about(request: ModelRequest, embedder: Embedder, seed: int, kind: str) -> dict[str, Any]:
    """The metadata of a file: all that determines its numbers, and what the rows are."""
    adapter, audit = embedder.adapter, embedder.adapter.audit
    drawn = audit is None or bool(audit.missing)
    given = {name: value for name, value in asdict(request).items() if name not in ("model", "checkpoint")}
    return {
        "format": FORMAT,
        "harness": harness.__version__,
        "model": model_facts(request.model).name,
        **given,
        "checkpoint": request.checkpoint,
        "fingerprint": request.fingerprint(),
        "seed": seed if drawn else None,
        "layer": embedder.layer,
        "layers": adapter.blocks if isinstance(adapter, BaseResolved) else None,
        "per_base": embedder.per_base,
        "pooling": embedder.pooling + ("; reference, then alternate minus reference" if kind == VARIANTS else ""),
        "precision": embedder.precision,
        "device": embedder.accelerator.device.type,
    }


def _size(path: Path) -> str:
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    return f"{total / 1e6:,.1f} MB"
