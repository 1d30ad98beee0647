"""What files of variants call benign and pathogenic: numbers, words, or the codes of ClinVar's VCF files to 2017."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from harness.errors import BadData
from harness.files.readers import MISSING
from harness.files.table import whole
from harness.files.text import printable

EXPECTED = "expected 0 or 1, false or true, benign or pathogenic"
CODED = ("clnsig", "clinicalsignificance")  # the fields in which ClinVar's and dbSNP's files have codes
BENIGN, PATHOGENIC = 0, 1
# What variants that are not pathogenic are taken for: the choice decides which model looks best.
COMMON, JUDGED_BENIGN, OWN = NEGATIVES = ("common", "benign", "own")
NUMBERS = {"0": BENIGN, "1": PATHOGENIC, "false": BENIGN, "true": PATHOGENIC}
WORDS = {
    **dict.fromkeys(("benign", "likely_benign", "common"), BENIGN),
    **dict.fromkeys(("pathogenic", "likely_pathogenic"), PATHOGENIC),
}
# What ClinVar says besides: these say nothing of the class, and those say that it is open.
BESIDES = (
    *("risk_factor", "drug_response", "association", "association_not_found", "protective", "affects", "other", "not_provided"),
    *("low_penetrance", "confers_sensitivity", "established_risk_allele", "likely_risk_allele"),
)
OPEN = (
    *("uncertain_significance", "vus", "uncertain", "uncertain_risk_allele", "unknown", "untested", "conflicting"),
    *("conflicting_interpretations_of_pathogenicity", "conflicting_classifications_of_pathogenicity"),
    *("conflicting_data_from_submitters", "no_classifications_from_unflagged_records"),
    *("no_classification_for_the_single_variant", "no_interpretation_for_the_single_variant"),
)
CODES = {"2": BENIGN, "3": BENIGN, "4": PATHOGENIC, "5": PATHOGENIC}
CODES_BESIDES = ("1", "6", "7", "255")  # not provided, drug response, histocompatibility, other; 0 is uncertain

_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")


def understand(
    counts: Counter[str], field: str, declared: Callable[[], bool], where: Callable[[str], str], total: int
) -> tuple[dict[str, int | None], str]:
    """The class of every label in ``counts``, None for neither of the two, and a sentence that says how they were read.

    All labels of a field are in one grammar: 0 and 1 (or false and true), words, or ClinVar's codes. Codes are understood
    where the file declares them, or where CLNSIG holds some from 2 to 5 and neither 0 nor 1. ``counts`` are labels as
    :func:`plain` makes them, of ``total`` records; ``where`` tells the place of one of them.

    Raises:
        BadData: the labels mix grammars, one is another number, or most of them are unknown.
    """
    parts = {part: label for label in counts for part in _split(label)}
    may_be_coded = field.lower() in CODED and parts.keys() <= {*CODES, *CODES_BESIDES, "0", "", ".", *MISSING}
    coded = may_be_coded and (declared() or (not parts.keys().isdisjoint(CODES) and parts.keys().isdisjoint(NUMBERS)))
    strange = next((part for part in parts if _NUMBER.fullmatch(part) and part not in NUMBERS), None)
    if strange is not None and not coded:
        hint = "; ClinVar's codes are read where the VCF header declares them, or without 0 and 1" if may_be_coded else ""
        raise BadData(f"{where(parts[strange])}: label {strange[:40]!r}; {EXPECTED}{hint}")
    number, word = (next((part for part in parts if part in known), None) for known in (NUMBERS, WORDS))
    if number and word:
        raise BadData(f"{where(parts[word])}: label {word!r}, but {number!r} elsewhere; write all labels in one way")
    odd = sorted(label for label in counts if not coded and not any(map(_known, _split(label))))
    if 2 * sum(counts[label] for label in odd) > total:
        most = max(odd, key=lambda label: counts[label])
        raise BadData(f"{where(most)}: label {most[:40]!r}, and most are unknown; {EXPECTED}")
    kind = "ClinVar's codes (2 and 3 benign, 4 and 5 pathogenic)" if coded else "numbers" if number else "words"
    unknown = f"; not understood: {', '.join(map(repr, odd))[:100]}" if odd else ""
    classes = {label: _coded_class(label) if coded else _class(label) for label in counts}
    return classes, f"labels: {kind} in {printable(field)}{unknown}"


def plain(text: str) -> str:
    """A label in lower case, with ``_`` for blanks and hyphens, and 1 for 1.0."""
    return whole(re.sub(r"(?<=\w)[\s-]+(?=\w)", "_", text.strip().lower()))


def _split(word: str) -> list[str]:
    return [part.strip("_ ") for part in re.split(r"[|,/;&]", word)]


def _known(part: str) -> bool:
    return part in NUMBERS or part in WORDS or part in BESIDES or part in OPEN or part in ("", ".", *MISSING)


def _class(word: str) -> int | None:
    """The class of a label such as ``pathogenic/likely_pathogenic|risk_factor``, whose first word must name it."""
    parts = _split(word)
    known = NUMBERS | WORDS
    classes = {known[part] for part in parts if part in known}
    return known[parts[0]] if parts[0] in known and len(classes) == 1 and not any(part in OPEN for part in parts) else None


def _coded_class(word: str) -> int | None:
    """The class of codes such as ``5|5|255``: all that say something must agree."""
    classes = {CODES.get(part) for part in _split(word) if part not in CODES_BESIDES}
    return classes.pop() if len(classes) == 1 else None


def negatives_of(word: str) -> str:
    """What a label of a benign variant takes it for: COMMON in a population, JUDGED_BENIGN, or nothing that it says: empty."""
    parts = _split(word)
    if "common" in parts:
        return COMMON
    return "" if any(part in NUMBERS for part in parts) else JUDGED_BENIGN
