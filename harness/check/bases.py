"""The clause on models whose states belong to bases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.adapter import BaseResolved
from harness.data import Window
from harness.engine.bases import of_bases
from harness.errors import UserError

from .candidate import Candidate, Skipped, Violation, device_of, finite, read, same, with_base


def base_states(model: Candidate) -> str:
    """every base has tokens, whose states show a change of it and do not depend on padding, after each layer"""
    adapter = model.adapter
    if not isinstance(adapter, BaseResolved):
        raise Skipped("the model has no states of tokens")

    def ask(windows: Sequence[Window], layer: int | None = None) -> Tensor:
        """States of the bases (B, L, D)."""
        with torch.inference_mode():
            return of_bases(adapter.hidden_states(read(adapter, windows), layer), ranges(windows).to(device_of(adapter)))

    def ranges(windows: Sequence[Window]) -> Tensor:
        found, shape = adapter.token_ranges(windows), (len(windows), max(map(len, windows)), 2)
        if found.shape != shape or found.dtype != torch.int64:
            raise Violation(f"token_ranges: {found.dtype} {tuple(found.shape)}, expected torch.int64 {shape}")
        for number, (window, rows) in enumerate(zip(windows, found, strict=True)):
            if not (rows[: len(window), 0] < rows[: len(window), 1]).all() or rows[len(window) :].any():
                raise Violation(f"token_ranges: window {number} of {len(window)} nt has a base without a token, or one too many")
        return found

    windows = model.windows(20, 60, 33, 47, 59, 21)
    for layer in (None, *range(1, adapter.blocks + 1)):
        states, alone = ask(windows, layer), [ask([window], layer)[0] for window in windows]
        for number, (found, expected) in enumerate(zip(states, alone, strict=True)):
            finite(expected, f"states after layer {layer} of window {number}")
            same(found[: len(expected)], expected, f"states after layer {layer} of a window in a batch of 20 to 60 nt, and alone")
    for at in (0, 12, 32):
        for base in "ACGT".replace(windows[2].sequence[at], ""):
            if torch.equal(ask([with_base(windows[2], at, base)])[0, at], ask([windows[2]])[0, at]):
                raise Violation(f"a change of base {at} to {base} does not change the states of its own tokens")
    try:
        ask(windows, adapter.blocks + 1)
    except UserError as error:
        return f"{adapter.blocks} layers, {states.shape[-1]} numbers a base; {error}"
    raise Violation(f"layer {adapter.blocks + 1} of {adapter.blocks} is accepted; raise a UserError that names the layers")
