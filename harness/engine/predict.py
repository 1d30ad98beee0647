"""predict(): a model's outputs. embed(): frozen embeddings. And what training shares with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from harness.data import Example

from .classifier import Classifier, ZeroShot

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
    return classifier.kind.outputs(_apply(classifier, classifier.forward, examples, accelerator, precision, batch_size))


def embed(
    classifier: Classifier,
    examples: Sequence[Example],
    accelerator: Accelerator,
    *,
    precision: str = "float32",
    batch_size: int = PREDICT_BATCH,
) -> np.ndarray:
    """Embeddings (examples, windows × D) as float32, in the order of ``examples``."""
    return _apply(classifier, classifier.embed, examples, accelerator, precision, batch_size)


def _apply(
    classifier: Classifier | ZeroShot,
    function: Callable[[dict[str, Tensor]], Tensor],
    examples: Sequence[Example],
    accelerator: Accelerator,
    precision: str,
    batch_size: int,
) -> np.ndarray:
    """Apply ``function`` to all examples in evaluation mode, the longest first: little padding, and early failure.

    When memory runs out, batches are halved.
    """
    was_training = classifier.training
    classifier.eval()
    by_length = sorted(range(len(examples)), key=lambda index: -length(examples[index]))
    mine = by_length[accelerator.process_index :: accelerator.num_processes]
    parts: list[tuple[list[int], np.ndarray]] = []
    largest_batch = max(PREDICT_LETTERS // _letters(examples[by_length[0]]), 1)
    size, start = min(max(batch_size, PREDICT_BATCH), largest_batch), 0
    with torch.inference_mode():
        while start < len(mine):
            indices = mine[start : start + size]
            batch = classifier.collate([examples[index] for index in indices])
            try:
                with autocast(accelerator.device, precision):
                    output = function(to_device(batch, accelerator.device)).float().cpu().numpy()
            except RuntimeError as error:
                if size == 1 or not out_of_memory(error):
                    raise
                size //= 2
                continue
            parts.append((indices, output.copy()))  # a copy, because output may be a view of all hidden states
            start += size
    classifier.train(was_training)
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    result = np.empty((len(examples), parts[0][1].shape[1]), np.float32)
    for indices, output in parts:
        result[indices] = output
    return result


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
