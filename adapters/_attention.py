"""Dropout and attention as torch's own, in forms that are quick where torch's are not: training on a CPU.

torch's CPU dropout draws one double a number from a serial generator, a tenth of a profiled bf16 step of a 12-layer BERT, and
with dropout its attention converts to float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # a mask's numbers are drawn with 16 bits each


def dropout(x: Tensor, rate: float, training: bool = True) -> Tensor:
    """``F.dropout``: zero with probability ``rate``, to the nearest 1/65,536, and scaled up otherwise; any shape and type.

    On the CPU four numbers' bits are one draw of torch's generator, so that ``torch.manual_seed`` repeats them.
    """
    if not training or rate == 0.0 or x.device.type != "cpu":
        return F.dropout(x, rate, training)
    dropped = round(rate * LEVELS)
    if dropped == LEVELS:
        return x * 0.0
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = draws.view(torch.int16)[: x.numel()].ge_(dropped - LEVELS // 2)  # in place: 0 or 1, without a slow conversion
    return x * keep.view(x.shape).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """``nn.Dropout`` by :func:`dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """``F.scaled_dot_product_attention``: queries (B, H, Q, W) on keys and values (B, H, T, W) → (B, H, Q, W).

    ``mask``, broadcast to (B, H, Q, T), is true at what may be read, or is added to the scores. ``rate`` is the dropout of the
    probabilities, 0 in evaluation.
    """
    if rate == 0.0 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask, rate)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return dropout(scores.softmax(dim=-1), rate) @ v
