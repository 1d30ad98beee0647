"""attribution.json, beside a run's record: do the model's attributions lie on the letters that were planted?

It is written by ``harness explain``, after the run, and belongs to the record by its run id. Only simulated samples have it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadData, HarnessError
from harness.files.atomic import atomic
from harness.files.fingerprint import plain

from .folders import ATTRIBUTION

METRIC = "attribution_auroc"
FORMAT = 1
MAX_BYTES = 1 << 22
MIN_WINDOWS = 5  # fewer say nothing about the spread between windows


def mean_and_interval(values: Sequence[float]) -> tuple[float | None, list[float] | None]:
    """The mean of one AUROC per window, and its 95 % interval: Student's, over windows, cut to [0, 1].

    Other seeds and training sets are not in it. None where there are no windows, or fewer than MIN_WINDOWS.
    """
    import numpy as np
    from scipy.stats import t

    if not len(values):
        return None, None
    mean, count = float(np.mean(values)), len(values)
    if count < MIN_WINDOWS:
        return mean, None
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return mean, [max(0.0, mean - half), min(1.0, mean + half)]


def write_attribution(
    folder: Path, run_id: str, values: Sequence[float], parameters: dict[str, Any], control: Any = None
) -> Path:
    """Write what the attributions of a run's windows gave, one AUROC per window, into the run's folder, and return the file.

    ``parameters`` say how the attributions were made; ``control`` is the same of a model that learned shuffled labels, or None.

    Raises:
        HarnessError: it cannot be written.
    """
    mean, interval = mean_and_interval(values)
    content = {
        "format": FORMAT,
        "run_id": run_id,
        "metrics": {METRIC: mean},
        "intervals": {METRIC: interval} if interval else {},
        "windows": len(values),
        "parameters": parameters,
        "control": control,
    }
    path = folder / ATTRIBUTION
    try:
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"{path}: not written ({error.strerror or error}); make room, or make the folder writable") from None
    return path


def read_attribution(folder: Path, run_id: str) -> dict[str, Any]:
    """The ``metrics``, ``intervals`` and ``parameters`` of a run's attribution.json; empty where there is none.

    Raises:
        BadData: it is damaged, of another version, or of another run.
    """
    path = folder / ATTRIBUTION
    if not path.exists():
        return {}
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {str(content['format'])[:20]}, this version reads {FORMAT}")
        if content["run_id"] != run_id:
            raise BadData(f"{path}: is of run {str(content['run_id'])[:40]!r}, not of this one; run `harness explain` again")
        metrics = {METRIC: None if (value := content["metrics"][METRIC]) is None else _share(value)}
        intervals = {name: [_share(end) for end in ends] for name, ends in content["intervals"].items() if name == METRIC}
        if any(len(ends) != 2 for ends in intervals.values()):
            raise ValueError("an interval needs two ends")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{path}: cannot be read ({str(error)[:100]}); run `harness explain` again") from None
    return {"metrics": metrics, "intervals": intervals, "parameters": content.get("parameters")}


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{str(value)[:20]} is no number from 0 to 1")
    return float(value)
