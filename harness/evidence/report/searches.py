"""Searches of settings as a report shows them: what was tried, what came of it, which settings mattered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.progress import figure as number

from .draw import ACCENT, INK, MUTED, SENTINEL, STEPS, Canvas, few_ticks, room, shortened, svg
from .figures import PANEL, Figure

FOLDER, FILE = "search", "search.json"
MAX_BYTES = 1 << 24


@dataclass(frozen=True)
class Search:
    """One search. ``facts`` are (name, value) of its budget and what was chosen; ``trials`` as the file has them."""

    model: str
    task: str
    objective: str
    facts: Sequence[tuple[str, str]]
    settings: Sequence[str]
    trials: Sequence[Mapping[str, Any]]
    chosen: int | None
    figures: Sequence[Figure]


def searches(results: Sequence[Path], faults: list[str]) -> list[Search]:
    """Every search in results folders, by task and model; ``faults`` hears of files that cannot be read."""
    found = []
    for folder in results:
        for path in sorted(Path(folder).glob(f"{FOLDER}/*/*/*/{FILE}")):
            try:
                if path.stat().st_size > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES:,} bytes")
                found.append(_search(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                faults.append(f"{path}: not a readable search ({type(error).__name__}: {error}); left out")
    return found


def _search(content: Mapping[str, Any]) -> Search:
    model, task, objective = str(content["model"]), str(content["task"]), str(content["objective"])
    trials = sorted(content["trials"], key=lambda trial: int(trial["number"]))
    space, chosen = dict(content["space"]), content.get("chosen")
    facts = [(str(name), str(value)) for name, value in content.get("budget", {}).items() if value is not None]
    states = [trial["state"] for trial in trials]
    facts += [(state, str(states.count(state))) for state in dict.fromkeys(states)]
    if isinstance(seconds := content.get("seconds"), int | float):
        facts.append(("seconds in all", f"{seconds:,.0f}"))
    if baseline := content.get("baseline"):
        facts.append(("published settings", as_text(baseline.get("value"))))
    title = f"{model} on {task}"
    figures = [_history(title, objective, trials, chosen), _importance(title, content.get("importance"))]
    figures.append(_parallel(title, objective, space, trials, chosen))
    return Search(model, task, objective, facts, list(space), trials, chosen, [figure for figure in figures if figure])


def value(trial: Mapping[str, Any]) -> float | None:
    """What came of a trial; None where nothing did."""
    found = trial.get("value")
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def as_text(found: Any) -> str:
    """A setting or a loss as text."""
    return f"{found:.4g}" if isinstance(found, float) else "unknown" if found is None else str(found)


def _valued(trials: Sequence[Mapping[str, Any]]) -> list[tuple[int, float, Mapping[str, Any]]]:
    return [(int(trial["number"]), found, trial) for trial in trials if (found := value(trial)) is not None]


def _history(title: str, objective: str, trials: Sequence[Mapping[str, Any]], chosen: int | None) -> Figure | None:
    """What came of each trial, in order; the line is the best so far."""
    if not (found := _valued(trials)):
        return None
    finished = [(at, got) for at, got, trial in found if trial["state"] == "finished"]
    best = [min(got for _, got in finished[: place + 1]) for place in range(len(finished))]

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=56)
        axes.set(xlabel="trial", ylabel=f"validation {objective.replace('_', '-')}", title="Optimisation history")
        few_ticks(axes.xaxis, whole=True)
        axes.plot([at for at, _ in finished], best, color=ACCENT, linewidth=1.2, drawstyle="steps-post")
        for at, got, trial in found:
            whole = trial["state"] == "finished"
            (dot,) = axes.plot([at], [got], color=ACCENT if whole else MUTED, marker="o" if whole else "x", markersize=5)
            canvas.mark(dot, "", f"trial {at}, {trial['state']}: {number(got)}; {_settings(trial)}")
            if at == chosen:
                axes.plot([at], [got], color=INK, marker="o", markersize=11, markerfacecolor="none")

    words = f"{len(found)} trials with a value" + (f"; the best is {number(min(best))}" if best else "")
    picture = svg(*PANEL, f"Optimisation history of {title}", f"{words}.", draw)
    return Figure(picture, "Crosses are trials that were stopped early; the circle is the chosen one.")


@dataclass(frozen=True)
class _Axis:
    """An axis from 0 to 1 of the space: where each trial lies, and the texts of its ends."""

    places: Sequence[float]
    low: str
    high: str


def _axis(space: Any, values: Sequence[Any]) -> _Axis:
    """The axis of a setting: of the choices in their order, or of the range of numbers, by logarithm where it is searched so."""
    numbers = [got for got in values if isinstance(got, int | float) and not isinstance(got, bool)]
    choices = list(dict.fromkeys(map(str, space.get("choices", ()))))
    if choices or len(numbers) < len(values):
        choices += sorted(set(map(str, values)) - set(choices))
        span = max(len(choices) - 1, 1)
        return _Axis([choices.index(str(got)) / span for got in values], choices[0], choices[-1] if len(choices) > 1 else "")
    low, high = min(space.get("low", numbers[0]), *numbers), max(space.get("high", numbers[0]), *numbers)
    scale = math.log if space.get("log") and low > 0 else float
    span = scale(high) - scale(low) or 1.0
    return _Axis([(scale(got) - scale(low)) / span for got in numbers], f"{low:.3g}", f"{high:.3g}")


def _parallel(
    title: str, objective: str, space: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], chosen: int | None
) -> Figure | None:
    """A line for each trial through its settings to its value; the darker, the better."""
    found = [item for item in _valued(trials) if all(name in item[2]["settings"] for name in space)]
    if len(found) < 2 or not space:
        return None
    values = [got for _, got, _ in found]
    axes_of = [_axis(space[name], [trial["settings"][name] for _, _, trial in found]) for name in space]
    axes_of.append(_axis({}, values))
    names = [*space, objective]
    order = sorted(range(len(found)), key=lambda place: -values[place])
    width = max(PANEL[0], 82 * len(names))

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=46, right=46, bottom=42, top=40)
        axes.set(xlim=(0, len(names) - 1), ylim=(0, 1))
        axes.set_title("Settings of each trial", pad=22)
        axes.grid(False)
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks(range(len(names)), [shortened(name, 14) for name in names])
        axes.tick_params(axis="x", pad=18)
        for place, axis in enumerate(axes_of):
            axes.plot([place, place], [0, 1], color=MUTED, linewidth=0.8, clip_on=False)
            for text, at, up in ((axis.low, 0, -4), (axis.high, 1, 4)):
                side = "bottom" if up > 0 else "top"
                axes.annotate(text, (place, at), (0, up), textcoords="offset points", ha="center", va=side, color=MUTED)
        for rank, place in enumerate(order):
            at, got, trial = found[place]
            colour = SENTINEL[f"h{1 + round((STEPS - 2) * (rank + 1) / len(order))}"]
            (line,) = axes.plot(
                range(len(names)), [axis.places[place] for axis in axes_of], color=colour, linewidth=3 if at == chosen else 1.4,
                clip_on=False,
            )  # fmt: skip
            canvas.mark(line, "", f"trial {at}: {number(got)}; {_settings(trial)}")

    best = found[order[-1]]
    words = f"{len(found)} trials. The best, trial {best[0]}, has {_settings(best[2])}, and {objective} {number(best[1])}."
    picture = svg(width, PANEL[1], f"Settings of the trials of {title}", words, draw)
    return Figure(
        picture, "A line for each trial; the lower its loss, the stronger. The thick one was chosen.", wide=width > PANEL[0]
    )


def _settings(trial: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {as_text(set_to)}" for name, set_to in trial["settings"].items())


def _importance(title: str, importance: Mapping[str, Any] | None) -> Figure | None:
    """How much of the variation over trials each setting explains."""
    if not importance:
        return None
    shares = sorted(((float(share), str(name)) for name, share in importance.items()), reverse=True)
    names = [shortened(name, 20) for _, name in shares]
    left = room(names)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=left)
        axes.set(xlabel="share of the variation explained", ylim=(len(shares) - 0.4, -0.6), title="Importance of settings")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(shares)), names)
        for place, (share, name) in enumerate(shares):
            (bar,) = axes.barh([place], [share], color=ACCENT, height=0.6)
            canvas.mark(bar, "", f"{name}: {share:.0%}")

    words = "; ".join(f"{name} {share:.0%}" for share, name in shares)
    picture = svg(*PANEL, f"Importance of settings, {title}", f"{words}.", draw)
    return Figure(picture, "As the search estimates it from its trials.")
