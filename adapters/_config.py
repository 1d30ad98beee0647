"""What a config.json may say of its weights: of the settings only what is implemented, of the sizes only those of the tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import CheckpointMismatch

# Settings that change what is computed → the values that are implemented. The first is upstream's value where none is stated.
Settings = Mapping[str, tuple[Any, ...]]


def stated(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value of a key, in which dots lead into nested objects; ``default`` if it is absent or null."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return default if value is None else value


def check_settings(config: Mapping[str, Any], implemented: Settings, file: Path) -> None:
    """Check that nothing is asked for that would be computed differently here.

    Raises:
        CheckpointMismatch: a setting has another value than those implemented.
    """
    for key, values in implemented.items():
        if (value := stated(config, key, values[0])) not in values:
            expected = " or ".join(map(_short, values))
            raise CheckpointMismatch(
                f"checkpoint {file}: its configuration has {key} {_short(value)}; implemented is {expected}: "
                "use weights trained that way, or their authors' code; 0 tensors were loaded"
            )


def check_sizes(config: Mapping[str, Any], found: Mapping[str, Any], file: Path) -> None:
    """Check that the sizes that a configuration states are those found in the tensors; None stands for one that they do not tell.

    Raises:
        CheckpointMismatch: they contradict each other.
    """
    for key, size in found.items():
        if size is not None and (value := stated(config, key, size)) != size:
            raise CheckpointMismatch(
                f"checkpoint {file}: its configuration has {key} {_short(value)}, its tensors {_short(size)}; "
                "put the config.json of these very weights beside them; 0 tensors were loaded"
            )


def count_layers(config: Mapping[str, Any], key: str, names: Iterable[str], prefix: str, file: Path) -> int:
    """The number of layers: those named in the file, or more if its configuration says so; 0 if neither tells.

    Layers that the file lacks are for ``load_tensors`` to refuse, as partial weights may be allowed.

    Raises:
        CheckpointMismatch: the file has more layers than its configuration.
    """
    found = len({match[1] for name in names if (match := re.match(rf"{re.escape(prefix)}(\d+)\.", name))})
    layers = stated(config, key, found)
    if found > layers:
        check_sizes(config, {key: found}, file)
    return layers


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
