"""Labels, chromosomes and alleles of variant files: one grammar a file; what is odd is counted, what contradicts refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import BadData, UserError
from harness.task import Reference
from harness.tasks._variant_files import Variant, read
from harness.tasks._variant_splits import block, near_others
from harness.tasks.variants import from_variants

CASES = Path(__file__).parents[2] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the handed cases (../shared/cases) are not here")
COUNT = 40
VARIANTS = [(f"{i % 6 + 1}", 1000 + 37 * i, "ACGT"[i % 4], "CGTA"[i % 4]) for i in range(COUNT)]
HEADER = "##fileformat=VCFv4.1\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
DECLARED = (
    '##INFO=<ID=CLNSIG,Number=.,Type=String,Description="Variant Clinical Significance, 0 - Uncertain significance, '
    '1 - not provided, 2 - Benign, 3 - Likely benign, 4 - Likely pathogenic, 5 - Pathogenic">\n'
)


def vcf(path: Path, info: Callable[[int], str], ids: Callable[[int], str] = lambda i: ".", header: str = HEADER) -> Path:
    path.write_text(
        header + "".join(f"{c}\t{p}\t{ids(i)}\t{r}\t{a}\t.\t.\t{info(i)}\n" for i, (c, p, r, a) in enumerate(VARIANTS))
    )
    return path


def tsv(path: Path, label: Callable[[int], object], field: str = "label", variants: list = VARIANTS, **columns) -> Path:
    lines = ["\t".join(["chrom", "pos", "ref", "alt", field, *columns])]
    lines += ["\t".join(map(str, [*v, label(i), *(c(i) for c in columns.values())])) for i, v in enumerate(variants)]
    path.write_text("\n".join(lines) + "\n")
    return path


def found(path: Path) -> tuple[list[int], dict[str, int], str]:
    """Labels of the variants that are read, what was counted, and what was said."""
    changes: Counter[str] = Counter()
    notes: list[str] = []
    labels = [variant.label for variant in read(path, changes, notes)]
    return labels, +changes, " | ".join(notes)


# --- labels -------------------------------------------------------------------------------------------------------------


def test_codes_that_the_header_declares(tmp_path: Path) -> None:
    path = vcf(tmp_path / "v.vcf", lambda i: f"RS=1;CLNSIG={i % 6}", header=DECLARED + HEADER)
    labels, changes, said = found(path)
    expected = [int(i % 6 > 3) for i in range(COUNT) if i % 6 > 1]
    assert labels == expected
    assert changes == {"unlabelled": COUNT - len(expected)}
    assert said == "labels: ClinVar's codes (2 and 3 benign, 4 and 5 pathogenic) in CLNSIG"


def test_codes_that_can_be_nothing_else(tmp_path: Path) -> None:
    assert found(vcf(tmp_path / "v.vcf", lambda i: f"CLNSIG={(2, 5)[i % 2]}"))[0] == [i % 2 for i in range(COUNT)]
    assert found(tsv(tmp_path / "v.tsv", lambda i: (3, 4)[i % 2], "ClnSig"))[0] == [i % 2 for i in range(COUNT)]


def test_lists_of_codes_must_agree(tmp_path: Path) -> None:
    codes = ("2|3", "5|5|255", "2|5", "5|0", "1,4", "255")
    labels, changes, _ = found(vcf(tmp_path / "v.vcf", lambda i: f"CLNSIG={codes[i % 6]}", header=DECLARED + HEADER))
    assert Counter(labels) == {0: 7, 1: 7 + 6}
    assert changes == {"unlabelled": 20}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: vcf(p / "v.vcf", lambda i: f"CLNSIG={i % 6}"),
            r"v\.vcf, line 5: label '2'; .*codes are read where the VCF header",
        ),
        (lambda p: vcf(p / "v.vcf", lambda i: f"CLNSIG={(2, 'Pathogenic')[i % 2]}"), "line 3: label '2'"),
        (lambda p: vcf(p / "v.vcf", lambda i: f"LABEL={i % 3}"), "line 5: label '2'"),
        (
            lambda p: vcf(p / "v.vcf", lambda i: f"LABEL={(0, 'Pathogenic')[i % 2]}"),
            "line 4: label 'pathogenic', but '0' elsewhere",
        ),
        (lambda p: tsv(p / "v.tsv", lambda i: i % 6, "clnsig"), "line 4: label '2'; .*codes are read where"),
        (lambda p: tsv(p / "v.tsv", lambda i: i % 3), "line 4: label '2'; expected 0 or 1"),
        (lambda p: tsv(p / "v.tsv", lambda i: (-1, 1)[i % 2]), "line 2: label '-1'"),
        (lambda p: tsv(p / "v.tsv", lambda i: (0, 1, 0.3)[i % 3]), r"line 4: label '0\.3'"),
        (lambda p: tsv(p / "v.tsv", lambda i: "9" * 5000 if i == 3 else i % 2), "line 5: label '9{40}'"),
        (lambda p: tsv(p / "v.tsv", lambda i: ("x", "y", "benign", "x")[i % 4]), "line 2: label 'x', and most are unknown"),
        (
            lambda p: vcf(p / "v.vcf", lambda i: ".", lambda i: f"Benign_{i}" if i % 2 else "rs1"),
            "20 of 40 IDs begin with a class",
        ),
    ],
)
def test_grammars_that_are_mixed_or_unknown_are_refused(make: Callable, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message) as caught:
        from_variants(make(tmp_path))
    assert str(caught.value).isprintable()


def test_declared_codes_are_never_labels(tmp_path: Path) -> None:
    path = vcf(tmp_path / "v.vcf", lambda i: f"CLNSIG={i % 2}", header=DECLARED + HEADER)
    with pytest.raises(BadData, match=r"could be used are nothing only.*\(labels: ClinVar's codes"):
        from_variants(path)


def test_words_of_ids_are_labels_only_where_all_have_one(tmp_path: Path) -> None:
    labels, _, said = found(vcf(tmp_path / "v.vcf", lambda i: ".", lambda i: ("Likely_benign_7", "Pathogenic_8")[i % 2]))
    assert labels == [i % 2 for i in range(COUNT)]
    assert said == "labels: words in ID"
    ids: Callable[[int], str] = lambda i: f"{VARIANTS[i][0]}_{VARIANTS[i][1]}_A_C"  # noqa: E731  # 1_1000_A_C: no label 1
    assert found(vcf(tmp_path / "v.vcf", lambda i: ".", ids))[:2] == ([], {"unlabelled": COUNT})
    against = vcf(
        tmp_path / "v.vcf", lambda i: f"CLNSIG={('Benign', 'Pathogenic')[i % 2]}", lambda i: ("Pathogenic_1", "Benign_1")[i % 2]
    )
    assert found(against)[0] == [i % 2 for i in range(COUNT)]


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("Pathogenic|risk_factor", 1),
        ("Pathogenic,_low_penetrance", 1),
        ("Pathogenic/Likely_pathogenic", 1),
        ("Likely benign", 0),
        ("LIKELY-BENIGN", 0),
        ("Benign,Pathogenic", None),
        ("Benign|Uncertain_significance", None),
        ("Uncertain significance", None),
        ("VUS", None),
        ("Conflicting_interpretations_of_pathogenicity", None),
        ("no idea", None),
        ("NA", None),
        ("", None),
    ],
)
def test_one_odd_label_is_counted(word: str, label: int | None, tmp_path: Path) -> None:
    labels, changes, _ = found(tsv(tmp_path / "v.tsv", lambda i: word if i == 7 else ("benign", "pathogenic")[i % 2], "clnsig"))
    assert len(labels) == COUNT - (label is None)
    assert changes == ({"unlabelled": 1} if label is None else {})
    if label is not None:
        assert labels[7] == label


# --- alleles, positions, columns ------------------------------------------------------------------------------------------


def test_variants_without_an_allele_are_counted(tmp_path: Path) -> None:
    extra = [
        ("1", 5, "-", "C"),
        ("1", 6, "C", "-"),
        ("1", 6, "C", "."),
        ("1", 6, "C", "*"),
        ("1", 6, "C", "<DEL>"),
        ("1", -1, "na", "na"),
    ]
    labels, changes, _ = found(tsv(tmp_path / "v.tsv", lambda i: i % 2, variants=VARIANTS + extra))
    assert len(labels) == COUNT
    assert changes == {"not_snv": 6}


@pytest.mark.parametrize(
    "odd",
    [("1", 5, "AC", ""), ("1", 5, "", "C"), ("1", "9" * 5000, "A", "C"), ("1", 10**12, "A", "C"), ("1", -5, "A", "C"), ("\x1b[2J", 7, "A", "C"), ("", 7, "A", "C")],
)  # fmt: skip
def test_lines_that_are_no_variant_are_refused(odd: tuple, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"v\.tsv, line 42: .* is no variant; expected") as caught:
        from_variants(tsv(tmp_path / "v.tsv", lambda i: i % 2, variants=[*VARIANTS, odd]))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_long_fields_are_read(tmp_path: Path) -> None:
    assert len(found(vcf(tmp_path / "v.vcf", lambda i: f"X={'9' * 130_000};LABEL={i % 2}"))[0]) == COUNT


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("label", "POS"):
        path = tsv(tmp_path / "v.tsv", lambda i: i % 2)
        path.write_text(
            path.read_text().replace("\n", f"\t{name}\n", 1).replace("\t0\n", "\t0\t1\n").replace("\t1\n", "\t1\t1\n")
        )
        with pytest.raises(BadData, match=f"2 columns are named '{name.lower()}'"):
            from_variants(path)


def test_what_a_table_says_besides(tmp_path: Path) -> None:
    path = tsv(tmp_path / "v.tsv", lambda i: i % 2, split=lambda i: ("train", "test")[i % 2], strand=lambda i: "+")
    assert "columns not used: strand" in found(path)[2]
    assert "column 'split' says 20 train, 20 test; this split is not used" in found(path)[2]
    path = tsv(tmp_path / "v.tsv", lambda i: i % 2, Assembly=lambda i: f"GRCh{37 + i % 2}")
    with pytest.raises(BadData, match="variants of GRCh37 and GRCh38; keep those of one assembly, or give its genome"):
        from_variants(path).bind(Reference(context=1)).load("position")


# --- names of chromosomes -------------------------------------------------------------------------------------------------


def test_two_names_of_a_chromosome_are_said_or_refused(tmp_path: Path) -> None:
    other = [("chr" + c, p + 5, r, a) for c, p, r, a in VARIANTS]
    labels, _, said = found(tsv(tmp_path / "v.tsv", lambda i: i % 2, variants=VARIANTS + other))
    assert len(labels) == 2 * COUNT
    assert "chromosomes with two names, each read as one: 1 and chr1; 2 and chr2" in said
    other = [("chr" + c, p, "ACGT"[("ACGT".index(r) + 2) % 4], a) for c, p, r, a in VARIANTS]
    with pytest.raises(
        BadData, match="line 42: the reference allele is G at chr1:1000, and A at 1:1000; variants of two assemblies"
    ):
        from_variants(tsv(tmp_path / "v.tsv", lambda i: i % 2, variants=VARIANTS + other))
    for names in (("chrM", "MT"), ("M", "chrMT")):
        both = [(names[0], 5, "A", "C"), (names[1], 6, "A", "C")]
        with pytest.raises(BadData, match="in one file: these differ in hg19"):
            from_variants(tsv(tmp_path / "v.tsv", lambda i: i % 2, variants=VARIANTS + both))


def test_names_with_colons() -> None:
    assert block("HLA-A*01:01:01:01:1030:A:C") == "HLA-A*01:01:01:01:1"


def test_test_windows_at_the_borders_of_blocks() -> None:
    import numpy as np

    variants = [Variant(c, p, "A", "C", 0) for c, p in (("1", 100), ("1", 163), ("1", 164), ("2", 100), ("1", 500))]
    split = (np.array([0]), np.array([4]), np.array([1, 2, 3]))
    assert near_others(variants, split, 64) == 1
    assert near_others(variants, split, 65) == 2
    assert near_others(variants, split, 1) == 0


def test_a_task_of_variants_can_be_named(tmp_path: Path) -> None:
    path = tsv(tmp_path / "v.tsv", lambda i: i % 2)
    task = from_variants(path, "mine")
    assert (task.name, task.label) == ("mine", "mine")
    with pytest.raises(UserError, match="name 'clinvar': a task or family of the project has it"):
        from_variants(path, "clinvar")


# --- the handed cases -----------------------------------------------------------------------------------------------------


@needs_cases
def test_handed_cases_of_variants() -> None:
    labels, changes, _ = found(CASES / "C01_vcf_numeric_clnsig" / "clinvar_2016.vcf")
    assert (Counter(labels), changes) == ({0: 120, 1: 120}, {"unlabelled": 120})
    assert "this split is not used" in found(CASES / "C12_split_column" / "split_col.tsv")[2]
    folder = CASES / "C34_variant_tables"
    for name, changed in (("vus.tsv", "unlabelled"), ("dash_indel.tsv", "not_snv")):
        labels, changes, _ = found(folder / name)
        assert (len(labels), changes) == (240, {changed: 1})
    for name in ("likely_space.tsv", "variant_summary.txt", "dbnsfp.tsv", "comment_header.tsv"):
        assert found(folder / name)[:2] == ([i % 2 for i in range(240)], {}), name
