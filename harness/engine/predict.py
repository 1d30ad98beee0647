"""predict(): a model's outputs. embed(): frozen embeddings. And what training shares with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from harness.data import Example

from .batches import Batches
from .classifier import Classifier, ZeroShot

Parts = list[tuple[list[int], Any]]  # rows' indices, and their numbers as an array or a csr_array
PREDICT_BATCH = 64  # examples in a batch; large alignments make batches smaller:
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
    classifier: Classifier,
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
    keep = _without_zeros if sparse else np.copy
    parts = _apply(classifier, classifier.embed, examples, accelerator, precision, batch_size, keep)
    nonzero = sum(int(np.count_nonzero(part)) if isinstance(part, np.ndarray) else part.nnz for _, part in parts)
    if sparse and 2 * nonzero < len(examples) * parts[0][1].shape[1]:
        return _joined_sparse(parts, len(examples), nonzero)
    return _joined(
        [(indices, part if isinstance(part, np.ndarray) else part.toarray()) for indices, part in parts], len(examples)
    )


def _without_zeros(output: np.ndarray) -> Any:
    """A copy, as a csr_array if more than half of it is zeros."""
    from scipy.sparse import csr_array

    return csr_array(output) if 2 * np.count_nonzero(output) < output.size else output.copy()


def _joined(parts: Parts, count: int) -> np.ndarray:
    """One array (count, …) of parts, each of which lists the rows it holds."""
    result = np.empty((count, parts[0][1].shape[1]), np.float32)
    for indices, output in parts:
        result[indices] = output
    return result


def _joined_sparse(parts: Parts, count: int, nonzero: int) -> Any:
    """As :func:`_joined`, a csr_array with ``nonzero`` numbers. The parts are emptied, so that nothing is held twice."""
    from scipy.sparse import csr_array

    width = parts[0][1].shape[1]
    begins = np.zeros(count + 1, np.int32 if nonzero < 2**31 else np.int64)
    for indices, part in parts:
        begins[1:][indices] = np.diff(part.indptr) if not isinstance(part, np.ndarray) else np.count_nonzero(part, axis=1)
    np.cumsum(begins, out=begins)
    values, columns = np.empty(nonzero, np.float32), np.empty(nonzero, begins.dtype)
    while parts:
        indices, part = parts.pop()
        part = csr_array(part)
        for row, index in enumerate(indices):
            source, target = slice(*part.indptr[row : row + 2]), slice(*begins[index : index + 2])
            values[target], columns[target] = part.data[source], part.indices[source]
    return csr_array((values, columns, begins), shape=(count, width))


def _apply(
    classifier: Classifier | ZeroShot,
    function: Callable[[dict[str, Tensor]], Tensor],
    examples: Sequence[Example],
    accelerator: Accelerator,
    precision: str,
    batch_size: int,
    keep: Callable[[np.ndarray], Any],
) -> Parts:
    """``function`` of all examples in evaluation mode, in parts; the longest first: little padding, and early failure.

    Of each part, ``keep`` copies what is to be kept, because an output may be a view of all hidden states. When memory runs out,
    batches are halved.
    """
    was_training = classifier.training
    classifier.eval()
    by_length = sorted(range(len(examples)), key=lambda index: -length(examples[index]))
    mine = by_length[accelerator.process_index :: accelerator.num_processes]
    parts: Parts = []
    largest_batch = max(PREDICT_LETTERS // _letters(examples[by_length[0]]), 1)
    size, start = min(max(batch_size, PREDICT_BATCH), largest_batch), 0
    with torch.inference_mode():
        while start < len(mine):
            chunks = [mine[first : first + size] for first in range(start, len(mine), size)]
            batches = Batches(
                lambda indices: classifier.collate([examples[index] for index in indices]), chunks, accelerator.device
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


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch with all tensors on ``device``."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context that computes in bfloat16 if ``precision`` is ``bf16``, and changes nothing otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch reports a shortage of memory with this error, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "can't allocate memory" in str(error)
