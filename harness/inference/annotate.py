"""annotate(): a VCF again, with what a model says of each variant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness.data import Example
from harness.engine.classifier import ZeroShot
from harness.errors import BadData, UserError
from harness.files.text import text_lines
from harness.progress import Reporter

from . import writing
from .answers import Part, Question, Seeds, about, fill
from .inputs import Input, nothing_scored
from .predict import check_kind
from .variants import EXPECTED, alleles, is_vcf, vcf_record

P, SD, LLR, SKIPPED = "HARNESS_P", "HARNESS_SD", "HARNESS_LLR", "HARNESS_SKIPPED"
MANY = 0.01  # of the variants; where the genome has other letters at more, it may be another assembly
_OUT = re.compile(r"\.vcf(\.b?gz)?$", re.IGNORECASE)
_OWN = re.compile(rf"##INFO=<ID=({P}|{SD}|{LLR}|{SKIPPED}),")
_COLUMNS = ("CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")


@dataclass
class Annotated:
    """What :func:`annotate` made: numbers of ``records``, of alternate alleles ``scored``, and of others by the reason."""

    records: int
    scored: int
    skipped: dict[str, int]
    notes: list[str]


def annotate(seeds: Seeds, found: Input, out: Path, reporter: Reporter | None = None, *, force: bool = False) -> Annotated:
    """Copy a VCF, with fields of INFO for each alternate allele; every record stays, and its other fields as they are.

    HARNESS_P is the probability of the second class, of several seeds their mean, and HARNESS_SD its standard deviation over
    the seeds; of a zero-shot run, HARNESS_LLR is log p(alternate) - log p(reference) in nats. An allele that cannot be scored has
    ``.`` there, and HARNESS_SKIPPED says why. ``out`` ends in .vcf, or in .vcf.gz, which is written as bgzip, for tabix. It
    appears whole at the end; a stopped run goes on. A file that exists is replaced only if ``force``.

    Raises:
        UserError: the model was not trained on variants, or ``out`` cannot be written.
        BadData: a line is no record, or none can be scored.
    """
    reporter = reporter or Reporter()
    path, pairs, total = found.paths[0], found.pairs, 0
    if found.paths[1:] or not is_vcf(path):
        raise UserError(f"out {out}: only a VCF is annotated; of {path} write a table: --out variants.csv")
    writing.check_out(out, found.files, _OUT, ".vcf or .vcf.gz", force)
    check_kind(seeds, found)
    assert pairs is not None
    codes = {reason: number for number, reason in enumerate(pairs.reasons, start=1)}
    for number, line in _lines(path):  # so that a faulty line is said before anything is predicted
        if not line.startswith("#"):
            total += len(vcf_record(path, number, line).alternates)
    if not total:
        raise BadData(f"{path}: no variants; expected {EXPECTED}")

    def questions() -> Iterator[Question]:
        for allele in alleles(path, pairs):
            yield codes[allele.reason] if allele.reason else Example(allele.id, allele.windows, 0, allele.changed)

    with Part(out, about(seeds, found, what="vcf"), seeds.width) as part:
        fill(part, seeds, questions(), total, reporter.say)
        skipped = Counter({pairs.reasons[code - 1]: count for code, count in part.reasons().items()})
        if skipped.total() == total:
            part.close(done=True)
            raise nothing_scored(path, skipped)
        records = _write(seeds, path, out, part, pairs.reasons)
    notes = [f"kept without a score: {count:,} {reason.replace('_', ' ')}" for reason, count in sorted(skipped.items())]
    if skipped["reference_mismatch"] + skipped["off_genome"] > MANY * total:
        notes.append("WARNING: the genome has other letters at many variants; is it of another assembly?")
    return Annotated(records, total - skipped.total(), dict(skipped), notes)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(text_lines(path, EXPECTED), start=1) if line.strip())


def _write(seeds: Seeds, path: Path, out: Path, part: Part, reasons: tuple[str, ...]) -> int:
    """Write the VCF, and return its number of records."""
    first = records = 0
    declared, zero = False, isinstance(seeds.first.classifier, ZeroShot)
    with writing.whole(out) as temporary, _file(temporary, out.suffix.lower() in (".gz", ".bgz")) as file:
        for number, line in _lines(path):
            if _OWN.match(line):  # of an earlier annotation
                continue
            if line.startswith("##"):
                file.write(f"{line}\n")
                continue
            if not declared:
                declared = True
                for own in _header(seeds, zero, not line.startswith("#")):
                    file.write(f"{own}\n")
            fields = line.split("\t")
            if line.startswith("#"):
                file.write("\t".join([*fields, *_COLUMNS[len(fields) :]]) + "\n")
                continue
            count = len(vcf_record(path, number, line).alternates)
            rows = part.read(first, count)
            first, records = first + count, records + 1
            fields += ["."] * (len(_COLUMNS) - len(fields))
            fields[7] = ";".join([*_kept(fields[7]), *_info(seeds, rows, zero, reasons)])
            file.write("\t".join(fields) + "\n")
    return records


def _file(path: Path, packed: bool) -> AbstractContextManager[Any]:
    if not packed:
        return writing.text_file(path, False)
    from Bio.bgzf import BgzfWriter

    return BgzfWriter(str(path), "w")


def _kept(info: str) -> list[str]:
    """The items of INFO but for those of an earlier annotation."""
    own = (P, SD, LLR, SKIPPED)
    return [item for item in info.split(";") if item not in ("", ".") and item.partition("=")[0] not in own]


def _info(seeds: Seeds, rows: np.ndarray, zero: bool, reasons: tuple[str, ...]) -> list[str]:
    """The items of INFO for a record, a value for each alternate allele."""
    mean, spread, codes = seeds.mean(rows), seeds.spread(rows), rows[:, 0].astype(int).tolist()
    found = []
    if not all(codes):
        found.append(f"{P}={_numbers(mean[:, 1])}")
        if spread.shape[1]:
            found.append(f"{SD}={_numbers(spread[:, 1])}")
        if zero:
            found.append(f"{LLR}={_numbers(np.log(mean[:, 0]) - np.log(mean[:, 1]))}")
    if any(codes):
        found.append(f"{SKIPPED}={','.join(reasons[code - 1] if code else '.' for code in codes)}")
    return found


def _numbers(values: np.ndarray) -> str:
    return ",".join("." if np.isnan(value) else f"{value:.6g}" for value in values.tolist())


def _header(seeds: Seeds, zero: bool, lacks_columns: bool) -> Iterator[str]:
    run, numbers = seeds.first.run, ", ".join(str(one.run.seed) for one in seeds.runs)
    who = f"{run.name}, {'zero-shot' if zero else 'trained'} on {run.label}, seed {numbers}"
    several = " (mean over the seeds)" if len(seeds.runs) > 1 else ""
    told = [(P, "Float", f"Probability of the class {seeds.first.classes[1]}{several} by {who}")]
    if several:
        told.append((SD, "Float", "Standard deviation of HARNESS_P over the seeds"))
    if zero:
        told.append((LLR, "Float", "log p(alternate) - log p(reference), in nats"))
    told.append((SKIPPED, "String", "Why an allele has no score"))
    for name, kind, words in told:
        text = words.replace("\\", "\\\\").replace('"', '\\"')
        yield f'##INFO=<ID={name},Number=A,Type={kind},Description="{text}",Source="harness",Version="{harness.__version__}">'
    if lacks_columns:
        yield "#" + "\t".join(_COLUMNS)
