"""What training loops put around a model's tensors: which of a file's values are the model, and the prefixes of wrappers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

# Classes that a pickle may name, by their modules: nothing is imported or called, an Ignored stands in.
INERT = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.", "torch.optim.", "torch.torch_version", "pathlib")
INERT_NAMES = {
    ("typing", "Any"),
    ("functools", "partial"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    *(("builtins", name) for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "bytes", "set")),
    *(("__builtin__", name) for name in ("dict", "list", "tuple", "int", "long", "float", "unicode", "bool", "set")),
    ("_codecs", "encode"),  # of the bytes of a NumPy scalar
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
}
MAX_DEPTH = 4  # of dictionaries in dictionaries
_TRAINING = re.compile(r"optim|sched|scaler|rng|callback|loop|hyper_?param|hparams|config|\bargs\b")  # beside the weights
_HEAD = re.compile(r"(?:\w+_)?(?:head|classifier)s?(?:_state)?(?:_dict)?")
# torch's own wrappers write these wherever they wrap a module; no model's own names hold them.
_INSIDE = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


class Refused(Exception):
    """Why a readable file is not read; becomes BadData."""


class Ignored:
    """Stands for a value in a pickle that is no tensor. It takes whatever a pickle gives it, and keeps nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def update(self, *_: Any) -> None:
        pass

    append = extend = add = update


def is_inert(module: str, name: str) -> bool:
    """Whether a class of a pickle is one that an :class:`Ignored` can stand for."""
    return (module, name) in INERT_NAMES or f"{module}.".startswith(INERT) or module in INERT


def model_of(state: Any, notes: list[str]) -> dict[str, Any]:
    """The names and tensors of a model in what a file holds, without the prefixes of wrappers, which ``notes`` say.

    Raises:
        Refused: it holds no set of tensors, or several.
    """
    lightning = isinstance(state, dict) and "pytorch-lightning_version" in state
    if not _is_state(state):
        found = list(_sets(state, "", set()))
        if len(found) > 1:  # a head that is kept apart from its model
            found = [one for one in found if not _HEAD.fullmatch(one[0].rpartition(".")[2])] or found
        if not found:
            raise Refused("expected a state_dict (names to tensors); save model.state_dict()")
        if len(found) > 1:
            names = ", ".join(name for name, _ in found)[:100]
            raise Refused(f"holds several sets of tensors ({names}); save the one that is meant")
        state = found[0][1]
    inside = {_INSIDE.sub("", name): value for name, value in state.items()}
    if len(inside) == len(state) and inside.keys() != state.keys():
        kinds = ", ".join(sorted({repr(part) for name in state for part in _INSIDE.findall(name)}))
        notes.append(f"{kinds} of torch's wrappers was taken out of the file's names")
        state = inside
    for prefix in ("module.", "module.", *(["model."] if lightning else [])):
        if all(name.startswith(prefix) for name in state):
            notes.append(f"{prefix!r} was taken off the file's names, all of which begin with it")
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _sets(value: Any, path: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sets of tensors in nested dictionaries, by the keys that lead to them; a loop's own are left out.

    A dictionary that is there many times counts once, or a small file could take for ever.
    """
    if not isinstance(value, dict) or depth == MAX_DEPTH:
        return
    loose = [name for name, item in value.items() if isinstance(item, Tensor) and item.ndim > 1]
    if path and loose:  # a model's tensors among other values
        yield path, {name: item for name, item in value.items() if isinstance(name, str) and isinstance(item, Tensor)}
        return
    for name, item in value.items():
        if not isinstance(name, str) or _TRAINING.search(name.lower()) or id(item) in seen:
            continue
        seen.add(id(item))
        where = f"{path}.{name}" if path else name
        if _is_state(item):
            yield where, item
        else:
            yield from _sets(item, where, seen, depth + 1)
    if loose and any(isinstance(item, dict) for item in value.values()):
        yield ", ".join(map(str, loose[:3])), {}


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items())
    )
