"""The configuration beside a weight file: JSON, of a known family, its settings within their bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadData, CheckpointMismatch

Field = tuple[type, float | None, float | None]  # the type of a setting, and its lowest and highest value
# Bounds for the settings that most configurations have; beyond them, no published model is.
LAYERS: Field = (int, 1, 512)
HEADS: Field = (int, 1, 1024)
WIDTH: Field = (int, 1, 1 << 16)
ROWS: Field = (int, 1, 1 << 22)  # of an embedding: tokens or positions
EPSILON: Field = (float, 0, 0.1)
DROPOUT: Field = (float, 0, 0.99)
TEXT: Field = (str, None, None)

MAX_CONFIG = 1 << 24  # bytes of a config.json


def read_config(
    file: Path, families: Sequence[str], name: str = "config.json", fields: Mapping[str, Field] | None = None
) -> dict[str, Any]:
    """The JSON object in the file ``name`` beside a weight file; empty where there is none.

    ``fields`` maps settings to (type, lowest, highest); None for no bound. A whole number passes for a float, and a setting
    that is null counts as absent. Settings without a field are given back as they are.

    Raises:
        BadData: it cannot be read, or a setting has another type or lies outside its bounds.
        CheckpointMismatch: it describes a model of none of ``families``.
    """
    path = file.parent / name
    if not path.is_file():
        return {}
    config = read_object(path)
    family = config.get("model_type", families[0])  # the oldest files do not say
    if family not in families:
        raise CheckpointMismatch(
            f"{path}: model_type {str(family)[:60]!r}, expected {' or '.join(families)}; 0 tensors were loaded"
        )
    check_fields(config, fields or {}, path)
    return {setting: value for setting, value in config.items() if value is not None or setting not in (fields or {})}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        BadData: it is none, or larger than any configuration.
    """
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise ValueError(f"larger than {MAX_CONFIG:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise BadData(f"{path}: expected a JSON object; fetch it again")
    return found


def check_fields(config: Mapping[str, Any], fields: Mapping[str, Field], path: Path) -> None:
    """Hold the settings of a configuration, read from ``path``, to their types and bounds. Null ones count as absent.

    Raises:
        BadData: a setting has another type or is out of bounds.
    """
    for setting, field in fields.items():
        value = config.get(setting)
        if value is not None and not _fits(value, *field):
            raise BadData(f"{path}: {setting} {str(value)[:60]!r}, expected {_expected(*field)}; fetch it again")


def _fits(value: Any, kind: type, low: float | None, high: float | None) -> bool:
    if (isinstance(value, bool) and kind is not bool) or not isinstance(value, (int, float) if kind is float else kind):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (low is None or value >= low) and (high is None or value <= high)


def _expected(kind: type, low: float | None, high: float | None) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "an object"}
    bounds = [f"from {low:g}" if low is not None else "", f"to {high:g}" if high is not None else ""]
    return " ".join(word for word in [words[kind], *bounds] if word)
