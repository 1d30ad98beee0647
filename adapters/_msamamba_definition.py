"""MSAMamba in plain torch: the specification that the fast adapter in ``msamamba.py`` is held to.

Every row of every block is computed, one operation after the other. The paper is Thoutam & Ellsworth 2024 (OpenReview
PogdVDgGFT). The authors' released code and weights differ from it in the attention, as :func:`attention` says.

    tokens   (B, S, L)     -ACGT? as 0 to 5; row 0 of S is the target
    x        (B, S, L, D)  hidden states
    weights                tensors by the names of ``MSAMamba.state_dict()``
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.causal_conv1d.definition import causal_conv1d
from ..kernels.selective_scan.definition import selective_scan

Weights = Mapping[str, Tensor]


def encode(weights: Weights, tokens: Tensor, scanned: Tensor | None = None, masking: str = "scan") -> Tensor:
    """Last hidden states (B, S, L, D). ``scanned`` (B, K) are the rows that are scanned, by default all; see :func:`block`."""
    x = weights["embed.weight"][tokens.long()]
    reads = x.new_ones(tokens.shape[:2]) if scanned is None else x.new_zeros(tokens.shape[:2]).scatter(1, scanned, 1)
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    for number in range(blocks):
        prefix = f"layers.{number}."
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        x = block(own, x, reads, masking)
    return x


def logits(weights: Weights, hidden: Tensor) -> Tensor:
    """Logits (…, 6) of the symbols at hidden states (…, D)."""
    return _linear(weights, "lm_head", hidden)


def block(weights: Weights, x: Tensor, reads: Tensor, masking: str = "scan") -> Tensor:
    """Scan, attention and MLP, each with a residual and a norm after it.

    ``reads`` (B, S) is 1 for the rows that are scanned and 0 for those that row-sparse training leaves out. These keep their
    residual alone: in the scan (Algorithm 1 of the paper); with ``masking`` "block" in the attention and the MLP, too, where
    other rows still attend to them.
    """
    reads = reads[:, :, None, None]
    asks = reads if masking == "block" else torch.ones_like(reads)
    normed = F.layer_norm(x, x.shape[-1:], weights["norm.weight"], weights["norm.bias"])
    mixed = mamba(weights, normed.flatten(0, 1)).view_as(x) * reads
    x = rms_norm(weights["norm1.scale"], mixed + x)
    x = rms_norm(weights["norm2.scale"], attention(weights, x) * asks + x)
    mlp = _linear(weights, "mlp.2", F.silu(_linear(weights, "mlp.0", x)))
    return rms_norm(weights["norm3.scale"], mlp * asks + x)


def mamba(weights: Weights, x: Tensor) -> Tensor:
    """The mixer of Gu & Dao 2023 (arXiv:2312.00752) along rows (B, L, D), as mamba_ssm's ``Mamba``."""
    rank, state = weights["mixer.dt_proj.weight"].shape[1], weights["mixer.A_log"].shape[1]
    u, z = _linear(weights, "mixer.in_proj", x).transpose(1, 2).chunk(2, dim=1)  # (B, E, L)
    u = causal_conv1d(u, weights["mixer.conv1d.weight"][:, 0], weights["mixer.conv1d.bias"], True, None)
    delta, B, C = _linear(weights, "mixer.x_proj", u.transpose(1, 2)).split([rank, state, state], dim=-1)
    delta = F.linear(delta, weights["mixer.dt_proj.weight"]).transpose(1, 2)
    A, B, C = -torch.exp(weights["mixer.A_log"]), B.transpose(1, 2)[:, None], C.transpose(1, 2)[:, None]
    y, _ = selective_scan(u, delta, A, B, C, weights["mixer.D"], z, weights["mixer.dt_proj.bias"], True)
    return _linear(weights, "mixer.out_proj", y.transpose(1, 2))


def attention(weights: Weights, x: Tensor) -> Tensor:
    """Softmax attention among rows, with heads half as wide as the model.

    With learned row positions (``attention.rows``) it is the paper's: the rows of one column attend to each other. Without, it
    is that of the released weights, whose code reshapes where it should transpose: the alignment, written row after row as
    head-wide chunks, is cut into groups of S neighbours, and these attend to each other.
    """
    B, S, L, D = x.shape
    heads = weights["attention.out.weight"].shape[1] // (D // 2)
    if "attention.rows" in weights:
        x = x + weights["attention.rows"][:S, None]
        qkv = _linear(weights, "attention.qkv", x).view(B, S, L, heads, -1).permute(0, 2, 3, 1, 4)  # (B, L, H, S, 3 W)
    else:
        qkv = _linear(weights, "attention.qkv", x).reshape(B, L, heads, S, -1)
    q, k, v = qkv.chunk(3, dim=-1)
    attended = (q @ k.mT / (D // 2) ** 0.5).softmax(dim=-1) @ v  # (B, L, H, S, W)
    if "attention.rows" in weights:
        attended = attended.permute(0, 3, 1, 2, 4)
    return _linear(weights, "attention.out", attended.reshape(B, S, L, -1))


def rms_norm(scale: Tensor, x: Tensor) -> Tensor:
    """Root-mean-square norm, with the authors' epsilon outside the root."""
    return scale * x / (x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5 + 1e-8)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
