"""The contract that every adapter keeps, whoever wrote it: what the scores of its model rely on.

:func:`check` is `harness check-adapter`. The test suite judges every model of the project by the same CLAUSES.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from harness import registry
from harness.engine.build import request
from harness.engine.hardware import pick_device
from harness.errors import HarnessError, UserError

from .candidate import Candidate, Skipped, Violation, described
from .clauses import CLAUSES, Clause


@dataclass(frozen=True)
class Verdict:
    """The outcome of a clause: its name and statement, its state, and as detail a measurement or a reason."""

    clause: str
    statement: str
    state: Literal["ok", "violated", "skipped"]
    detail: str = ""


def check(name_or_path: str, size: str = "tiny", checkpoint: str | None = None, device: str = "cpu") -> list[Verdict]:
    """A verdict on every clause, for the adapter with that name or in that file.

    Raises:
        UserError: it cannot be built, or this machine has no such device.
    """
    candidate = build(name_or_path, size, checkpoint, device)
    return [judge(clause, candidate) for clause in CLAUSES]


def build(name_or_path: str, size: str = "tiny", checkpoint: str | None = None, device: str = "cpu") -> Candidate:
    """The adapter in evaluation mode, from a checkpoint or else with random weights, always the same.

    Raises:
        UserError: there is no such adapter or device, its file does not run, or it has no such size or refuses the checkpoint.
    """
    place = pick_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            if checkpoint is None:
                return Candidate(registry.adapter_class(name_or_path).from_checkpoint(None, size=size).eval().to(place), size)
            wanted = request(name_or_path, checkpoint=checkpoint)
            return Candidate(wanted.build().eval().to(place), size, Path(str(wanted.checkpoint)))
        except HarnessError:
            raise
        except Exception as error:
            raise UserError(f"{name_or_path}: no model could be built at size {size!r}: {described(error)}") from error


def judge(clause: Clause, candidate: Candidate) -> Verdict:
    """The verdict on one clause. Any error of the adapter is a violation. The global random state is left as it was."""
    name, statement = clause.__name__, str(clause.__doc__)
    # TensorFloat-32, which cuDNN takes for convolutions, is coarser than what clauses allow.
    with torch.random.fork_rng(devices=[]), torch.backends.cudnn.flags(allow_tf32=False):
        torch.manual_seed(0)
        try:
            state, detail = "ok", clause(candidate) or ""
        except Skipped as reason:
            state, detail = "skipped", str(reason)
        except Violation as reason:
            state, detail = "violated", str(reason)
        except Exception as error:
            state, detail = "violated", described(error)
    return Verdict(name, statement, state, " ".join(detail.split()))
