"""predict(): class probabilities. embed(): frozen embeddings. What every pass over a model's examples shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from harness.data import Example

from .classifier import Classifier, ZeroShot

PREDICT_BATCH = 64  # examples of an evaluation's batch, at least one
PREDICT_LETTERS = 1 << 18  # of it, alignments included, which would otherwise fill any memory


def predict(
    classifier: Classifier | ZeroShot,
    examples: Sequence[Example],
    accelerator: Accelerator,
    *,
    precision: str = "float32",
    batch_size: int = PREDICT_BATCH,
) -> np.ndarray:
    """Class probabilities (examples, classes) as float64, in the order of ``examples``; rows sum to 1."""
    return softmax(_apply(classifier, classifier.forward, examples, accelerator, precision, batch_size))


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
    """``function`` of every example, in evaluation mode, longest first so that batches pad little and fail early."""
    was_training = classifier.training
    classifier.eval()
    by_length = sorted(range(len(examples)), key=lambda index: -length(examples[index]))
    mine = by_length[accelerator.process_index :: accelerator.num_processes]
    parts: list[tuple[list[int], np.ndarray]] = []
    most = max(PREDICT_LETTERS // _letters(examples[by_length[0]]), 1)
    size, start = min(max(batch_size, PREDICT_BATCH), most), 0
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
            parts.append((indices, output.copy()))  # output may be a view of every token's hidden states
            start += size
    classifier.train(was_training)
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    result = np.empty((len(examples), parts[0][1].shape[1]), np.float32)
    for indices, output in parts:
        result[indices] = output
    return result


def length(example: Example) -> int:
    return max(len(window) for window in example.windows)


def _letters(example: Example) -> int:
    return sum(len(window) if window.alignment is None else window.alignment.size for window in example.windows)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch's tensors on the device."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context that computes in bf16 where ``precision`` says so, and as usual otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(np.float64(logits) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's log_loss, clipped as there so that one sure mistake is not infinite."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(chosen, np.finfo(np.float64).eps, None)).mean())


def out_of_memory(error: RuntimeError) -> bool:
    """Whether this is how torch reports that memory is short, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "can't allocate memory" in str(error)
