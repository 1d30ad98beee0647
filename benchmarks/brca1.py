"""ClinVar missense variants of BRCA1: conservation, a k-mer floor, MSAMamba and GPN-MSA at several contexts, on all variants.

    python benchmarks/brca1.py --data ../shared/data/variants --out /tmp/brca1 [--contexts 128 512 1024] [--steps 200] [--folds 5]

For each context, MSAMamba (column layout, tiny) is pretrained on the alignment alone, which holds no labels. Then each model is
fitted on every fold of the position split, so that each variant is predicted once, by a model that saw nothing of its block.
The predictions of all folds are pooled; AUROC and AUPRC have 95 % intervals by blocks. For comparison, the
table has a line for the exon's name as the only feature, and a column of AUROC outside the largest exon. All models read every
``--every``-th species of the alignment. MSAMamba from scratch is run at the contexts of ``--scratch`` only. Finished runs are not
repeated, so several processes may share ``--out``, one context each.
"""

from __future__ import annotations

import argparse
import csv
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np

import harness
from harness.cli.screen import Screen
from harness.engine.pretrain import pretrain
from harness.errors import DataMissing
from harness.evidence.records import Predictions, judge, read_predictions
from harness.files.alignments import open_alignment
from harness.files.hub import official
from harness.registry import model_cards
from harness.study.work import Worker

CENTRE = {"pooling": "centre"}
VARIANTS, GENOME, ALIGNMENT = "clinvar_brca1_missense.hg38.tsv", "hg38_chr17_*.fa.gz", "brca1_locus_msa*.fasta.gz"


def contestants(pretrained: Path, epochs: int, scratch: bool) -> dict[str, dict]:
    """The models that are compared: label → arguments of :func:`harness.plan`."""
    short = {"epochs": epochs, "learning_rate": 1e-3}  # tiny models want more than the published rate
    found = {
        "column_conservation": {"model": "column_conservation"},
        "kmer (floor)": {"model": "kmer"},
        "msamamba, pretrained here, fine-tuned": {
            "model": "msamamba",
            "checkpoint": str(pretrained),
            "option": CENTRE,
            **short,
        },
        "msamamba, pretrained here, zero-shot": {
            "model": "msamamba",
            "checkpoint": str(pretrained),
            "tune": "zero",
        },
        "gpn_msa (tiny), untrained, probe": {"model": "gpn_msa", "init": "random:tiny", "tune": "probe"},
    }
    if scratch:
        found["msamamba, from scratch"] = {"model": "msamamba", "init": "random:tiny", "option": CENTRE, **short}
    try:
        official("gpn_msa", model_cards()["gpn_msa"])
        found["gpn_msa, official, zero-shot"] = {"model": "gpn_msa", "tune": "zero"}
    except DataMissing:
        pass  # its weights are not on this machine
    return found


def pooled(folds: list[Predictions]) -> Predictions:
    """The predictions of all folds as one."""
    return Predictions(
        sum((fold.ids for fold in folds), ()),
        np.concatenate([fold.labels for fold in folds]),
        np.concatenate([fold.outputs for fold in folds]),
        folds[0].classes,
        sum((fold.blocks for fold in folds), ()),
    )


def exons(path: Path) -> dict[str, str]:
    """The exon of each variant, by example id."""
    with open(path, newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {f"{row['chrom']}:{row['pos']}:{row['ref']}:{row['alt']}": row["EXON"] for row in rows}


def row(label: str, context: int | str, predictions: Predictions, outside: np.ndarray) -> list[str]:
    """A row of the table; ``outside``, bool (N,), is true for variants outside the largest exon."""
    rest = replace(
        predictions,
        ids=tuple(np.array(predictions.ids)[outside]),
        labels=predictions.labels[outside],
        outputs=predictions.outputs[outside],
        blocks=tuple(np.array(predictions.blocks)[outside]),
    )
    cells = [score(predictions, "auroc"), score(predictions, "auprc"), score(rest, "auroc")]
    return [label, str(context), *cells, f"{judge(predictions)[0]['log_loss']:.3f}"]


def score(predictions: Predictions, metric: str) -> str:
    """A metric with its interval, if it has one."""
    metrics, intervals = judge(predictions)
    limits = f" [{intervals[metric][0]:.3f}, {intervals[metric][1]:.3f}]" if metric in intervals else ""
    return f"{metrics[metric]:.3f}{limits}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--steps", type=int, default=200, help="of pretraining")
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=4, help="maximum for fine-tuning")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--scratch", type=int, nargs="*", default=[128])
    parser.add_argument("--every", type=int, default=3)
    options = parser.parse_args()
    variants = options.data / VARIANTS
    genome, alignment = (next(options.data.glob(pattern)) for pattern in (GENOME, ALIGNMENT))
    exon = exons(variants)
    largest = max(set(exon.values()), key=list(exon.values()).count)
    species = ",".join(open_alignment(alignment).species[1 :: options.every])
    table = options.out / f"brca1-{'-'.join(map(str, options.contexts))}.md"
    screen, lines = Screen(), []
    for context in options.contexts:
        pretrained = pretrain(
            "msamamba",
            msa=alignment,
            species=species,
            context=context,
            steps=options.steps,
            tokens_per_step=options.tokens_per_step,
            init="random:tiny",
            settings={"learning_rate": 3e-3},
            out=options.out / f"pretrained-{context}",
            reporter=screen,
        )
        for label, arguments in contestants(pretrained, options.epochs, context in options.scratch).items():
            folds = []
            for fold in range(options.folds):
                runs = harness.plan(
                    task=f"variants:{variants}",
                    split="position" if fold == 0 else f"position-{fold + 1}",
                    genome=genome,
                    msa=alignment,
                    species=species,
                    context=context,
                    **arguments,
                )
                (record,) = Worker(options.out / "results", strict=True, reporter=screen).work(runs)
                if record.finished:
                    folds.append(read_predictions(options.out / "results" / record.folder))
            if not folds:
                continue
            together = pooled(folds)
            outside = np.array([exon[name] != largest for name in together.ids])
            if not lines:
                knows = np.where(outside, 0.75, 0.25)
                by_name = Predictions(
                    together.ids, together.labels, np.stack([1 - knows, knows], 1), together.classes, together.blocks
                )
                lines.append(row(f"outside exon {largest} or not", "", by_name, outside))
            lines.append(row(label, context, together, outside))
            write(table, lines, largest)
    print(table.read_text())


def write(path: Path, lines: list[list[str]], largest: str) -> None:
    """Write the table so far, as markdown."""
    header = ["model", "context (nt)", "AUROC", "AUPRC", f"AUROC outside exon {largest}", "log-loss"]
    path.write_text("".join(f"| {' | '.join(cells)} |\n" for cells in [header, ["---"] * len(header), *lines]))


if __name__ == "__main__":
    main()
