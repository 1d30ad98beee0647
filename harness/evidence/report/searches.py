"""Searches of settings as a report shows them: what was tried, what came of it, which settings mattered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.progress import figure as number

from .draw import ACCENT, INK, MUTED, SENTINEL, STEPS, Canvas, room, shortened, svg
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
        facts.append(("published settings", _value(baseline.get("value"))))
    title = f"{model} on {task}"
    figures = [_history(title, objective, trials, chosen), _parallel(title, objective, space, trials, chosen)]
    figures.append(_importance(title, content.get("importance")))
    return Search(model, task, objective, facts, list(space), trials, chosen, [figure for figure in figures if figure])


def value(trial: Mapping[str, Any]) -> float | None:
    """What came of a trial; None where nothing did."""
    found = trial.get("value")
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def _value(found: Any) -> str:
    return number(found) if isinstance(found, float) else "unknown" if found is None else str(found)


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
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.plot([at for at, _ in finished], best, color=ACCENT, linewidth=1.2, drawstyle="steps-post")
        for at, got, trial in found:
            whole = trial["state"] == "finished"
            (dot,) = axes.plot([at], [got], color=ACCENT if whole else MUTED, marker="o" if whole else "x", markersize=5)
            settings = ", ".join(f"{name} {_value(set_to)}" for name, set_to in trial["settings"].items())
            canvas.mark(dot, "", f"trial {at}, {trial['state']}: {number(got)}; {settings}")
            if at == chosen:
                axes.plot([at], [got], color=INK, marker="o", markersize=11, markerfacecolor="none")

    words = f"{len(found)} trials with a value" + (f"; the best is {number(min(best))}" if best else "")
    picture = svg(*PANEL, f"Optimisation history of {title}", f"{words}.", draw)
    return Figure(picture, "Crosses are trials that were stopped early; the circle is the chosen one.")


def _axis(space: Any, values: Sequence[Any]) -> list[tuple[float, str]] | None:
    """Where values lie on an axis from 0 to 1, and their texts; None if nothing is known of them."""
    choices = list(dict.fromkeys(map(str, space.get("choices", ())))) if isinstance(space, Mapping) else []
    numbers = [got for got in values if isinstance(got, int | float) and not isinstance(got, bool)]
    if choices or len(numbers) < len(values):
        choices = choices or sorted(set(map(str, values)))
        return [(choices.index(str(got)) / max(len(choices) - 1, 1) if str(got) in choices else 0.5, str(got)) for got in values]
    low, high = float(space.get("low", min(numbers))), float(space.get("high", max(numbers)))
    scale = math.log if space.get("log") and low > 0 and min(numbers) > 0 else float
    span = scale(high) - scale(low) or 1.0
    return [(min(max((scale(got) - scale(low)) / span, 0), 1), f"{got:.3g}") for got in numbers]


def _parallel(
    title: str, objective: str, space: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], chosen: int | None
) -> Figure | None:
    """A line for each trial through its settings to its value; the darker, the better."""
    found = [item for item in _valued(trials) if all(name in item[2]["settings"] for name in space)]
    if len(found) < 2 or not space:
        return None
    values = [got for _, got, _ in found]
    placed = [_axis(space[name], [trial["settings"][name] for _, _, trial in found]) or [] for name in space]
    span = max(values) - min(values) or 1.0
    placed.append([((got - min(values)) / span, number(got)) for got in values])
    names = [*space, objective]
    order = sorted(range(len(found)), key=lambda place: -values[place])
    width = max(PANEL[0], 110 * len(names) + 40)

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes(left=34, right=48, bottom=28, top=44)
        axes.set(xlim=(0, len(names) - 1), ylim=(-0.03, 1.03))
        axes.set_title("Settings of each trial", pad=20)
        axes.grid(False)
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks(range(len(names)), [shortened(name, 17) for name in names])
        for place, of in enumerate(placed):
            axes.axvline(place, color=MUTED, linewidth=0.8, clip_on=False)
            for _, text, up in (max((*of, (0, ""))[:-1]) + (1.0,), min((*of, (0, ""))[:-1]) + (0.0,)):
                at = max(of)[0] if up else min(of)[0]
                axes.annotate(text, (place, at), (3, 4 if up else -3), textcoords="offset points", va="bottom" if up else "top", fontsize=9)
        for rank, place in enumerate(order):
            at, got, trial = found[place]
            colour = SENTINEL[f"h{round((STEPS - 1) * (rank + 1) / len(order))}"]
            (line,) = axes.plot(range(len(names)), [of[place][0] for of in placed], color=colour, linewidth=3 if at == chosen else 1.4)
            settings = ", ".join(f"{name} {_value(set_to)}" for name, set_to in trial["settings"].items())
            canvas.mark(line, "", f"trial {at}: {number(got)}; {settings}")

    best = found[order[-1]]
    settings = ", ".join(f"{name} {_value(set_to)}" for name, set_to in best[2]["settings"].items())
    words = f"{len(found)} trials. The best, trial {best[0]}, has {settings}, and {objective} {number(best[1])}."
    picture = svg(width, PANEL[1], f"Settings of the trials of {title}", words, draw)
    return Figure(picture, "A line for each trial; the darker, the lower its loss. The thick one was chosen.", wide=width > PANEL[0])


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
