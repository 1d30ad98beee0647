"""Binding sites of eight RNA-binding proteins: is a 101-nt window bound by the protein in vivo (ENCODE eCLIP)?

Each task is three public CSV files (``sequence,label``; half of the windows are bound) at a pinned commit. Until they are
downloaded, a simulated sample of the same shape is used in their place, and shown as ``QKI (sample)``.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

from harness.data import Example
from harness.files import readers, sources
from harness.task import Source, Splits, Task, task_label

from . import _simulate
from ._simulate import Motif
from ._splits import check_rule, stratified

FAMILY = "rbp"
CLASSES = ("unbound", "bound")
SPLIT_RULES = ("thesis", "published")
FILES = ("train", "dev", "test")
URL = "https://raw.githubusercontent.com/maxlwnii/tapt/9030fac23f1d7b5a524753fda6a3e1e96b11be1d/DNABERT2/data"
CITATION = "Van Nostrand et al. 2020, A large-scale binding and functional map of human RNA-binding proteins, Nature 583:711"

# Protein: cell line, sha256 of train.csv, dev.csv and test.csv.
SETS = {
    "GTF2F1": (
        "K562",
        "9264c4978f3ba639c2cb6e6eb1805bc6f0f58d0eb87218af083a929b0a29874c",
        "2139b8718640aad4f5449c43c219472215d251f4276e4dd11ed3f1850f513ce2",
        "a7c3c5da85ea4fb65345a884b557df675597a3499d7df42c111bcc21a281e235",
    ),
    "HNRNPL": (
        "K562",
        "fd34447159f52a140f8ac5c6501df47a6cbb435ac09cd9b3f5c3cf495c749dc5",
        "4e8ef3937943195f9e4b0657c708d3fd95a3ce755ab6d7f6c3433c90b4991d17",
        "760c4d014d9152af93e9102502dbaa513dff9ef4cd513dc140b2135fcad73424",
    ),
    "HNRNPM": (
        "HepG2",
        "0b6f541cb8f4a7b60961aced0a76bcef9db9fbb4f8f8e842ad91b7c179bfd7cc",
        "1841003fb614181c5524f0c2d67f5cacbd009e974efd10c858c9073e93be7a5d",
        "c01fa0fed7a523547168f49d8385ce05ddcefb4107eafe3f9b4c8117d592922c",
    ),
    "PTBP1": (
        "HepG2",
        "13419cf148b2b78b8186113773e54410b7959b333d726d2bf6840d5909db4b03",
        "16e46cc8acd2c657f30c6a3f90d014fe9800ce1c006d53e564543c74702af29f",
        "7a52c2004a56b416a7c815ffd5d664f7d89fcd0defb571e3c0b7ce335dd9bae1",
    ),
    "ILF3": (
        "HepG2",
        "943d4c7411c1834346041f77eeeb96fcedadec32565df479f622dd453fceb127",
        "2170b65d58a765206e9b002ab6388aed5c164674e930ee6f008849905059026c",
        "d5fe82cbf4dcd2c4389dcb31b34b3a68036d29e3da469fae231b4717f91a4bfe",
    ),
    "MATR3": (
        "K562",
        "2c7aeaaa0d0eddcb6faca9846a0eabba27ef5776427fffd21730f24f11a4d78c",
        "b7808464376dbdefb01bfad5a5cd4e16e213d3938600ab29420311cf3f56310f",
        "378a7b770f05b9f6244a6ab6348a102a258c823159ddec30fe64b4f1e0cb4779",
    ),
    "KHSRP": (
        "K562",
        "6f90234a4b6bc72f31ffcee30c98b6b282804164ec46470a0999df3f3c83c758",
        "d97b045ecdcb977f8dc7789dd15ccdbab064d95e149acf4b5bafd5ba5670f867",
        "269f7d31bcacffe12a740b72116365485f8e5929f4e6631afb9edd8e42d40b10",
    ),
    "QKI": (
        "K562",
        "adb3a16b86da2780d6c13f9c73c5cb9f9dff55e4051658c48a77b052af66e405",
        "23d7807852e836efc810b10da8b1479295caa5ae5f9125927a62fa563775b154",
        "1521f46074cef8e2d3cec5347459b0c9aa7c5d7e6bba63f9efd8da1b9ed554cf",
    ),
}

# Shares of windows with 0, 1, 2 and 3 copies. With these and the fidelities below, the best possible accuracy is near 0.96.
COPIES = (0.02, 0.28, 0.4, 0.3)
STAND_IN = "no sequence motif of this protein is established: an arbitrary one stands in"
MOTIFS = {
    "GTF2F1": Motif("CGGCAGUGCU", "GCGACGUCGU", 0.77, COPIES, STAND_IN, seed=1),
    "HNRNPL": Motif("ACACACACAC", "AACCCAAACC", 0.80, COPIES, "CA repeats: Hui et al. 2005, EMBO J 24:1988", seed=2),
    "HNRNPM": Motif("GUGGUGGUGU", "GGUGUUGGGU", 0.84, COPIES, "GU-rich sites: Huelga et al. 2012, Cell Rep 1:167", seed=3),
    "PTBP1": Motif("UCUUCUCUCU", "CUUCCUUUCU", 0.84, COPIES, "UCUU and CUCUCU: Oberstrass et al. 2005, Science 309:2054", seed=4),
    "ILF3": Motif("GACGAGACCU", "GCAGAAGCCU", 0.80, COPIES, STAND_IN + " (it binds double-stranded RNA)", seed=5),
    "MATR3": Motif("AUCUUNNAUCUU", "UUACUNNUCUAU", 0.83, COPIES, "AUCUU, here twice: Ray et al. 2013, Nature 499:172", seed=6),
    "KHSRP": Motif("UUAUUUAUUUAU", "UUUUAAUUUAUU", 0.86, COPIES, "AU-rich elements: Gherzi et al. 2004, Mol Cell 14:571", seed=7),
    "QKI": Motif("ACUAAYNNUAAY", "UAAUYNNCAAAY", 0.85, COPIES, "ACUAAY and UAAY: Galarneau & Richard 2005, NSMB 12:691", seed=8),
}


def tasks() -> tuple[Task, ...]:
    """The eight proteins, in the order of the published tables."""
    return tuple(_task(protein) for protein in SETS)


def _task(protein: str) -> Task:
    cell_line = SETS[protein][0]
    return Task(
        name=protein,
        family=FAMILY,
        summary=f"windows of 101 nt at eCLIP sites of {protein} in {cell_line} cells, against unbound windows",
        classes=CLASSES,
        load=partial(_load, protein),
        split_rules=SPLIT_RULES,
        sources=_sources(protein),
        sample=_sample(protein),
        assembly="hg38",
        citation=CITATION,
        inputs=partial(_inputs, protein),
    )


def _sample(protein: str) -> Task:
    motif = MOTIFS[protein]
    return Task(
        name=protein,
        family=FAMILY,
        summary=f"SIMULATED, not real sites of {protein}: {motif.consensus} planted in bound, {motif.decoy} in unbound windows "
        f"({motif.source})",
        classes=CLASSES,
        load=partial(_simulate.load, task_label(protein, None, True), motif),
        split_rules=(_simulate.RULE,),
        simulated=True,
        licence="Apache-2.0 (drawn by this project)",
        inputs=tuple,
    )


def _sources(protein: str) -> tuple[Source, ...]:
    cell_line, *hashes = SETS[protein]
    folder = f"{protein}_{cell_line}_IDR"
    return tuple(
        Source(f"{URL}/{path}", sha256, f"{FAMILY}/{path}")
        for path, sha256 in zip([f"{folder}/{file}.csv" for file in FILES], hashes, strict=True)
    )


def _inputs(protein: str) -> list[Path]:
    return [sources.locate(source) for source in _sources(protein)]


def _load(protein: str, rule: str) -> Splits:
    """The examples under a split rule.

    ``published`` takes the three files as they are. ``thesis`` merges them, bound windows first, and splits them by
    :func:`stratified`.
    """
    check_rule(rule, SPLIT_RULES)
    changes: Counter[str] = Counter()
    parts = []
    for path in sources.intact(_sources(protein), protein):
        records = readers.read(path, changes)
        parts.append([Example(f"{path.stem}:{record.id}", (record.window,), int(str(record.label))) for record in records])
    if rule == "thesis":
        merged = sorted((example for part in parts for example in part), key=lambda example: -example.label)  # stable
        parts = [[merged[position] for position in part] for part in stratified([example.label for example in merged])]
    train, validation, test = parts
    names = {source.path: source.sha256 for source in _sources(protein)}
    return Splits(train, validation, test, files=names, changes=changes)
