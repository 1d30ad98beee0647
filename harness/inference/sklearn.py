"""Classifier: any model of the harness as an estimator of scikit-learn."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from harness import registry
from harness.data import Example, Window
from harness.engine import hardware
from harness.engine.build import request
from harness.engine.cache import EmbeddingCache
from harness.engine.classifier import Classifier as Model
from harness.engine.fit import fit
from harness.engine.predict import predict
from harness.engine.probe import probe
from harness.errors import BadData, UserError
from harness.recipe import Recipe

from .inputs import as_window

SETTINGS = tuple(item.name for item in fields(Recipe))


class Classifier(ClassifierMixin, BaseEstimator):
    """A model that is fine-tuned, or probed, on sequences, by what `harness run` does.

    ``X`` are sequences in any usual spelling: a list, an array, a Series, or a table of one column; also windows with alignments.
    ``y`` are the classes' names or numbers. For cross-validation, pipelines and grids, as any estimator.

    Args:
        model: as ``--model``, with ``checkpoint``, ``init``, ``option`` and ``allow_partial`` as in :func:`harness.load_model`.
        validation_fraction: share of each class that is held out from training, to stop it early, or to choose a probe's
            strength.
        random_state: the seed of weights, order and split; None draws one from numpy.
        device: auto, cpu, cuda, cuda:N or mps.
        settings: those of :class:`harness.recipe.Recipe`, such as ``tune="probe"`` or ``epochs=3``; None, the default of each,
            is the model's published one.

    Attributes:
        classes_: what ``y`` had, sorted; the columns of :meth:`predict_proba`.
        n_features_in_: 1, the column of sequences.
        model_: the fitted torch module, :class:`harness.engine.classifier.Classifier`.
        recipe_: the whole settings.
        history_: a dict for each epoch, or each strength of a probe; events_: sentences on what happened on the way.
    """

    def __init__(
        self,
        model: str = "dnabert2",
        *,
        checkpoint: str | None = None,
        init: str | None = None,
        option: Mapping[str, Any] | None = None,
        allow_partial: bool = False,
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        if unknown := sorted(set(settings) - set(SETTINGS)):
            raise TypeError(f"Classifier has no parameter {unknown[0]!r}; settings are {', '.join(SETTINGS)}")
        self.model = model
        self.checkpoint = checkpoint
        self.init = init
        self.option = option
        self.allow_partial = allow_partial
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        for name in SETTINGS:
            setattr(self, name, settings.get(name))

    def fit(self, X: Any, y: Any) -> Self:
        """Train on sequences (N,) and their classes (N,).

        Raises:
            UserError: the model cannot be built, or a setting is out of range.
            BadData: a sequence is empty, has letters that are no nucleotide codes, or is longer than the model takes.
            ValueError: ``y`` is not of classes, of fewer than two, or not as long as ``X``.
            RunFailed: a loss is not a finite number.
        """
        windows = _windows(X)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None: give the class of each sequence")
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        check_consistent_length(windows, labels)
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("y has 1 class; a classifier needs two or more")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r}: must be above 0 and below 1")
        seed = _seed(self.random_state)
        examples = [Example(str(number), (window,), int(label)) for number, (window, label) in enumerate(zip(windows, indices))]
        train, validation = ([examples[at] for at in part] for part in _split(indices, self.validation_fraction, seed))
        self.recipe_ = self._recipe()
        wanted = request(
            self.model,
            checkpoint=None if self.checkpoint is None else str(self.checkpoint),
            init=self.init,
            options=self.option,
            allow_partial=self.allow_partial,
        )
        device_type, self.precision_ = hardware.resolve(self.device, self.recipe_.precision)
        accelerator = hardware.accelerator(self.device)
        with torch.random.fork_rng(), hardware.deterministic(self.recipe_.deterministic):
            torch.manual_seed(seed)
            adapter = wanted.build()
            self.max_length_ = adapter.max_length
            for number, window in enumerate(windows):
                self._check(window, number, adapter)
            model = Model(adapter, len(self.classes_), self.recipe_).to(accelerator.device)
            parts = (model, train, validation, self.recipe_, accelerator)
            if self.recipe_.tune == "probe":
                cache = None
                if next(adapter.parameters(), None) is not None and not self.recipe_.deterministic:
                    cache = EmbeddingCache.of(wanted, adapter, seed, device_type, self.precision_)
                fitted = probe(*parts, precision=self.precision_, cache=cache)
            else:
                fitted = fit(*parts, seed=seed, precision=self.precision_)
        self.model_ = model.eval()
        self.n_features_in_ = 1
        self.history_, self.events_ = fitted.history, fitted.events
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (N, classes) as float64, in the order of ``classes_``."""
        check_is_fitted(self)
        windows = _windows(X)
        for number, window in enumerate(windows):
            self._check(window, number, self.model_.adapter)
        accelerator = hardware.accelerator(self.device)
        examples = [Example(str(number), (window,), 0) for number, window in enumerate(windows)]
        return predict(self.model_.to(accelerator.device), examples, accelerator, precision=self.precision_)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class (N,) of each sequence."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, with the model on the CPU."""
        state: Any = super().__getstate__()
        if "model_" in state and next(self.model_.parameters()).device.type != "cpu":
            state = {**state, "model_": copy.deepcopy(self.model_).cpu()}
        return state

    def _recipe(self) -> Recipe:
        published = registry.model_facts(self.model).recipe
        recipe = published.override(**{name: getattr(self, name) for name in SETTINGS})
        if recipe.tune == "zero":
            raise UserError("tune 'zero': fits nothing; choose full, lora or probe")
        return recipe

    def _check(self, window: Window, number: int, adapter: Any) -> None:
        if adapter.max_length is not None and len(window) > adapter.max_length:
            raise BadData(f"X[{number}]: {len(window)} nt, but {adapter.name} takes at most {adapter.max_length}")


def _signature() -> inspect.Signature:
    """That of ``Classifier``, with each setting by its name, as get_params() reads it."""
    own = [item for item in inspect.signature(Classifier.__init__).parameters.values() if item.kind is not item.VAR_KEYWORD]
    made = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in SETTINGS]
    return inspect.Signature([*own, *made])


Classifier.__init__.__signature__ = _signature()  # type: ignore[attr-defined]


def _windows(X: Any) -> list[Window]:
    """One window for each sequence.

    Raises:
        ValueError: there are none, or not one a row.
        BadData: one is no sequence.
    """
    if isinstance(X, str | bytes) or not hasattr(X, "__len__"):
        raise ValueError(f"X is a {type(X).__name__}; expected a list or an array of sequences")
    values = X.to_numpy() if hasattr(X, "to_numpy") else X if isinstance(X, np.ndarray) else None
    if values is not None and values.ndim > 1:
        if values.ndim > 2 or values.shape[1] != 1:
            raise ValueError(f"X has the shape {values.shape}; expected one column of sequences, (N,) or (N, 1)")
        values = values[:, 0]
    values = list(X) if values is None else values.tolist()
    if not values:
        raise ValueError("X has 0 sequences, while a minimum of 1 is required")
    return [as_window(value, f"X[{number}]") for number, value in enumerate(values)]


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        check_random_state(random_state)  # says what it may be
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def _split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and indices held out: ``share`` of each class, at least one of it where there are two or more.

    If that is none at all, everything is both.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out = []
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        held_out += mine[: min(max(round(share * len(mine)), 1), len(mine) - 1)].tolist()
    everything = np.arange(len(labels))
    return (np.setdiff1d(everything, held_out), np.sort(held_out)) if held_out else (everything, everything)
