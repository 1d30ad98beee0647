"""What a record must look like: the types and ranges of everything that tables and screens read from it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness.task import CLASSIFICATION, KINDS, MULTILABEL, REGRESSION, Reference

SCHEMA = 3
LEAKS = ("none", "near", "overlap", "exact")  # what a test example has of the training data; the later, the worse
SUBSETS = ("novel", "leaking")  # of the test examples, by whether they have anything
MAX_DEPTH = 32  # of values within values
MAX_NUMBER = 2.0**62  # of counts and scores; more than 64 bits have no place in a data frame
NUMBER, SCALAR = (float, int), (str, float, int)  # isinstance() is several times faster with a tuple than with a union


@dataclass(frozen=True)
class Form:
    """What a value must be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _number(low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> Form:
    bounds = f" from {low:g} to {high:g}" if high < MAX_NUMBER else f", at least {low:g}" if low > -MAX_NUMBER else ""
    low, high = low - 1e-9, high + 1e-9  # rounding

    def fits(it: Any) -> bool:
        return (type(it) is float or (isinstance(it, NUMBER) and not isinstance(it, bool))) and low <= it <= high

    return Form(f"a number{bounds}", fits)


def _or_none(form: Form) -> Form:
    fits = form.fits
    return Form(f"{form.words}, or null", lambda it: it is None or fits(it))


def _each(form: Form) -> Form:
    return Form(f"a list, each {form.words}", lambda it: isinstance(it, list) and all(map(form.fits, it)))


def _mapping(form: Form | None = None) -> Form:
    if form is None:
        return Form("names with values", lambda it: isinstance(it, dict))
    return Form(f"names, each with {form.words}", lambda it: isinstance(it, dict) and all(map(form.fits, it.values())))


def _dated(value: Any) -> bool:
    try:
        return bool(datetime.fromisoformat(value))
    except (TypeError, ValueError):
        return False


TEXT = Form("text", lambda it: isinstance(it, str))
FLAG = Form("true or false", lambda it: isinstance(it, bool))
WHOLE = Form("a whole number, 0 or more", lambda it: isinstance(it, int) and not isinstance(it, bool) and 0 <= it <= MAX_NUMBER)
FILE_NAME = Form("a file's name", lambda it: isinstance(it, str) and bool(re.fullmatch(r"[\w-][\w.-]{0,199}", it)))
DATE = Form("a date and time", _dated)
SECTION = Form("names with values", lambda it: isinstance(it, dict) and bool(it))
PLAIN = Form("text, a number, true, false or null", lambda it: it is None or isinstance(it, SCALAR))
PLAINS = _each(PLAIN)
SETTING = Form(f"{PLAIN.words}, or a list of these", lambda it: it is None or isinstance(it, SCALAR) or PLAINS.fits(it))
ONE_OF_KINDS = Form(f"one of {', '.join(KINDS)}", lambda it: isinstance(it, str) and it in KINDS)
TEXTS = _each(TEXT)
CLASSES = Form("one or more different names", lambda it: TEXTS.fits(it) and len(set(it)) == len(it) >= 1)
TWO_CLASSES = Form("two or more different names", lambda it: CLASSES.fits(it) and len(it) >= 2)
ONE_NAME = Form("a list of one name", lambda it: CLASSES.fits(it) and len(it) == 1)
SHARE, AMOUNT = _number(0, 1), _number(0)
SCORE = _or_none(_number())
SCORES = _mapping(SCORE)
LIMITS = Form("two numbers", lambda it: isinstance(it, list) and len(it) == 2 and all(map(SCORE.fits, it)))
INTERVALS = _mapping(_or_none(LIMITS))
LEAK_COUNTS = Form(
    f"the numbers of examples of {', '.join(LEAKS)}",
    lambda it: isinstance(it, dict) and set(it) == set(LEAKS) and all(map(WHOLE.fits, it.values())),
)
GROUP = Form(
    "a number of examples, perhaps with metrics and intervals",
    lambda it: (
        isinstance(it, dict)
        and WHOLE.fits(it.get("examples"))
        and SCORES.fits(it.get("metrics", {}))
        and INTERVALS.fits(it.get("intervals", {}))
    ),
)
# Metric → what its value must be.
RANGES = {
    **dict.fromkeys(("accuracy", "precision", "recall", "f1", "auroc", "auprc", "ece"), SHARE),
    **dict.fromkeys(("micro_f1", "micro_auroc", "micro_auprc", "exact_match"), SHARE),
    **dict.fromkeys(("log_loss", "hard_log_loss", "brier", "rmse", "mae"), AMOUNT),
    **dict.fromkeys(("mcc", "spearman", "pearson"), _number(-1, 1)),
    "r2": _number(high=1),
}

# Path → form. A part is looked at only if the section that it belongs to is there and not empty.
REQUIRED = {
    "run_id": FILE_NAME,
    "task": SECTION,
    "model": SECTION,
    "recipe": SECTION,
    "seed": WHOLE,
    "code": TEXT,
    **{f"task.{name}": TEXT for name in ("name", "family", "split", "default_split")},
    "task.simulated": FLAG,
    "task.files": _mapping(TEXT),
    "model.name": TEXT,
    "model.card": SECTION,
    "model.card.floor": FLAG,
    "model.recipe": SECTION,
    "model.recipe.tune": TEXT,
    "model.checkpoint": _or_none(SECTION),
    **{f"model.checkpoint.{name}": TEXT for name in ("name", "source", "fingerprint", "sha256")},
    "model.size": TEXT,
    "model.options": _mapping(),
    "recipe.tune": TEXT,
    **{f"alignment.{name}": SECTION for name in ("intact", "blanked", "shuffled")},
    "leakage.counts": LEAK_COUNTS,
    "leakage.parameters": _mapping(),
    "leakage.subsets": SECTION,
    **{f"leakage.subsets.{name}": SECTION for name in SUBSETS},
    **{f"leakage.subsets.{name}.examples": WHOLE for name in SUBSETS},
    **{f"leakage.subsets.{name}.metrics": SCORES for name in SUBSETS},
    **{f"leakage.subsets.{name}.intervals": INTERVALS for name in SUBSETS},
}
# What else is required of a task of each kind: its classes, and what became of its predictions without the alignment.
REQUIRED_OF = {
    kind: {
        "task.classes": CLASSES if kind == MULTILABEL else ONE_NAME if kind == REGRESSION else TWO_CLASSES,
        **{f"alignment.{name}.{metric}": _or_none(RANGES[metric]) for name in ("intact", "blanked", "shuffled")},
        **{f"alignment.{name}.mean_change": AMOUNT if kind == REGRESSION else SHARE for name in ("blanked", "shuffled")},
    }
    for kind, metric in ((CLASSIFICATION, "auroc"), (REGRESSION, "spearman"), (MULTILABEL, "auroc"))
}
OPTIONAL = {
    "schema": WHOLE,
    "status": TEXT,
    "error": _or_none(TEXT),
    "created": DATE,
    "collapsed": FLAG,
    "environment": _mapping(),
    **{f"environment.{name}": _or_none(TEXT) for name in ("device", "device_name", "precision")},
    "metrics": SCORES,
    **{
        f"{section}.{name}": _or_none(form)
        for section in ("metrics", *(f"leakage.subsets.{subset}.metrics" for subset in SUBSETS))
        for name, form in RANGES.items()
    },
    "intervals": _mapping(LIMITS),
    "without_interval": _mapping(TEXT),
    "alignment": _mapping(),
    "leakage": _mapping(),
    "groups": _mapping(_mapping(GROUP)),
    "history": _each(_mapping()),
    "events": TEXTS,
    "timing": _mapping(),
    "timing.seconds": _mapping(_or_none(AMOUNT)),
    "timing.examples_per_second": _or_none(AMOUNT),
    "timing.wait": _or_none(AMOUNT),
    "timing.wait_share": _or_none(SHARE),
    "timing.peak_memory_bytes": _or_none(AMOUNT),
    "checksums": _mapping(TEXT),
    "unknown": _mapping(),
    "recipe": _mapping(SETTING),
    "model.recipe": _mapping(SETTING),
    "task.kind": ONE_OF_KINDS,
    "task.context": _or_none(WHOLE),
    "task.negatives": TEXT,
    "task.main_metric": TEXT,
    "task.question": _or_none(TEXT),
    "task.best_accuracy": _or_none(SHARE),
    "task.counts": _mapping(_mapping(WHOLE)),
    "task.changes": _mapping(_or_none(_number())),
    "model.card.reads": TEXT,
    "model.card.get": TEXT,
    "model.card.checkpoint": _or_none(TEXT),
    "model.audit": _or_none(_mapping()),
    "model.notes": TEXTS,
    "model.unknown_tokens": _or_none(SHARE),
    "model.forward_passes": WHOLE,
    "model.parameters": _or_none(_mapping(_or_none(AMOUNT))),
}


Forms = list[tuple[tuple[str, ...], list[tuple[str, Form, bool]]]]


def _by_section(*tables: tuple[Mapping[str, Form], bool]) -> Forms:
    """The forms of tables, in their order: path of a section → (name, form, whether it is required) of what is in it."""
    found: Forms = []
    for forms, required in tables:
        for path, form in forms.items():
            *section, name = path.split(".")
            if not found or found[-1][0] != tuple(section):
                found.append((tuple(section), []))
            found[-1][1].append((name, form, required))
    return found


_FORMS = {kind: _by_section((REQUIRED, True), (OPTIONAL, False), (of_kind, True)) for kind, of_kind in REQUIRED_OF.items()}


def check(content: Mapping[str, Any]) -> None:
    """Check a record's fields, as JSON values.

    Raises:
        ValueError: something is missing, of another type, or out of its range; it is named.
    """
    task = content.get("task")
    kind = task.get("kind") if isinstance(task, dict) else None
    for section, forms in _FORMS.get(str(kind), _FORMS[CLASSIFICATION]):
        holder: Any = content
        for key in section:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if not holder or not isinstance(holder, dict):
            continue
        for name, form, required in forms:
            if name not in holder:
                if required:
                    raise ValueError(f"{'.'.join(section) or 'it'} lacks {name}")
            elif not form.fits(holder[name]):
                raise ValueError(f"{'.'.join((*section, name))} is {shortened(holder[name])}: expected {form.words}")


def parse(text: str, upgrade: bool = True) -> dict[str, Any]:
    """A record's JSON text as a dictionary of the present schema, not checked yet; as it stands there without ``upgrade``.

    Schema 2 lacked kinds of tasks, of which a record without one is a classification, and leakage; it stays as it is.

    Raises:
        ValueError: no JSON, or values that no record holds: NaN, infinity, half of a surrogate pair, and values nested
            deeper than MAX_DEPTH.
        TypeError, KeyError, AttributeError, RecursionError: JSON of another shape.
    """
    content = _DECODER.decode(text)
    if not isinstance(content, dict):
        raise ValueError(f"it is {shortened(content)}")
    _check_values(content)
    if "\\u" in text:  # an escape, which alone can hold half of a pair
        json.dumps(content, ensure_ascii=False).encode()
    if "schema" not in content:
        raise ValueError("it lacks schema")
    if content["schema"] == 1 and upgrade:
        _upgrade(content)
    if content["schema"] == 2 and upgrade:
        content["schema"] = SCHEMA
    return content


def shortened(value: Any) -> str:
    """A value as text of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(name: str) -> None:
    raise ValueError(f"it holds the number {float(name)}")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _check_values(content: dict[str, Any]) -> None:
    """Refuse what is nested too deeply, and numbers that are too large to be finite."""
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for holder in level:
            for item in holder.values() if type(holder) is dict else holder:
                kind = type(item)
                if kind is dict or kind is list:
                    below.append(item)
                elif kind is float and not -math.inf < item < math.inf:
                    raise ValueError(f"it holds the number {item}")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _upgrade(content: dict[str, Any]) -> None:
    """Convert a record from schema 1 to the present one, in place.

    Its intervals were those of a percentile bootstrap, which are too narrow; they are left out, for they can be computed again.
    Schema 1 had context and ``(sample)`` inside the task's name. Of a checkpoint it lacked the source, which is in the audit,
    and the fingerprint, for which the sha256 of the weight file must do.
    """
    task, model = content["task"], content["model"]
    name, context = task["name"].removesuffix(" (sample)"), None
    if task["family"] == "variants":
        stated = re.fullmatch(r"(.+)@(\d+)", name)
        name, context = (stated[1], int(stated[2])) if stated else (name, Reference.context)
    task |= {"name": name, "context": context}
    if model["checkpoint"]:
        model["checkpoint"] |= {"source": model["audit"]["source"], "fingerprint": model["checkpoint"]["sha256"]}
    content |= {"schema": SCHEMA, "intervals": {}}
