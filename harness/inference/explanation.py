"""What an explanation is, and the folder that it is written to."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from harness.data import Window
from harness.errors import HarnessError
from harness.evidence.attribution import METRIC
from harness.evidence.folders import put, remove, temporary_folder
from harness.files.fingerprint import plain
from harness.files.motif_files import Motif, write_meme
from harness.progress import figure

from .attribution import LETTERS, Attribution
from .motifs import Match, Seqlet

FACTS = "explain.json"
LONGEST_LOGO = 250  # letters
PACKAGES = ("tangermeme", "captum", "memelite", "logomaker")


@dataclass(frozen=True)
class Named:
    """A window to be explained. ``planted`` are the positions of planted letters, 0-based; None where nobody planted any."""

    id: str
    window: Window
    planted: Sequence[int] | None = None


@dataclass
class Explained:
    """What came of it; ``name`` is the class, label or number that is explained.

    ``metrics`` has attribution_auroc, its interval, number of windows and value of each window, where planted letters are known;
    ``control`` the same of the model that learned shuffled labels.
    """

    name: str
    windows: list[Named]
    found: Attribution
    motifs: list[Motif] = field(default_factory=list)
    seqlets: list[Seqlet] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    control: dict[str, Any] | None = None


def lines(explained: Explained, out: Path) -> list[str]:
    """What the screen says at the end."""
    said = [f"{out}: {len(explained.windows):,} windows, {len(explained.seqlets):,} seqlets, {len(explained.motifs):,} motifs"]
    for motif in explained.motifs:
        said.append(f"  {motif.name:<10}{motif.consensus}  {motif.sites:,} sites")
        best = next((match for match in explained.matches if match.motif == motif.name), None)
        if best is not None:
            said[-1] += f"  most like {best.known} (p {best.p:.2g}, q {best.q:.2g})"
    for what, found in ((METRIC, explained.metrics), ("with shuffled labels", explained.control)):
        if found and found[METRIC] is not None:
            low_high = "" if found["interval"] is None else " [{:.4f}, {:.4f}]".format(*found["interval"])
            said.append(f"{what}  {figure(found[METRIC])}{low_high} over {found['windows']:,} windows")
    return said


def write(explained: Explained, out: Path, about: dict[str, Any], logos: int) -> None:
    """Write the folder whole or not at all, in the place of one that lies there.

    ``attribution.npz`` has ids, sequences and the arrays of :class:`.attribution.Attribution`; ``attribution.csv`` a row per
    letter; ``seqlets.csv``, ``motifs.meme`` and ``matches.csv`` the motifs; ``logos/`` the pictures of ``logos`` windows with
    the highest score, and of the motifs. ``explain.json`` has the facts ``about`` it, the metric and the packages' versions.

    Raises:
        HarnessError: it cannot be written.
    """
    temporary = temporary_folder(out)
    try:
        temporary.mkdir(parents=True)
        _arrays(explained, temporary / "attribution.npz")
        _table(explained, temporary / "attribution.csv")
        _rows(temporary / "seqlets.csv", explained.seqlets, Seqlet, window=lambda one: explained.windows[one.window].id)
        write_meme(temporary / "motifs.meme", explained.motifs)
        _rows(temporary / "matches.csv", explained.matches, Match)
        if logos:
            _logos(explained, temporary / "logos", logos)
        facts = about | {"explains": explained.name, "windows": len(explained.windows), METRIC: explained.metrics or None}
        facts |= {"control": explained.control, "packages": {name: _version(name) for name in PACKAGES}}
        (temporary / FACTS).write_text(json.dumps(plain(facts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        put(temporary, out)
    except OSError as error:
        raise HarnessError(f"out {out}: not written ({error.strerror or error}); choose another folder with --out") from error
    finally:
        remove(temporary)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _arrays(explained: Explained, path: Path) -> None:
    found, windows = explained.found, explained.windows
    arrays: dict[str, Any] = {
        "ids": np.array([one.id for one in windows]),
        "sequences": np.array([one.window.sequence for one in windows]),
        "scores": found.scores,
        "hypothetical": found.hypothetical,
        "actual": found.actual,
    }
    if found.changes is not None:
        arrays["changes"] = found.changes
    np.savez_compressed(path, **arrays)


def _table(explained: Explained, path: Path) -> None:
    """One row per letter: what the score changes by with each other letter, and what its own contributes."""
    found = explained.found
    actual, changes = found.actual, found.changes
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "position", "base", *([] if changes is None else LETTERS), "attribution"])
        for row, one in enumerate(explained.windows):
            for position, base in enumerate(one.window.sequence):
                letters = [] if changes is None else [f"{value:.6g}" for value in changes[row, position]]
                writer.writerow([one.id, position, base, *letters, f"{actual[row, position]:.6g}"])


def _rows(path: Path, items: Sequence[Any], kind: type, **shown: Callable[[Any], Any]) -> None:
    names = list(kind.__dataclass_fields__)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([shown[name](item) if name in shown else getattr(item, name) for name in names] for item in items)


def _logos(explained: Explained, folder: Path, count: int) -> None:
    """Logos of the windows with the highest score, and of the motifs."""
    from .logos import draw

    folder.mkdir()
    found, own = explained.found, explained.found.actual
    for rank, place in enumerate(np.argsort(-found.scores, kind="stable")[:count].tolist(), start=1):
        one = explained.windows[place]
        start = _densest(np.abs(own[place, : len(one.window)]))
        end = min(start + LONGEST_LOGO, len(one.window))
        codes = found.codes[place, start:end]
        heights = np.where(codes[:, None] == np.arange(4), own[place, start:end, None], 0)
        title = f"{one.id}: {explained.name}, score {found.scores[place]:.2f}"
        draw(heights, folder, f"{rank:02}_{_file_name(one.id)}", title=title, ylabel="attribution", first=start)
    for motif in explained.motifs:
        draw(
            motif.pwm * motif.information[:, None], folder, motif.name, title=f"{motif.name}, {motif.sites} sites", ylabel="bits"
        )


def _densest(values: np.ndarray) -> int:
    """Where the LONGEST_LOGO positions with the largest sum begin."""
    if len(values) <= LONGEST_LOGO:
        return 0
    sums = np.concatenate([[0.0], values.cumsum()])
    return int((sums[LONGEST_LOGO:] - sums[:-LONGEST_LOGO]).argmax())


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:60] or "window"
