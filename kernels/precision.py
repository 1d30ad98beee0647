"""In what type an operation is computed, and nothing around it that says otherwise."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def computed_in(*tensors: Tensor | None) -> torch.dtype:
    """float64 if one of the tensors is float64, else float32."""
    double = any(x is not None and x.dtype == torch.float64 for x in tensors)
    return torch.float64 if double else torch.float32


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which torch.autocast changes no types, also on devices that have none."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()
