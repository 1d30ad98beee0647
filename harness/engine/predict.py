"""predict(): a model's outputs. embed(): frozen embeddings. And what training shares with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from harness.adapter import Batch
from harness.data import Example

from .bases import BaseReader
from .batches import Batches
from .classifier import Classifier, ZeroShot

Parts = list[tuple[Sequence[int], Any]]  # rows' indices, and what was kept of their numbers
PREDICT_BATCH = 64  # examples in a batch; large alignments make batches smaller:
BLOCK = 1 << 24  # numbers by which sparse embeddings grow
PREDICT_LETTERS = 1 << 18  # letters in a batch, alignments included, unless a single example has more


def predict(
    classifier: Classifier | ZeroShot,
    examples: Sequence[Example],
    accelerator: Accelerator,
    *,
    precision: str = "float32",
    batch_size: int = PREDICT_BATCH,
) -> np.ndarray:
    """Class probabilities (examples, classes), rows of which sum to 1, as float64 and in the order of ``examples``.

    Of a regression they are numbers (examples, 1) in the task's unit, of a multi-label task the labels' probabilities.

    Batches hold ``batch_size`` examples, but at least PREDICT_BATCH where memory permits.
    """
    parts = _apply(classifier, classifier.forward, examples, accelerator, precision, batch_size, np.copy)
    return classifier.kind.outputs(_joined(parts, len(examples)))


def embed(
    classifier: Classifier | BaseReader,
    examples: Sequence[Example],
    accelerator: Accelerator,
    *,
    precision: str = "float32",
    batch_size: int = PREDICT_BATCH,
    sparse: bool = False,
) -> Any:
    """Embeddings (examples, windows × D) as float32, in the order of ``examples``: an array.

    With ``sparse``, they are a scipy ``csr_array`` if more than half of the numbers are zeros, which take no memory at any time.
    """
    if not sparse or accelerator.num_processes > 1:
        parts = _apply(classifier, classifier.embed, examples, accelerator, precision, batch_size, np.copy)
        return _joined(parts, len(examples))
    rows = _SparseRows()
    _apply(classifier, classifier.embed, examples, accelerator, precision, batch_size, rows.add, by_length=False)
    found = rows.matrix()
    return found if 2 * found.nnz < found.shape[0] * found.shape[1] else found.toarray()


def embed_bases(
    reader: BaseReader,
    examples: Sequence[Example],
    accelerator: Accelerator,
    *,
    precision: str = "float32",
    batch_size: int = PREDICT_BATCH,
) -> list[np.ndarray]:
    """States of the bases of each example's only window, (length, D) as float32, in the order of ``examples``.

    NaN for a base that no token holds.
    """
    found: list[Any] = [None] * len(examples)
    for indices, states in _apply(reader, reader.forward, examples, accelerator, precision, batch_size, np.copy):
        for index, row in zip(indices, states, strict=True):
            found[index] = row[: length(examples[index])]
    return found


def _joined(parts: Parts, count: int) -> np.ndarray:
    """One array (count, …) of parts, each of which lists the rows it holds."""
    result = np.empty((count, parts[0][1].shape[1]), np.float32)
    for indices, output in parts:
        result[indices] = output
    return result


class _Numbers:
    """An array that grows by blocks, and is joined block by block: never in memory twice.

    Blocks are the system's own pages, because memory that is freed otherwise is kept for tensors (see ``engine/__init__.py``).
    """

    def __init__(self, dtype: type[np.generic]) -> None:
        self.dtype, self.blocks, self.room = dtype, list[np.ndarray](), 0

    def add(self, numbers: np.ndarray) -> None:
        while len(numbers):
            if not self.room:
                self.blocks.append(np.frombuffer(mmap(-1, BLOCK * np.dtype(self.dtype).itemsize), self.dtype))
                self.room = BLOCK
            start, taken = BLOCK - self.room, numbers[: self.room]
            self.blocks[-1][start : start + len(taken)] = taken
            self.room -= len(taken)
            numbers = numbers[len(taken) :]

    def joined(self) -> np.ndarray:
        whole = np.empty(len(self.blocks) * BLOCK - self.room, self.dtype)
        for start in range(0, len(whole), BLOCK):
            part = whole[start : start + BLOCK]
            part[:] = self.blocks.pop(0)[: len(part)]
        return whole


class _SparseRows:
    """A csr_array that grows by rows."""

    def __init__(self) -> None:
        self.width, self.ends = 0, [np.zeros(1, np.int64)]
        self.values, self.columns = _Numbers(np.float32), _Numbers(np.int32)

    def add(self, output: np.ndarray) -> None:
        """Rows (B, D) below those so far."""
        rows, columns = output.nonzero()
        self.width = output.shape[1]
        self.values.add(output[rows, columns])
        self.columns.add(columns)
        self.ends.append(self.ends[-1][-1] + np.bincount(rows, minlength=len(output)).cumsum())

    def matrix(self) -> Any:
        """The csr_array (N, D)."""
        from scipy.sparse import csr_array

        ends = np.concatenate(self.ends)
        if ends[-1] < 2**31:  # both index arrays need one type, and the smaller one takes half the memory
            ends = ends.astype(np.int32)
        return csr_array((self.values.joined(), self.columns.joined(), ends), shape=(len(ends) - 1, self.width))


def _apply(
    classifier: Classifier | ZeroShot | BaseReader,
    function: Callable[[dict[str, Tensor]], Tensor],
    examples: Sequence[Example],
    accelerator: Accelerator,
    precision: str,
    batch_size: int,
    keep: Callable[[np.ndarray], Any],
    by_length: bool = True,
) -> Parts:
    """``function`` of all examples in evaluation mode, in parts; the longest first: little padding, and early failure.

    Without ``by_length``, they come in their own order.

    Of each part, ``keep`` copies what is to be kept, because an output may be a view of all hidden states. When memory runs out,
    batches are halved.
    """
    was_training = classifier.training
    classifier.eval()
    longest_first = sorted(range(len(examples)), key=lambda index: -length(examples[index]))
    mine = (longest_first if by_length else range(len(examples)))[accelerator.process_index :: accelerator.num_processes]
    parts: Parts = []
    largest_batch = max(PREDICT_LETTERS // _letters(examples[longest_first[0]]), 1)
    size, start = min(max(batch_size, PREDICT_BATCH), largest_batch), 0
    with torch.inference_mode():
        while start < len(mine):
            chunks = [mine[first : first + size] for first in range(start, len(mine), size)]
            batches = Batches(
                lambda indices: collated(classifier, [examples[index] for index in indices], accelerator.device),
                chunks,
                accelerator.device,
            )
            try:
                for indices, batch in zip(chunks, batches, strict=True):
                    with autocast(accelerator.device, precision):
                        output = function(to_device(batch, accelerator.device)).float().cpu().numpy()
                    parts.append((indices, keep(output)))
                    start += size
            except RuntimeError as error:
                if size == 1 or not out_of_memory(error):
                    raise
                size //= 2
    classifier.train(was_training)
    return gather_object(parts) if accelerator.num_processes > 1 else parts


def length(example: Example) -> int:
    """Length of the longest window in nucleotides."""
    return max(len(window) for window in example.windows)


def _letters(example: Example) -> int:
    return sum(len(window) if window.alignment is None else window.alignment.size for window in example.windows)


def collated(classifier: Classifier | ZeroShot | BaseReader, examples: Sequence[Example], device: torch.device) -> Batch:
    """The examples' batch, on the CPU still, with what the adapter adds for an accelerator where ``device`` is one."""
    batch = classifier.collate(examples)
    if device.type == "cpu" or not isinstance(classifier, Classifier):
        return batch
    return classifier.adapter.for_accelerator(batch)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all tensors on ``device``; from pinned memory the host does not wait for the copies."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context that computes in bfloat16 if ``precision`` is ``bf16``, and changes nothing otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch reports a shortage of memory with this error, on any device.

    A library that torch calls says so in its own words: ``CUDA error: out of memory``, ``CUBLAS_STATUS_ALLOC_FAILED``.
    """
    words = ("not enough memory", "can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
