"""`harness audit`: what the parts of a task's split have of each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import LabelColumn, Positive, Quiet, SequenceColumn, TaskKind, TestFiles, TrainFiles, ValidationFiles, pairs

WAY_OUT = "A split without leaks"


def audit(
    task: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK | FILES]", help="A task, a family, or your own files or folder: the words of `run --task`."
        ),
    ] = None,
    train: TrainFiles = None,
    validation: ValidationFiles = None,
    test: TestFiles = None,
    sequence_column: SequenceColumn = "",
    label_column: LabelColumn = None,
    positive: Positive = "",
    kind: TaskKind = "",
    split: Annotated[str | None, typer.Option(help="Split rule of the task, e.g. thesis or published.")] = None,
    genome: Annotated[Path | None, typer.Option(help="For variants and BED: FASTA or 2bit.")] = None,
    context: Annotated[int | None, typer.Option(help="Variants: window length in nucleotides (default 128).")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="source=NAME: where it is read from; negatives=KIND: of variants.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call a task that is made of your own files.")] = None,
    identity: Annotated[float, typer.Option(help="Of near duplicates: share of letters that are the same.")] = 0.8,
    coverage: Annotated[float, typer.Option(help="Of near duplicates: share of the shorter window that is alike.")] = 0.8,
    json_file: Annotated[str, typer.Option("--json", help="Also write everything as JSON to this file; - for the screen.")] = "",
    fix: Annotated[
        str, typer.Option(help="cluster or chromosome: write a split that keeps like windows together.", rich_help_panel=WAY_OUT)
    ] = "",
    out: Annotated[Path | None, typer.Option(help="With --fix: the folder for its files.", rich_help_panel=WAY_OUT)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there are leaks or contradicting labels.")] = False,
    no_sample: Annotated[
        bool, typer.Option("--no-sample", help="Fail rather than use the simulated sample of a data set that is not here.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Find duplicates, overlaps and shortcuts in a task's split, on both strands, and say what its scores are worth."""
    from harness.errors import UserError
    from harness.evidence.audit import audit as audit_splits
    from harness.evidence.audit import described
    from harness.files.atomic import atomic, check_writable
    from harness.files.neighbours import Similarity
    from harness.study.audit import check_repair, open_tasks, repair

    from .screen import Screen

    screen, similarity = Screen(quiet), Similarity(identity, coverage)
    given = pairs(option)
    if unknown := sorted(given.keys() - {"source", "negatives"}):
        raise UserError(f"option {unknown[0]}: `harness audit` takes source=NAME and negatives=KIND only")
    if bool(fix) != (out is not None):
        raise UserError("fix and out: give both or neither, e.g. --fix cluster --out FOLDER")
    if json_file not in ("", "-"):
        if Path(json_file).is_dir():
            raise UserError(f"json {json_file}: a folder; name a file in it")
        check_writable(Path(json_file).parent, "json")
    opened = open_tasks(
        task or None,
        train=train,
        validation=validation,
        test=test,
        sequence_column=sequence_column,
        label_column=label_column or (),
        positive=positive,
        kind=kind,
        split=split,
        genome=genome,
        context=context,
        sample=not no_sample,
        name=name,
        source=given.get("source", ""),
        negatives=given.get("negatives", ""),
    )
    if fix and len(opened) > 1:
        raise UserError(f"fix {fix!r}: names {len(opened)} tasks, such as {opened[0][0].name}; repair them one by one")
    if fix and out is not None:
        check_repair(opened[0][0], opened[0][2], fix, out)
    found = []
    for one, rule, splits in opened:
        found.append(audit_splits(one, splits, rule, similarity))
        if json_file != "-":
            screen.conclude("\n".join(described(found[-1])))
        if fix and out is not None:
            screen.conclude("\n".join(repair(one, splits, fix, out, similarity)))
    content = [item.to_json() for item in found]
    text = json.dumps(content[0] if len(content) == 1 else content, indent=1, ensure_ascii=False, allow_nan=False)
    if json_file == "-":
        print(text)
    elif json_file:
        Path(json_file).parent.mkdir(parents=True, exist_ok=True)
        with atomic(Path(json_file)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    raise typer.Exit(1 if strict and not all(item.clean for item in found) else 0)
