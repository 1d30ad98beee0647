"""What the words in label columns, headers and names of files mean: one class a window, a number, or several labels."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from harness.data import Label
from harness.errors import BadData, UnknownName, UserError
from harness.files.readers import MISSING
from harness.files.table import whole
from harness.task import CLASSIFICATION, KINDS, MULTILABEL, REGRESSION, Reading

from ._names import negative_first

MAX_CLASSES = 50  # more distinct whole numbers than this are measurements, unless they number the classes
MIN_OF_CLASS = 3  # windows that each of so many numbered classes has
MIN_UNLIKE = 10  # with more distinct labels than this, of which most windows have their own, they are no classes
MAX_DIGITS = 15  # of whole numbers
LARGEST = 1e30  # number; float32 ends at 3.4e38, and errors are squared
MAX_LISTED = 10  # classes that a note names

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
_COMMA_NUMBER = re.compile(r"[-+]?\d+(,\d+)?(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
_INFINITE = re.compile(r"[-+]?inf(inity)?", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\s_'\"]+|(?<=\w)-+(?=\w)")
_LIST = re.compile(r"[\[({].*[\])}]|.*[,;|].*|[-+]?\d+([ _/:&+][-+]?\d+)+")
_BITS = {"0": 0, "1": 1, "false": 0, "true": 1, "0.": 0, "1.": 1}

Word = str | tuple[str, ...]


class Labels(NamedTuple):
    """What the words mean: the kind of the task, its classes (see :class:`harness.task.Task`), a label for each window, and
    sentences about how they were read."""

    kind: str
    classes: tuple[str, ...]
    values: list[Label]
    notes: list[str]


def read_labels(name: str, words: Sequence[Word], places: Sequence[str], columns: Sequence[str], reading: Reading) -> Labels:
    """The labels of windows.

    ``words`` are the files' own, one for each window, or one for each of its label columns; ``places`` say where they stand,
    for messages; ``columns`` are the names of the label columns, where there are any. Without ``reading.kind``, labels are
    several of one window if there are several columns or words such as ``0;1;0``; numbers if one has decimals, or if more than
    MAX_CLASSES whole numbers do not number classes; else classes.

    Classes are in numerical order if they are whole numbers, else in alphabetical order; of two, ``reading.positive`` or the one
    whose name says so (bound, of bound and unbound) is the second.

    Raises:
        BadData: labels that mean neither, differ in length, mix grammars, or are all the same.
        UserError: ``reading`` asks for what these labels are not.
    """
    if reading.kind and reading.kind not in KINDS:
        raise UserError(f"kind {reading.kind!r}: choose one of {', '.join(KINDS)}")
    several = isinstance(words[0], tuple)
    if several and reading.kind not in ("", MULTILABEL):
        raise UserError(
            f"label-column: {len(words[0])} columns are the labels of one window, not a {reading.kind}; name one column"
        )
    texts = [word if isinstance(word, str) else " ".join(word) for word in words]
    kind = MULTILABEL if several else reading.kind or _kind(name, texts)
    if reading.positive and kind != CLASSIFICATION:
        raise UserError(f"positive {reading.positive!r}: a {kind} has no positive class; leave it out")
    if kind == MULTILABEL:
        return _several(name, words, places, columns, not reading.kind and not several)
    if kind == REGRESSION:
        return _numbers(name, texts, places, columns, not reading.kind)
    return _classes(name, texts, reading)


# --- which kind ---------------------------------------------------------------------------------------------------------


def _kind(name: str, texts: Sequence[str]) -> str:
    counts = Counter(texts)
    names = sorted(counts)
    odd = next((text for text in names if text.startswith("{") or re.fullmatch(r"[-+]?\d+([_/:&+][-+]?\d+)+", text)), None)
    if odd is not None:
        raise BadData(f"{name}: label {odd[:40]!r} looks like several labels of one window; write 0;1;0 or name;name")
    if all(_NUMBER.fullmatch(text) or _INFINITE.fullmatch(text) for text in names):
        numbers = [text for text in names if not re.fullmatch(r"[-+]?\d+", text, re.ASCII)]
        if numbers:
            return REGRESSION
        if len(names) > 1 and all(re.fullmatch("[01]{2,}", text) and len(text) == len(names[0]) for text in names):
            raise BadData(
                f"{name}: label {names[0][:40]!r} looks like several labels of one window; write 0;1;0, or say that these are "
                "classes with --kind classification"
            )
        unlike = len(names) > MIN_UNLIKE and 2 * len(names) > counts.total()
        if (len(names) > MAX_CLASSES or unlike) and not _numbered(counts):
            return REGRESSION
        return CLASSIFICATION
    if all(_COMMA_NUMBER.fullmatch(text) for text in names) and not all(set(text.split(",")) <= {"0", "1"} for text in names):
        found = next(text for text in names if "," in text)
        raise BadData(
            f"{name}: label {found[:40]!r} may be a number with a decimal comma or several labels; write a point, or say "
            "which with --kind regression or multilabel"
        )
    return MULTILABEL if any(_LIST.fullmatch(text) for text in names) else CLASSIFICATION


def _numbered(counts: Counter[str]) -> bool:
    """Whether whole numbers are those of classes: 0, 1, … or 1, 2, … without a gap, with a few windows each."""
    numbers = sorted(int(text) for text in counts if len(text) <= MAX_DIGITS)
    first = numbers[0] if numbers else -1
    return first in (0, 1) and numbers == list(range(first, first + len(counts))) and min(counts.values()) >= MIN_OF_CLASS


# --- one number ---------------------------------------------------------------------------------------------------------


def _numbers(name: str, texts: Sequence[str], places: Sequence[str], columns: Sequence[str], said: bool) -> Labels:
    commas = any("," in text for text in texts) and all(_COMMA_NUMBER.fullmatch(text) for text in texts)
    values: list[Label] = []
    for text, place in zip(texts, places, strict=True):
        if not (_NUMBER.fullmatch(text) or (commas and _COMMA_NUMBER.fullmatch(text))):
            if not any(map(_NUMBER.fullmatch, texts)):
                raise BadData(f"{place}: label {text[:40]!r} is no number; leave --kind regression out, or name another column")
            wrong = "is not finite" if _INFINITE.fullmatch(text) else "is no number, and others are"
            raise BadData(f"{place}: label {text[:40]!r} {wrong}; correct it or delete the line")
        value = float(text.replace(",", "."))
        if not math.isfinite(value):
            raise BadData(f"{place}: label {text[:40]!r} is not finite; correct it or delete the line")
        if abs(value) > LARGEST:
            raise BadData(f"{place}: label {text[:40]!r} is larger than models compute with; use another unit")
        values.append(value)
    if len(set(values)) < 2:
        raise BadData(f"{name}: every window has the value {texts[0][:40]}; there is nothing to predict")
    measured = columns[0] if len(columns) == 1 else "value"
    example = next((text for text in texts if not re.fullmatch(r"[-+]?\d+", text)), None)
    why = f"they have decimals, such as {example[:20]}" if example else f"{len(set(values)):,} different whole numbers"
    low, high = min(texts, key=_value), max(texts, key=_value)
    notes = [f"a regression: the labels ({measured}) are numbers from {low} to {high}"]
    notes[0] += f"; {why}{'' if example else ' (--kind classification takes them for classes)'}" if said else ""
    if commas:
        notes.append("decimal commas are read as points")
    return Labels(REGRESSION, (measured,), values, notes)


def _value(text: str) -> float:
    return float(text.replace(",", "."))


# --- several labels -----------------------------------------------------------------------------------------------------


def _several(name: str, words: Sequence[Word], places: Sequence[str], columns: Sequence[str], said: bool) -> Labels:
    lists = [list(word) if isinstance(word, tuple) else _split(word, place) for word, place in zip(words, places, strict=True)]
    of_columns = isinstance(words[0], tuple)
    if of_columns or all(item.lower() in _BITS for items in lists for item in items):
        width = len(lists[0])
        for items, place in zip(lists, places, strict=True):
            if len(items) != width:
                raise BadData(f"{place}: {len(items)} labels, where {places[0]} has {width}; give every window the same number")
            if odd := next((item for item in items if item.lower() not in _BITS), None):
                raise BadData(f"{place}: label {odd[:40]!r} in a column of several; each holds 0 or 1")
        names = (
            tuple(columns)
            if of_columns and not columns[0].startswith("column ")
            else tuple(f"label_{n + 1}" for n in range(width))
        )
        values: list[Label] = [tuple(_BITS[item.lower()] for item in items) for items in lists]
    else:
        names = class_names(name, [item for items in lists for item in items])
        position = {text: number for number, text in enumerate(names)}
        values = []
        for items, place in zip(lists, places, strict=True):
            if len(set(items)) < len(items):
                shown = f"({', '.join(items[:10])}{', …' if len(items) > 10 else ''})"
                raise BadData(f"{place}: a label stands there twice {shown}; keep one (no labels of single letters are read)")
            held = {position[item] for item in items}
            values.append(tuple(int(number in held) for number in range(len(names))))
    if len(Counter(values)) < 2:
        raise BadData(f"{name}: every window has the same labels; there is nothing to predict")
    if len(names) < 2:
        raise BadData(f"{name}: only one label, {''.join(names)!r}; write it as the classes 0 and 1")
    shown = f"{', '.join(names[:MAX_LISTED])}{', …' if len(names) > MAX_LISTED else ''}"
    notes = [
        f"several labels a window: {len(names)} ({shown})"
        + (" (--kind classification takes each word for a class)" if said else "")
    ]
    constant = [names[number] for number, column in enumerate(zip(*values, strict=True)) if len(set(column)) == 1]  # type: ignore[arg-type]
    if constant:
        notes.append(f"labels that are the same for every window, and say nothing: {', '.join(constant)[:100]}")
    return Labels(MULTILABEL, names, values, notes)


def _split(word: str, place: str) -> list[str]:
    """The items of ``0;1;0``, ``[0, 1]``, ``a|b``, ``['a', 'b']`` or ``0 1 0``; of ``[]`` none."""
    if word.startswith("{"):
        raise BadData(f"{place}: label {word[:40]!r} is an object; give a list, or 0;1;0")
    inner = re.sub(r"^[\[(](.*)[\])]$", r"\1", word.strip(), flags=re.DOTALL).strip()
    if not inner:
        return []
    separator = next((mark for mark in (";", "|", ",") if mark in inner), None)
    if separator is None and re.fullmatch(r"[-+.\d]+(\s+[-+.\d]+)+", inner):
        separator = " "
    items = [item.strip().strip("'\"").strip() for item in (inner.split(separator) if separator else [inner])]
    if separator == " ":
        items = [item for item in items if item]
    if any(not item or item.lower() in MISSING for item in items):
        raise BadData(f"{place}: an empty label in {word[:40]!r}; fill it in or delete the separator")
    items = [whole(item) for item in items]
    if decimal := next(
        (item for item in items if _NUMBER.fullmatch(item) and not item.lstrip("+-").rstrip(".").isdecimal()), None
    ):
        raise BadData(
            f"{place}: several numbers of one window ({decimal[:20]}, …); a regression has one: name it with --label-column"
        )
    return items


# --- one class ----------------------------------------------------------------------------------------------------------


def _classes(name: str, texts: Sequence[str], reading: Reading) -> Labels:
    classes = class_names(name, texts)
    if len(classes) < 2:
        raise BadData(f"{name}: every window has the label {''.join(classes)!r}; at least two classes are needed")
    if reading.positive and len(classes) != 2:
        raise UserError(
            f"positive {reading.positive!r}: there are {len(classes)} classes, and only of two is one positive; leave it out"
        )
    why = ""
    if reading.positive:
        asked = {found.casefold(): found for found in classes}.get(whole(reading.positive).casefold())
        if asked is None:
            near = difflib.get_close_matches(reading.positive, classes, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"the classes are {' and '.join(classes)}"
            raise UnknownName(f"positive {reading.positive!r}: no such class; {hint}")
        classes, why = tuple(sorted(classes, key=lambda found: found == asked)), "as asked for"
    elif len(classes) == 2 and (ordered := negative_first(classes)) is not None and ordered != classes:
        classes, why = ordered, "by its name; --positive chooses the other"
    position = {text: number for number, text in enumerate(classes)}
    if len(classes) == 2:
        note = f"the positive class is {classes[1]!r}, {why or 'the second'}: f1, precision, recall, auroc and auprc are about it"
    else:
        note = f"{len(classes)} classes: {', '.join(classes[:MAX_LISTED])}{', …' if len(classes) > MAX_LISTED else ''}"
        if all(re.fullmatch(r"[-+]?\d+", text, re.ASCII) for text in classes):
            note += " (--kind regression takes them for measurements)"
    return Labels(CLASSIFICATION, classes, [position[text] for text in texts], [note])


def class_names(name: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels, sorted by value if all are whole numbers, else by name.

    Raises:
        BadData: the labels are ids or have decimals, mix numbers and names, or spell one class in two ways.
    """
    counts = Counter(labels)
    names = sorted(counts)
    integers = [re.fullmatch(r"[-+]?\d+", text, re.ASCII) is not None for text in names]
    decimal = next((text for text, integer in zip(names, integers, strict=True) if not integer and _NUMBER.fullmatch(text)), None)
    if decimal is not None:
        raise BadData(
            f"{name}: label {decimal[:40]!r} looks like a measurement; classes are 0, 1, … or names (or --kind regression)"
        )
    if any(integers) and not all(integers):
        number, word = names[integers.index(True)], names[integers.index(False)]
        raise BadData(f"{name}: labels mix numbers ({number[:40]!r}) and names ({word[:40]!r}); write all classes in one way")
    if long := next((text for text, integer in zip(names, integers, strict=True) if integer and len(text) > MAX_DIGITS), None):
        raise BadData(f"{name}: label {long[:40]!r}… has {len(long):,} digits; labels are 0, 1, … or the names of classes")
    spellings: dict[str, str] = {}
    for text, integer in zip(names, integers, strict=True):
        plain = str(int(text)) if integer else _BETWEEN_WORDS.sub(" ", text.casefold()).strip()
        if (other := spellings.setdefault(plain, text)) != text:
            raise BadData(f"{name}: {other[:40]!r} and {text[:40]!r} are spellings of one label; write it in one way")
    if len(names) > MIN_UNLIKE and 2 * len(names) > counts.total():
        raise BadData(f"{name}: {len(names):,} different labels of {counts.total():,} windows: are these ids? Name the classes")
    return tuple(sorted(names, key=int) if all(integers) else names)
