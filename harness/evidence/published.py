"""Numbers that papers print, read from CSV files; ``results/published/README.md`` says what may be entered."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadData

from .metrics import METRICS

COLUMNS = ("source", "table", "model", "task", "metric", "value", "sd", "n", "split", "note")
OPTIONAL = ("adapter", "spread")  # columns that a file may have after these
_REQUIRED = ("source", "table", "model", "task", "metric", "value", "split")
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Published:
    """A number that a paper prints. ``value``, ``sd`` and ``n`` keep its spelling; the last two are empty if not given.

    ``adapter`` is the name of our adapter of the same architecture, empty where there is none. ``spread`` is a number after ±
    that is no standard deviation over runs, with what it is: ``range 0.087`` (largest minus smallest) or ``se 0.0012``.
    """

    source: str
    table: str
    model: str
    task: str
    metric: str
    value: str
    sd: str
    n: str
    split: str
    note: str
    adapter: str = ""
    spread: str = ""

    @property
    def label(self) -> str:
        """The name of its row."""
        return f"{self.model} (published: {self.source})"


def published_folder(package: Path = _PACKAGE) -> Path:
    """The folder with the papers' numbers: inside the package in a wheel, ``results/published`` beside it in a checkout."""
    inside = package / "published"
    return inside if inside.is_dir() else package.parent / "results" / "published"


def read_published(folder: Path | None = None) -> list[Published]:
    """The numbers in every ``*.csv`` of a folder, by default the project's own.

    Raises:
        BadData: a file with other columns, an unknown metric, an empty required cell, a value that is no number, a
            repeated line, or a source's model that stands for two adapters.
    """
    found, adapters = dict[tuple[str, ...], Published](), dict[tuple[str, ...], str]()
    for path in sorted((folder or published_folder()).glob("*.csv")):
        try:
            with open(path, newline="", encoding="utf-8") as file:
                _read_file(path, csv.DictReader(file, restkey="more", restval=""), found, adapters)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadData(f"{path}: not a readable CSV file ({error})") from None
    return list(found.values())


def _read_file(
    path: Path,
    rows: csv.DictReader[str],
    found: dict[tuple[str, ...], Published],
    adapters: dict[tuple[str, ...], str],
) -> None:
    names = tuple(rows.fieldnames or ())
    if names[: len(COLUMNS)] != COLUMNS or names[len(COLUMNS) :] not in ((), OPTIONAL):
        raise BadData(f"{path}: expected the columns {','.join(COLUMNS)}, perhaps with {','.join(OPTIONAL)} after them")
    for number, row in enumerate(rows, start=2):
        if fault := _fault(row):
            raise BadData(f"{path}, line {number}: {fault}")
        item = Published(**row)
        key = (item.source, item.model, item.task, item.metric, item.split)
        if key in found:
            raise BadData(f"{path}, line {number}: repeats {', '.join(key)}")
        if (other := adapters.setdefault(key[:2], item.adapter)) != item.adapter:
            raise BadData(f"{path}, line {number}: adapter {item.adapter!r}, but {other!r} in an earlier line of {item.label}")
        found[key] = item


def _fault(row: dict[str, Any]) -> str | None:
    if "more" in row:
        return "has too many cells"
    if empty := [name for name in _REQUIRED if not row[name]]:
        return f"{empty[0]} is empty"
    if row["metric"] not in METRICS:
        return f"metric {row['metric']!r} is none of {', '.join(METRICS)}"
    for name in ("value", "sd", "n"):
        if row[name] and not re.fullmatch(r"\d+" if name == "n" else r"-?\d+(\.\d+)?", row[name]):
            return f"{name} {row[name]!r} is no number"
    if (spread := row.get("spread")) and not re.fullmatch(r"(range|se) \d+(\.\d+)?", spread):
        return f"spread {spread!r} is neither range nor se with a number, such as range 0.087"
    return None
