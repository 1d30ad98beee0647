"""Facts about the eight GenomicBenchmarks tasks: their files at the pinned commit, classes, genomes and held-out chromosomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

COMMIT = "605d8539830e16c85abe7826990958303ffc5e1c"
URL = f"https://raw.githubusercontent.com/ML-Bioinfo-CEITEC/genomic_benchmarks/{COMMIT}/datasets"
HUB = "katarinagresova/Genomic_Benchmarks_{task}"
PARTS = ("train", "test")


class File(NamedTuple):
    """An interval file; ``rows`` are without the header, ``size`` is in bytes."""

    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Facts:
    """What is known about one task.

    ``classes`` is ordered: the second of two is the positive one. ``genome`` names the one that windows are cut from, among
    the references of :mod:`harness.files.sources`, ``others`` those of classes with another origin. ``held_out`` are the
    validation and the test chromosomes of the split by chromosome. ``hub`` are the classes in the order of the hub's labels
    0, 1, …, checked against intervals and letters if ``hub_checked``, else assumed to be alphabetical. ``leak`` is a sentence
    about the published split, empty where little of the test part overlaps train.
    """

    summary: str
    classes: tuple[str, ...]
    hub: tuple[str, ...]
    hub_checked: bool = False
    genome: str = "hg38"
    others: Mapping[str, str] = field(default_factory=dict)
    held_out: tuple[tuple[str, ...], tuple[str, ...]] = (("chr6", "chr14"), ("chr1",))
    leak: str = ""


PAIR = ("negative", "positive")
# Chromosome 1 for test, 6 and 14 for validation: 6 to 10 % of every class in each of the human tasks. Chromosome 8, which many
# papers hold out, has 10 of the 16,474 negatives of human_nontata_promoters.
SETS = {
    "dummy_mouse_enhancers_ensembl": Facts(
        "mouse enhancers of Ensembl, of 331 to 4,776 nt, against random windows of the same lengths",
        PAIR,
        hub=PAIR,
        genome="mm10",
        held_out=(("chr6", "chr14"), ("chr4", "chr8")),
    ),
    "demo_coding_vs_intergenomic_seqs": Facts(
        "200 nt of a protein-coding transcript (spliced) or from between genes",
        ("intergenomic_seqs", "coding_seqs"),
        hub=("coding_seqs", "intergenomic_seqs"),
        others={"coding_seqs": "cdna97"},
    ),
    "demo_human_or_worm": Facts(
        "200 nt of the human or of the C. elegans genome",
        ("human", "worm"),
        hub=("human", "worm"),
        others={"worm": "ce11"},
        held_out=(("chr6", "chr11", "chr14", "ce11.chrI"), ("chr1", "chr8", "ce11.chrIII")),
        leak="7.5 % of the published test windows overlap train (14.5 % of the worm's)",
    ),
    "human_enhancers_cohn": Facts("human enhancers of 500 nt (Cohn et al. 2018) against other windows", PAIR, hub=PAIR),
    "human_enhancers_ensembl": Facts(
        "human enhancers of Ensembl (FANTOM5), of 2 to 573 nt, against random windows of the same lengths",
        PAIR,
        hub=PAIR,
        leak="38.5 % of the published test windows overlap train (75.7 % of the positives; 11,694 are the same intervals): "
        "judge models by --split locus",
    ),
    "human_ensembl_regulatory": Facts(
        "enhancer, open chromatin or promoter in Ensembl's regulatory build, 71 to 802 nt",
        ("enhancer", "ocr", "promoter"),
        hub=("promoter", "enhancer", "ocr"),
        hub_checked=True,
        leak="the class ocr is the positive class of human_ocr_ensembl, row by row: the two tasks are no independent evidence",
    ),
    "human_nontata_promoters": Facts(
        "human promoters without TATA box, 251 nt, against stretches of genes after the first exon",
        PAIR,
        hub=PAIR,
        hub_checked=True,
        leak="49.2 % of the published test windows overlap train (99.6 % of the negatives): judge models by --split locus",
    ),
    "human_ocr_ensembl": Facts(
        "open chromatin in Ensembl's regulatory build, 71 to 593 nt, against random windows of the same lengths",
        PAIR,
        hub=PAIR,
        hub_checked=True,
        leak="the positives are the class ocr of human_ensembl_regulatory, row by row: the two tasks are no independent evidence",
    ),
}

# Task, class: rows, bytes and sha256 of train/<class>.csv.gz, then of test/<class>.csv.gz.
FILES: dict[str, dict[str, tuple[File, File]]] = {
    "dummy_mouse_enhancers_ensembl": {
        "negative": (
            File(484, 6_072, "e37f47dff8e70e98a16c607ee4428e5b2314970fc8c3f94563865e3349cf7e50"),
            File(121, 1_545, "dd1a9f785a8ee28b574c4323a0ff4b22ce4b51497e62d8b6efa933884aaa3f67"),
        ),
        "positive": (
            File(484, 6_069, "f8fc8d280584eba5e942d775f33a5ef5818200415469fa9487d3a2552894caf0"),
            File(121, 1_539, "8e994651cb1d212ea098b1990e0d131b2648588ad5b9c3d79aab820dba311394"),
        ),
    },
    "demo_coding_vs_intergenomic_seqs": {
        "coding_seqs": (
            File(37_500, 395_239, "ad92694e4e4fedb8d7c65f40acc09846c813ab888306708716904768138199b5"),
            File(12_500, 132_438, "a691325db74c7a60667ec554180a4a0abae6698163590b3738076157ec8795e6"),
        ),
        "intergenomic_seqs": (
            File(37_500, 467_863, "5fab0e675ed84de90891e76c7dbb62c0d5818dae6102dfed5f702d5727b1c70f"),
            File(12_500, 156_409, "d6c8adff76b78650c28272789539878a7b449fd810244e0e356095f5efe146f2"),
        ),
    },
    "demo_human_or_worm": {
        "human": (
            File(37_500, 474_678, "22f68cbbdff80656bd40a07efed301a8a916ef10d071279c6723454eede3b5d4"),
            File(12_500, 158_897, "212ae29139f907d0e4a09eec70f68baf60247cd4cea70a169a9071c310b9b440"),
        ),
        "worm": (
            File(37_500, 435_691, "0a96e43816ca0c4c79d261655c482904f79a0221d1ee3ea5eb7074b40ccff1c0"),
            File(12_500, 145_931, "d84e82e217db4cf5928e956e22497358b344d1a6e44a937113b6ec48990bf06b"),
        ),
    },
    "human_enhancers_cohn": {
        "negative": (
            File(10_422, 129_465, "3c0bebb5754b4789c77a9f6c7acccdc9a0e69d5a7bcc5a8f45f7c848fa9dcfba"),
            File(3_474, 43_346, "f42d72a8453f1fedd155d6c3a62acf245b54da930c9e15a504527f295d3831d1"),
        ),
        "positive": (
            File(10_421, 129_806, "c878a094f035eeea2d0a353c0e6fd21fe9791f1d61f52f9d45d051c5017e1b64"),
            File(3_474, 43_379, "4ac66408838e3a049dcb3a5c2e78160237af6d03f46eacc2082a85693ca254c8"),
        ),
    },
    "human_enhancers_ensembl": {
        "negative": (
            File(61_936, 733_910, "5f941efbebaf8fb655b61b39692340a579c562bcdcc6146d6e476cb98a1c3546"),
            File(15_485, 183_724, "aa64649b6e9c758896d0a3c51ea4e1908fad978e26092032633abb88d11012cd"),
        ),
        "positive": (
            File(61_936, 728_327, "849037a959214342195d4e6f7f9540ea15d7131a367bfe177a4f4217c0d35d58"),
            File(15_485, 182_227, "c642664f6e2b4874ae5ccb4c1cfb5ae79c53b09bbb3ab017f23063e780bc21f0"),
        ),
    },
    "human_ensembl_regulatory": {
        "enhancer": (
            File(85_512, 883_384, "c73d99042ad888721a222876b9d6ac1eb9ed31e4cadd60ecd770c69e065f247f"),
            File(21_378, 220_259, "9fda6ef997fe70a358a46c4ad0933d7539a9c96701731f1a8f99fe6d72c991e6"),
        ),
        "ocr": (
            File(69_902, 828_879, "4b920e2dc8abc50ecf2c7cb44f6addc3e4704943b8579adfab54c42d7af421ee"),
            File(17_476, 207_333, "8e2edd5e93048706e4b3c3abaec46c08dd2ca88d9214c70f27ae150cd6c8901a"),
        ),
        "promoter": (
            File(75_934, 731_926, "688c883b91c297314c8d14f316d50926a70ae04f7c0f7501cffbe2e8e4455f0e"),
            File(18_859, 181_579, "386e73cb4f02e9e77b1d28ae4a8a96f8277a08d6c4f990c0b0fb77e810530940"),
        ),
    },
    "human_nontata_promoters": {
        "negative": (
            File(12_355, 137_784, "44b93cc1eb1273645d4123078809d9012bed3933605f4da906723a971b5a730e"),
            File(4_119, 46_480, "3dd480a549f5e4b12770038e4ecc7f55cbec8101aa89b146fa9c4546ff7fad84"),
        ),
        "positive": (
            File(14_742, 188_240, "8d8824518233a49cd02d9854a28154078bc69f3509719855dd4127a9024a44c9"),
            File(4_915, 63_260, "062277be939aea6538fe5e8a84792916835707e303e833d5ac1e6263c7416894"),
        ),
    },
    "human_ocr_ensembl": {
        "negative": (
            File(69_902, 831_917, "fab89f7eb09e77c3914f686647c56b1da14afba9c9fb19bc974c3756dab31139"),
            File(17_476, 208_222, "496fbac5d9d20517ca77d693d196ce5cea26bf2c685f29bfc5dc53efe074636b"),
        ),
        "positive": (
            File(69_902, 828_884, "498b7b696b0782e493ce470399c79f8f90455823bcf10d86da433e9653e9cd98"),
            File(17_476, 207_338, "133a59bb3af0633fb79ba84cbd37bae2c2fac7ab0981c10e89cdf7c5cc1252db"),
        ),
    },
}
