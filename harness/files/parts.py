"""The words for the parts of a split."""

from __future__ import annotations

import re

PARTS = {  # how people call the parts of a split
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
}


def part_of(word: str) -> str:
    """The part of a split that a word means, in any of its usual spellings; empty for another word."""
    return PARTS.get(re.sub(r"[\W_]*(set|split)?$", "", word.strip().lower()), "")
