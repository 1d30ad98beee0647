"""The state of a training after an epoch, kept in a file so that a run that was killed goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.files.atomic import atomic

from . import hardware

MIN_SECONDS = 5.0  # of training between two saves: less is sooner trained again than read back
MAX_SHARE = 0.02  # of the training's time that is spent on saving

Values = dict[str, Any]


@dataclass
class StateFile:
    """Where a training's state is kept: one safetensors file, whose metadata holds what is no tensor as JSON; no pickles.

    ``run`` names the run: the state of another one is not read. :meth:`save` decides by the clock whether it is time to save.
    """

    path: Path
    run: str
    saved: float = field(default_factory=time.perf_counter)
    cost: float = 0.0  # seconds that the last save took

    @property
    def due(self) -> bool:
        """Whether enough was trained since the last save for another one to pay."""
        return time.perf_counter() - self.saved >= max(MIN_SECONDS, self.cost / MAX_SHARE)

    def save(self, tensors: Mapping[str, Tensor], values: Values) -> None:
        """Write the state, whole or not at all. A disk without room for it costs the state, not the run."""
        from safetensors.torch import save

        begun = time.perf_counter()
        # Copies, because safetensors refuses tensors that share memory, as tied weights do.
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        about = json.dumps({"run": self.run, "versions": hardware.versions(), **values})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(self.path) as temporary:
                temporary.write_bytes(save(copies, metadata={"state": about}))
        except OSError:
            self.remove()
        self.saved = time.perf_counter()
        self.cost = self.saved - begun

    def load(self) -> tuple[dict[str, Tensor], Values] | None:
        """The state that was saved; None if there is none, or none of this run with these versions of the libraries."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                values = json.loads((file.metadata() or {})["state"])
                if (values["run"], values["versions"]) != (self.run, hardware.versions()):
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def remove(self) -> None:
        """Remove the file, once the run has its record."""
        self.path.unlink(missing_ok=True)


def random_state(order: np.random.Generator) -> tuple[dict[str, Tensor], Values]:
    """The states of torch's generators, and of the one that orders the examples."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return tensors, {"order": order.bit_generator.state}


def restore_random_state(tensors: Mapping[str, Tensor], values: Values, order: np.random.Generator) -> None:
    """Set the generators back to what :func:`random_state` returned."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    order.bit_generator.state = values["order"]


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without it."""
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Values]:
    """An optimiser's state: tensors by parameter and name, and the learning rate of each group."""
    state = optimizer.state_dict()["state"]
    tensors = {f"optimizer.{number}.{name}": tensor for number, own in state.items() for name, tensor in own.items()}
    return tensors, {"learning_rates": [group["lr"] for group in optimizer.param_groups]}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], values: Values) -> None:
    """Set an optimiser back to what :func:`optimizer_state` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under("optimizer", tensors).items():
        number, own = name.split(".", 1)
        state.setdefault(int(number), {})[own] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for group, rate in zip(optimizer.param_groups, values["learning_rates"], strict=True):
        group["lr"] = rate
