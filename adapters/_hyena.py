"""The Hyena operator (Poli et al. 2023, arXiv:2302.10866) and the blocks of HyenaDNA, with its authors' names of parameters."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.files.checkpoint import check_size

from ..kernels.causal_conv1d import causal_conv1d
from ..kernels.precision import without_autocast
from ._config import check_sizes, count_layers, stated


@dataclass(frozen=True)
class HyenaShape:
    """Sizes of a model, the epsilon of its last norm, and the dropout of its embedding in training.

    Its filters are made for windows of ``places`` positions by an MLP of width ``order`` with ``order_layers`` hidden layers,
    whose input is ``features`` numbers per position. The convolution before them is ``short`` positions long.
    """

    blocks: int = 2
    width: int = 128
    inner: int = 512
    places: int = 1026
    order: int = 64
    order_layers: int = 3
    features: int = 5
    short: int = 3
    epsilon: float = 1e-5
    dropout: float = 0.1

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> Self:
        """The shape of a file's tensors (our names), or the default one if they are another model's.

        Raises:
            CheckpointMismatch: the config contradicts them, or describes a model far larger than the file.
        """
        needed = ("embed.weight", "layers.0.mlp.fc1.weight", "layers.0.mixer.filter_fn.z", "layers.0.mixer.short_filter.weight")
        mlp = sorted(name for name in tensors if re.match(r"layers\.0\.mixer\.filter_fn\.implicit_filter\.\d+\.weight", name))
        if not mlp or any(name not in tensors for name in needed):
            return cls()
        embed, fc1, z, short = (tensors[name].shape for name in needed)
        if any(len(shape) != count for shape, count in ((embed, 2), (fc1, 2), (z, 3), (short, 3))):
            return cls()
        shape = cls(
            blocks=count_layers(config, "n_layer", tensors, "layers.", file),
            width=embed[1],
            inner=fc1[0],
            places=z[1],
            order=tensors[mlp[0]].shape[0],
            order_layers=len(mlp) - 1,
            features=z[2],
            short=short[2],
            epsilon=stated(config, "layer_norm_epsilon", cls.epsilon),
            dropout=stated(config, "embed_dropout", cls.dropout),
        )
        found = {
            **shape.settings,
            "layer.l_max": shape.places,
            "layer.filter_order": shape.order,
            "layer.emb_dim": shape.features,
            "layer.short_filter_order": shape.short,
        }
        check_sizes(config, found, file)
        block = shape.width * (4 * shape.width + 2 * shape.inner) + shape.places * (1 + shape.features)
        check_size(shape.blocks * block, file)
        return shape

    @property
    def settings(self) -> dict[str, int]:
        """The sizes as a ``config.json`` names them."""
        return {
            "d_model": self.width,
            "d_inner": self.inner,
            "max_seq_len": self.places,
            "filter_order": self.order,
            "num_inner_mlps": self.order_layers - 1,
            "emb_dim": self.features,
            "short_filter_order": self.short,
        }


def long_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution of x (B, D, L) with an equally long kernel (D, L), by FFT: out_t = sum_s kernel_s x_(t-s)."""
    length = x.shape[-1]
    size = 1 << (2 * length - 1).bit_length()  # long enough not to wrap around; a power of two suits every FFT
    return torch.fft.irfft(torch.fft.rfft(x, n=size) * torch.fft.rfft(kernel, n=size), n=size)[..., :length]


class Filter(nn.Module):
    """A convolution kernel as a function of position: an MLP with sines, times an exponential window (Poli et al. 2023, §3.3)."""

    t: Tensor
    z: Tensor
    deltas: Tensor

    def __init__(self, shape: HyenaShape, frequency: float = 10.0, shift: float = 0.05) -> None:
        super().__init__()
        self.shift = shift
        # The MLP's input: time from 0 to 1, then cosines and sines. Fixed, as in upstream's fine-tuning.
        bands = (shape.features - 1) // 2
        t = torch.linspace(0, 1, shape.places)[:, None]
        angle = torch.arange(shape.places)[:, None] * (2 * math.pi / shape.places) * torch.linspace(1e-4, bands - 1, bands)
        self.register_buffer("t", t[None])  # (1, places, 1)
        self.register_buffer("z", torch.cat([t, angle.cos(), -angle.sin()], dim=1)[None])  # (1, places, features)
        widths = [shape.features] + shape.order_layers * [shape.order]
        layers = [nn.Linear(*pair) for pair in itertools.pairwise(widths)] + [nn.Linear(shape.order, shape.width, bias=False)]
        self.implicit_filter = nn.ModuleDict({str(2 * number): layer for number, layer in enumerate(layers)})  # sines between
        self.freq = nn.Parameter(torch.full((1, shape.order), frequency))
        slowest, fastest = math.log(1e-2) / 1.5, math.log(1e-2) / 0.3
        self.register_buffer("deltas", torch.linspace(slowest, fastest, shape.width)[None, None])
        self.bias = nn.Parameter(torch.randn(shape.width))

    def forward(self, length: int) -> Tensor:
        """The kernel (D, length), computed in float32, because the sines are sensitive to rounded positions."""
        *hidden, last = self.implicit_filter.values()
        x = self.z[0, :length]
        with without_autocast(x.device):
            for layer in hidden:
                x = torch.sin(self.freq * layer(x))
            window = torch.exp(-self.t[0, :length] * self.deltas[0].abs()) + self.shift
            return (last(x) * window).T


class Hyena(nn.Module):
    """Order-2 Hyena operator, (B, L, D) → the same: out(q · h * (k · v)), with q, k and v after a short convolution."""

    def __init__(self, shape: HyenaShape) -> None:
        super().__init__()
        width = shape.width
        self.in_proj = nn.Linear(width, 3 * width)
        self.short_filter = nn.Conv1d(3 * width, 3 * width, shape.short, groups=3 * width)
        self.filter_fn = Filter(shape)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.in_proj(x).transpose(1, 2)  # (B, 3 D, L), a view of channels-last memory, which suits the kernel
        mixed = causal_conv1d(projected, self.short_filter.weight[:, 0], self.short_filter.bias)
        assert not isinstance(mixed, tuple)
        q, k, v = mixed.float().chunk(3, dim=1)
        v = v * k
        v = long_convolution(v, self.filter_fn(v.shape[-1])) + v * self.filter_fn.bias[:, None]
        return self.out_proj((v * q).transpose(1, 2))


class Block(nn.Module):
    """Hyena and an MLP, each after a LayerNorm and with a residual."""

    def __init__(self, shape: HyenaShape) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.mixer = Hyena(shape)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(shape.width, shape.inner), "fc2": nn.Linear(shape.inner, shape.width)})

    def forward(self, x: Tensor) -> Tensor:  # (B, L, D)
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)), approximate="tanh"))
