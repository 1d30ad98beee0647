"""The sizes of MSAMamba's blocks, read from tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from harness.errors import CheckpointMismatch

from ._config import Settings, check_sizes
from ._mamba import MambaShape

SYMBOLS = len("-ACGT?")
# The settings of the authors' code, should a config.json lie beside the weights; the published ones have none.
SETTINGS: Settings = {"act": ("silu",), "norm": ("rmsnorm",), "vocab_size": (SYMBOLS,)}


@dataclass(frozen=True)
class BlockShape:
    """Sizes of a block. ``rows`` is the largest number of rows that have a position, in the layout ``column``."""

    width: int
    heads: int
    inner: int
    mixer: MambaShape
    rows: int = 128

    @property
    def parameters(self) -> int:
        """About how many parameters a block has: those of its matrices."""
        attention = 4 * self.heads * (self.width // 2)
        return self.width * (3 * self.mixer.inner + attention + 2 * self.inner)

    @classmethod
    def of_width(cls, width: int) -> Self:
        return cls(width, 4, 4 * width, MambaShape.of_width(width))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any], file: Path) -> Self | None:
        """That of a file's tensors (our names); None if they are another model's.

        Raises:
            CheckpointMismatch: the config contradicts them, or symbols or heads are not those of MSAMamba.
        """
        names = ("embed.weight", "layers.0.attention.out.weight", "layers.0.mlp.0.weight")
        mixer = MambaShape.of(tensors, "layers.0.mixer.")
        if mixer is None or any(name not in tensors or tensors[name].ndim != 2 for name in names):
            return None
        (symbols, width), (_, attended), (inner, _) = (tensors[name].shape for name in names)
        if symbols != SYMBOLS or width < 2 or attended % (width // 2):
            raise CheckpointMismatch(
                f"checkpoint {file}: {symbols} symbols and an attention of {attended} channels in a width of {width}; expected "
                f"the {SYMBOLS} of -ACGT? and heads of half the width; 0 tensors were loaded"
            )
        heads = attended // (width // 2)
        check_sizes(config, {"d_model": width, "n_heads": heads, "d_attn": width // 2, "d_mem": inner}, file)
        rows = tensors.get("layers.0.attention.rows")
        return cls(width, heads, inner, mixer, cls.rows if rows is None else len(rows))
