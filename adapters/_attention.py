"""Dropout and attention as torch's own, but faster where torch's are slow: training on a CPU.

torch's CPU dropout draws one double per number from a serial generator, which takes a tenth of a 12-layer BERT's bf16 training
step; and its attention with dropout converts to float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16  # each number of a mask is drawn with 16 bits


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """``F.dropout``: zero with probability ``rate``, rounded to 1/65,536, and scaled up otherwise; any shape and dtype.

    On the CPU one draw of torch's generator serves four numbers. ``torch.manual_seed`` makes the masks repeatable.
    """
    if not training or rate == 0.0 or x.device.type != "cpu":
        return F.dropout(x, rate, training)
    dropped = round(rate * LEVELS)
    if dropped == LEVELS:
        return x * 0.0
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[: x.numel()].ge_(dropped - LEVELS // 2)  # in place: 0 or 1, without a slow conversion
    return x * keep.view(x.shape).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def additive(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask as :func:`attend` adds it to the scores of states ``x``, in the type that it computes in: so for all layers once."""
    if mask is None:
        return None
    device = x.device.type
    casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if casts else x.dtype
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """``F.scaled_dot_product_attention``: queries (B, H, Q, W) on keys and values (B, H, T, W) → (B, H, Q, W).

    ``mask`` broadcasts to (B, H, Q, T). A boolean one is true where attention is allowed; any other is added to the scores.
    ``rate`` is the dropout of the attention probabilities, 0 in evaluation.
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    if rate == 0.0 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask, rate)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if (added := additive(mask, scores)) is not None:  # the same to the bit as filling, and in bf16 several times as fast
        scores = scores + added
    return dropout(scores.softmax(dim=-1), rate) @ v
