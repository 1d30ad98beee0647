"""How much each letter of a window matters to a model's answer, found by gradients.

Captum's integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) go through the embeddings of tokens, and are shared out
to the letters of each token. They need a model with one embedding layer, and with states that belong to bases
(:class:`harness.adapter.BaseResolved`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from harness.adapter import BaseResolved
from harness.data import Example, Window
from harness.engine.classifier import Classifier
from harness.engine.kinds import Regression
from harness.engine.predict import autocast, to_device
from harness.errors import RunFailed, UserError

from .attribution import Attribution, Score, codes_of, explaining

SHUFFLES, STEPS = 4, 8  # baselines of a window, and points on the way from each, by Gauss and Legendre's rule
AT_ONCE = 16  # points
_OTHER = str.maketrans("ACGTN", "CGTAA")


def gradients(
    classifier: Classifier,
    windows: Sequence[Window],
    score: Score,
    device: torch.device,
    precision: str = "float32",
    step: Callable[[int], None] = lambda done: None,
) -> Attribution:
    """Integrated gradients of the score, through the embedding layer, from shuffled embeddings to a window's own.

    The mean over SHUFFLES baselines, in each of which the tokens that hold the window's bases are in a random order, the same in
    every call; special tokens stay in their places, and so do the other rows of an alignment. A token's attribution is shared
    out equally to the bases that it holds. ``hypothetical`` is 0 but for the window's own letters.

    Raises:
        UserError: Captum is not installed, the model has no embedding layer or more than one, or its tokens have no bases.
        RunFailed: a gradient is not a number.
    """
    integrated = explaining("captum.attr").IntegratedGradients
    adapter = classifier.adapter
    layer = _embedding_layer(classifier, windows[0], device, precision)
    if not isinstance(adapter, BaseResolved):
        raise UserError(f"method gradients: {adapter.name} does not say which bases its tokens hold; use --method mutagenesis")
    longest = max(map(len, windows))
    hypothetical = np.full((len(windows), longest, 4), np.nan, np.float32)
    scores = np.empty(len(windows))
    kind = classifier.kind
    unit, shift = (kind.scale.item(), kind.mean.item()) if isinstance(kind, Regression) else (1.0, 0.0)
    with _evaluating(classifier):
        for row, window in enumerate(windows):

            def answer(states: Tensor, window: Window = window) -> Tensor:
                with _embedded(layer, states):
                    return score.of_logits(_logits(classifier, [window] * len(states), device, precision), unit)

            with torch.no_grad():
                states, logits = _states(classifier, layer, window, device, precision)
            scores[row] = float(score.of_logits(logits, unit)[0]) + shift
            ranges = adapter.token_ranges([window])[0].cpu().numpy()  # (L, 2)
            held = _held(ranges, states.shape[-2])
            baselines = _baselines(states, held > 0)
            inputs = states.expand_as(baselines).clone().requires_grad_()
            found = integrated(answer).attribute(inputs, baselines, n_steps=STEPS, internal_batch_size=AT_ONCE)
            per_token = found.detach().double().mean(dim=0).sum(dim=-1).flatten()[: len(held)]  # of an alignment, the target's
            per_token = per_token.cpu().numpy()
            bases = _shared_out(per_token / np.maximum(held, 1), ranges)
            if not np.isfinite(bases).all():
                raise RunFailed(f"window {row + 1}: a gradient of the model's answer to it is not a number")
            hypothetical[row, : len(window)] = np.eye(5, dtype=np.float32)[codes_of(window.sequence), :4] * bases[:, None]
            step(row + 1)
    return Attribution(tuple(windows), scores, hypothetical)


def _embedding_layer(classifier: Classifier, window: Window, device: torch.device, precision: str) -> nn.Embedding:
    """The layer that embeds the tokens: the one whose input changes if all letters do.

    Raises:
        UserError: there is none, there are several, or it does not embed one row of tokens for a window.
    """
    other = replace(window, sequence=window.sequence.translate(_OTHER), alignment=_other_rows(window))
    seen = [_inputs(classifier, one, device, precision) for one in (window, other)]
    found = [layer for layer, ids in seen[0].items() if _differ(ids, seen[1].get(layer, []))]
    name = classifier.adapter.name
    if not found:
        raise UserError(f"method gradients: {name} has no embedding layer for its letters or tokens; use --method mutagenesis")
    (layer, *more), calls = found, seen[0][found[0]]
    if more or len(calls) != 1 or len(calls[0]) != 1:
        raise UserError(f"method gradients: {name} embeds its tokens more than once (both strands?); use --method mutagenesis")
    return layer


def _other_rows(window: Window) -> np.ndarray | None:
    if window.alignment is None:
        return None
    rows = window.alignment.copy()
    rows[0] = np.frombuffer(window.sequence.translate(_OTHER).encode(), np.uint8)
    return rows


def _inputs(classifier: Classifier, window: Window, device: torch.device, precision: str) -> dict[nn.Embedding, list[Tensor]]:
    """What each embedding layer is asked about a window."""
    seen = dict[nn.Embedding, list[Tensor]]()
    layers = [module for module in classifier.adapter.modules() if isinstance(module, nn.Embedding)]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: seen.setdefault(layer, []).append(given[0].detach()))  # type: ignore[arg-type]
        for layer in layers
    ]
    try:
        with torch.no_grad(), _evaluating(classifier):
            _logits(classifier, [window], device, precision)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _differ(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two calls' ids differ in the columns that both have: those of positions and of types do not."""
    for a, b in zip(one, other):
        shared = min(a.shape[-1], b.shape[-1])
        if not torch.equal(a[..., :shared], b[..., :shared]):
            return True
    return False


def _logits(classifier: Classifier, windows: Sequence[Window], device: torch.device, precision: str) -> Tensor:
    batch = classifier.collate([Example("", (window,), 0) for window in windows])
    with autocast(device, precision):
        return classifier(to_device(batch, device)).float()


def _states(
    classifier: Classifier, layer: nn.Embedding, window: Window, device: torch.device, precision: str
) -> tuple[Tensor, Tensor]:
    """The embeddings (1, …, T, D) of a window's tokens, and the logits (1, K)."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda layer, given, states: seen.append(states.detach().clone()))
    try:
        logits = _logits(classifier, [window], device, precision)
    finally:
        hook.remove()
    return seen[0], logits


@contextmanager
def _embedded(layer: nn.Embedding, states: Tensor) -> Iterator[None]:
    """Within it, the layer gives these states, whatever it is asked."""
    hook = layer.register_forward_hook(lambda layer, given, found: states.to(found.dtype))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _evaluating(classifier: nn.Module) -> Iterator[None]:
    was_training = classifier.training
    classifier.eval()
    try:
        yield
    finally:
        classifier.train(was_training)


def _held(ranges: np.ndarray, tokens: int) -> np.ndarray:
    """How many bases each token holds (T,), by the tokens of each base (L, 2)."""
    edges = np.zeros(tokens + 1)
    np.add.at(edges, ranges[:, 0], 1)
    np.add.at(edges, ranges[:, 1], -1)
    return edges.cumsum()[:tokens]


def _shared_out(per_base: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """The sum (L,) over each base's tokens of what a token has for each of its bases (T,)."""
    sums = np.concatenate([[0.0], per_base.cumsum()])
    return sums[ranges[:, 1]] - sums[ranges[:, 0]]


def _baselines(states: Tensor, holds: np.ndarray) -> Tensor:
    """States (SHUFFLES, …, T, D) whose target row has the tokens that hold bases in another order each."""
    rng, places = np.random.default_rng(0), np.flatnonzero(holds)
    order = np.tile(np.arange(len(holds)), (SHUFFLES, 1))
    for row in order:
        row[places] = rng.permutation(places)
    baselines = states.detach().repeat(SHUFFLES, *[1] * (states.ndim - 1))
    rows = baselines.flatten(1, -3)[:, 0] if states.ndim > 3 else baselines  # (SHUFFLES, T, D), a view
    rows.copy_(rows.clone()[torch.arange(SHUFFLES)[:, None], torch.from_numpy(order)])
    return baselines
