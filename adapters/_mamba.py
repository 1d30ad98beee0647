"""The Mamba mixer (Gu & Dao 2023, arXiv:2312.00752) on the project's kernels, with mamba_ssm's parameter names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.causal_conv1d import causal_conv1d
from ..kernels.selective_scan import selective_scan
from ._config import check_sizes, stated


@dataclass(frozen=True)
class MambaShape:
    """Sizes of a mixer: E inner channels, N states of each, the ``conv`` positions of its convolution, and Delta's rank."""

    inner: int
    state: int
    conv: int
    rank: int

    @classmethod
    def of_width(cls, width: int) -> Self:
        """Those of mamba_ssm for a width, where nothing else is asked for."""
        return cls(2 * width, 16, 4, math.ceil(width / 16))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], prefix: str) -> Self | None:
        """Those of a mixer's tensors, whose names begin with ``prefix``; None if some are not there."""
        found = [tensors.get(f"{prefix}{name}") for name in ("A_log", "conv1d.weight", "dt_proj.weight")]
        if any(tensor is None or tensor.ndim < 2 for tensor in found):
            return None
        (inner, state), conv, rank = (tensor.shape for tensor in found if tensor is not None)
        return cls(inner, state, conv[-1], rank[1])

    def check(self, width: int, config: Mapping[str, Any], file: Path) -> None:
        """Check that the ``ssm_cfg`` of a configuration has these sizes; it gives E as a multiple of the width.

        Raises:
            CheckpointMismatch: it has others.
        """
        expand, rank = stated(config, "ssm_cfg.expand", 0), stated(config, "ssm_cfg.dt_rank")
        fits = isinstance(expand, int | float) and 0 < expand <= self.inner and int(expand * width) == self.inner
        automatic = rank == "auto" and self.rank == math.ceil(width / 16)
        found = {
            "ssm_cfg.d_state": self.state,
            "ssm_cfg.d_conv": self.conv,
            "ssm_cfg.expand": expand if fits else self.inner / width,
            "ssm_cfg.dt_rank": rank if automatic else self.rank,
        }
        check_sizes(config, found, file)

    def config(self, width: int) -> dict[str, Any]:
        """The sizes as the ``ssm_cfg`` of a configuration has them; what :meth:`check` accepts."""
        expand: float = self.inner // width
        if expand * width != self.inner:
            expand = math.nextafter(self.inner / width, math.inf)  # mamba_ssm rounds expand * width down
        rank = "auto" if self.rank == math.ceil(width / 16) else self.rank
        return {"d_state": self.state, "d_conv": self.conv, "expand": expand, "dt_rank": rank}


class Mamba(nn.Module):
    """Selective state space mixer, left to right: (B, L, D) → (B, L, D).

    Tensors are stored channels last, and the kernels take (B, E, L) views of them, so nothing is transposed in memory. Without
    ``projections`` only :meth:`scan` works, for a second direction that shares the projections of the first.
    ``shape`` is by default that of mamba_ssm.
    """

    def __init__(self, width: int, shape: MambaShape | None = None, projections: bool = True) -> None:
        super().__init__()
        shape = shape or MambaShape.of_width(width)
        inner, state = shape.inner, shape.state
        self.state, self.rank = state, shape.rank
        if projections:
            self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, shape.conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        if projections:
            self.out_proj = nn.Linear(inner, width, bias=False)
        self.A_log._no_weight_decay = self.D._no_weight_decay = True  # type: ignore[attr-defined]
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():  # softplus(bias) is log-uniform in [0.001, 0.1]
            step = torch.exp(torch.rand(inner) * math.log(100) + math.log(0.001)).clamp(min=1e-4)
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.scan(self.in_proj(x)))

    def scan(self, projected: Tensor, reverse: bool = False) -> Tensor:
        """All between the projections, convolution, scan and gate: (B, L, 2 E) → (B, L, E), or from right to left."""
        u, z = projected.transpose(1, 2).chunk(2, dim=1)  # (B, E, L) each
        u = causal_conv1d(u, self.conv1d.weight[:, 0], self.conv1d.bias, activation="silu", reverse=reverse)
        assert not isinstance(u, tuple)
        delta, B, C = self.x_proj(u.transpose(1, 2)).split([self.rank, self.state, self.state], dim=-1)
        y = selective_scan(
            u,
            F.linear(delta, self.dt_proj.weight).transpose(1, 2),
            -torch.exp(self.A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            D=self.D,
            z=z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            reverse=reverse,
        )
        assert not isinstance(y, tuple)
        return y.transpose(1, 2)
