"""Variant tasks: what becomes of each row of a file, how parts are held out, and the real sets."""

from __future__ import annotations

import gzip
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import BadData, DataMissing, UserError
from harness.files.alignments import build_store
from harness.task import Reference, Splits
from harness.tasks._variant_splits import BLOCK, block
from harness.tasks.variants import from_variants, tasks

CHROMOSOMES = [str(number) for number in range(1, 8)]
LENGTH = 4 * BLOCK
HEADER = "chrom\tpos\tref\talt\tlabel\n"


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def contigs() -> dict[str, str]:
    rng = np.random.default_rng(0)
    return {name: "".join(rng.choice(list("ACGT"), LENGTH)) for name in CHROMOSOMES}


@pytest.fixture
def genome(contigs, tmp_path) -> Path:
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">chr{name}\n{letters}\n" for name, letters in contigs.items()))
    return path


def rows(contigs: dict[str, str], positions: range = range(20, LENGTH - 20, 97)) -> list[tuple[str, int, str, str, int]]:
    """Variants (1-based) with alternating labels."""
    return [
        (name, position, letters[position - 1], "CGTA"["ACGT".index(letters[position - 1])], (number + int(name)) % 2)
        for name, letters in contigs.items()
        for number, position in enumerate(positions)
    ]


def tsv(path: Path, lines: list) -> Path:
    path.write_text(HEADER + "".join("\t".join(map(str, line)) + "\n" for line in lines))
    return path


def parts(splits: Splits):
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


def everything(splits: Splits):
    return [example for part in parts(splits).values() for example in part]


# --- windows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [1, 2, 7, 128])
def test_two_windows_around_the_variant(context, contigs, genome, tmp_path):
    task = from_variants(tsv(tmp_path / "v.tsv", rows(contigs))).bind(Reference(genome, context=context))
    assert task.label == ("v.tsv" if context == 128 else f"v.tsv@{context}")
    assert (task.family, task.classes, task.main_metric) == ("variants", ("benign", "pathogenic"), "auroc")
    splits = task.load("chromosome")
    examples = everything(splits)
    assert {example.id: example.label for example in examples} == {
        f"{name}:{position}:{ref}:{alt}": label for name, position, ref, alt, label in rows(contigs)
    }
    for example in examples[::50]:
        name, position, ref, alt = example.id.split(":")
        reference, alternate = example.windows
        assert len(reference) == len(alternate) == context
        start = int(position) - 1 - context // 2
        assert reference.locus == alternate.locus
        assert reference.locus is not None
        assert (reference.locus.chromosome, reference.locus.start) == (name, start)
        padded = "N" * 200 + contigs[name] + "N" * 200
        assert reference.sequence == padded[200 + start : 200 + start + context]
        assert reference.sequence[context // 2] == ref
        assert alternate.sequence[context // 2] == alt
        assert [a == b for a, b in zip(reference.sequence, alternate.sequence, strict=True)].count(False) == 1
        assert reference.alignment is None
    off = splits.changes.get("outside_genome", 0)
    assert off == sum(example.windows[0].sequence.count("N") for example in examples)
    assert (off > 0) == (context == 128)


def test_the_alternate_changes_row_0_only(contigs, genome, tmp_path):
    rng = np.random.default_rng(1)
    fastas = []
    for name, letters in contigs.items():
        other = "".join(rng.choice(list("ACGT-"), LENGTH))
        fastas.append(tmp_path / f"{name}.fa")
        fastas[-1].write_text(f">me chr{name}:0-{LENGTH}\n{letters}\n>you\n{other}\n>gone\n{'-' * LENGTH}\n")
    store = build_store(fastas, tmp_path / "store")
    own = from_variants(tsv(tmp_path / "v.tsv", rows(contigs)))
    splits = own.bind(Reference(genome, store, context=64)).load("chromosome")
    for example in everything(splits)[::40]:
        reference, alternate = example.windows
        assert reference.alignment is not None
        assert alternate.alignment is not None
        assert reference.alignment.shape == (3, 64)
        different = np.argwhere(reference.alignment != alternate.alignment)
        assert different.tolist() == [[0, 32]]
    assert [len(part) for part in parts(splits).values()] == [
        len(part) for part in parts(own.bind(Reference(genome)).load("chromosome")).values()
    ]
    alone = own.bind(Reference(alignment=store, context=64)).load("chromosome")  # the target row stands in for the genome
    assert [e.windows[1].sequence for e in everything(alone)] == [e.windows[1].sequence for e in everything(splits)]
    pair = own.bind(Reference(genome, store, "you", context=64)).load("chromosome")
    assert pair.train[0].windows[0].alignment is not None
    assert len(pair.train[0].windows[0].alignment) == 2
    assert len(set(map(str, (splits.files, alone.files, pair.files)))) == 3
    again = pickle.loads(pickle.dumps(splits))
    assert (again.test[3].windows[1].alignment == splits.test[3].windows[1].alignment).all()
    assert splits.test[-1].id == splits.test[len(splits.test) - 1].id
    assert [example.id for example in splits.test[2:5]] == [splits.test[index].id for index in (2, 3, 4)]
    with pytest.raises(IndexError):
        splits.test[len(splits.test)]


def test_windows_of_one_letter_need_no_genome(contigs, genome, tmp_path):
    own = from_variants(tsv(tmp_path / "v.tsv", rows(contigs)))
    alone = own.bind(Reference(context=1)).load("chromosome")
    checked = own.bind(Reference(genome, context=1)).load("chromosome")
    for one, other in zip(everything(alone), everything(checked), strict=True):
        assert one.id == other.id
        assert [(w.sequence, w.locus) for w in one.windows] == [(w.sequence, w.locus) for w in other.windows]
    assert "windows of 1 nt, variants' own reference alleles" in alone.files


# --- what a file may hold -----------------------------------------------------------------------------------------------


def test_what_is_dropped_is_counted(contigs, genome, tmp_path):
    good = rows(contigs)
    name, position, ref, alt, label = good[0]
    extra = [
        good[1],  # a duplicate
        (*good[2][:4], 1 - good[2][4]),  # of the other label
        (name, position, ref, f"{alt},N", label),
        (name, position, ref, ref + alt, label),  # an insertion, which is kept
        (name, position, ref * 2, alt, label),  # a deletion of letters that the genome does not have
        (name, position, ref, "<DEL>", label),
        ("1", 1500, next(iter(set("ACGT") - {contigs["1"][1499]})), contigs["1"][1499], 1),
        ("GL000192.1", 3, "A", "C", 1),
    ]
    task = from_variants(tsv(tmp_path / "v.tsv", [*good, *extra])).bind(Reference(genome))
    splits = task.load("chromosome")
    assert len(everything(splits)) == len(good)  # with the insertion
    changes = dict(splits.changes)
    assert changes.pop("outside_genome") > 0
    assert changes == {
        "duplicates": 1, "conflicting": 2, "multi_allelic": 1, "not_snv": 1, "reference_mismatch": 2, "off_genome": 1, "indels": 1
    }  # fmt: skip


def same(path: Path, lines: list, genome: Path) -> None:
    splits = from_variants(path).bind(Reference(genome)).load("chromosome")
    assert sorted((e.id, e.label) for e in everything(splits)) == sorted((f"{c}:{p}:{r}:{a}", y) for c, p, r, a, y in lines)


def test_tables_and_vcf_files_give_the_same(contigs, genome, tmp_path):
    lines = rows(contigs, range(100, LENGTH, 201))
    header = "ID,CHROM,POS,REF,ALT,Label\n"
    text = header + "".join(f'"a,b",chr{c},{p}.0,{r.lower()},{a},{bool(y)}\n' for c, p, r, a, y in lines)
    (tmp_path / "v.csv.gz").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode()))
    same(tmp_path / "v.csv.gz", lines, genome)
    word = {0: "Likely_benign", 1: "Pathogenic/Likely_pathogenic|risk_factor"}
    text = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    text += "".join(f"chr{c}\t{p}\trs1\t{r}\t{a}\t.\t.\tAF=0.1;CLNSIG={word[y]};X\n" for c, p, r, a, y in lines)
    (tmp_path / "v.vcf").write_text(text + "1\t7\trs2\tA\tC\t.\t.\tCLNSIG=Uncertain_significance\n")
    same(tmp_path / "v.vcf", lines, genome)
    assert from_variants(tmp_path / "v.vcf").bind(Reference(genome)).load("chromosome").changes["unlabelled"] == 1
    text = "".join(f"{c}\t{p}\t{('Common', 'Pathogenic')[y]}_{p}\t{r}\t{a}\n" for c, p, r, a, y in lines)
    (tmp_path / "bare.vcf.gz").write_bytes(gzip.compress(text.encode()))
    same(tmp_path / "bare.vcf.gz", lines, genome)


def test_parquet(contigs, genome, tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra `variants`")
    import pandas as pd

    lines = rows(contigs, range(100, LENGTH, 201))
    table = pd.DataFrame(lines, columns=["chrom", "pos", "ref", "alt", "label"]).astype({"label": bool})
    table.to_parquet(tmp_path / "v.parquet")
    same(tmp_path / "v.parquet", lines, genome)
    (tmp_path / "v.parquet").write_bytes((tmp_path / "v.parquet").read_bytes()[:-50])
    with pytest.raises(BadData, match=r"v\.parquet: not a readable parquet file"):
        from_variants(tmp_path / "v.parquet")


def test_parquet_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a parquet file needs the package pyarrow: pip install 'gfm-harness\[variants\]'"):
        from_variants(tmp_path / "v.parquet")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.vcf", "1\t5\t.\tA\n", r"v\.vcf, line 1: .* is no VCF record: CHROM POS ID REF ALT …, separated by tabs"),
        ("v.vcf", "#c\n1 5 . A C\n", r"v\.vcf, line 2: '1 5 \. A C' is no VCF record"),
        ("v.vcf", "1\tfive\tCommon_1\tA\tC\n", r"v\.vcf, line 1: '1' 'five' 'A' 'C' is no variant"),
        ("v.vcf", "1\t0\tCommon_1\tA\tC\n", r"v\.vcf, line 1: '1' '0' 'A' 'C' is no variant"),
        ("v.vcf", "1\t5\tCommon_1\tA\tC\n1\t6\tVUS_2\tA\tC\n", r"the variants that could be used are benign only; both"),
        ("v.vcf", "1\t5\tCommon_1\tA\tC\n1\t6\trs\tA\tC\n", r"v\.vcf: 1 of 2 IDs begin with a class, the others do not"),
        ("v.vcf", "##fileformat\n", r"the variants that could be used are nothing only"),
        ("v.tsv", HEADER + "1\t5\tA\tC\t2\n", r"v\.tsv, line 2: label '2'; expected 0 or 1"),
        ("v.tsv", HEADER + "\n1\t5\tA\n", r"v\.tsv, line 3: 3 fields, fewer than the header names"),
        ("v.tsv", "chrom\tpos\tref\talt\n", r"v\.tsv: no column named label or .*; found chrom, pos, ref, alt"),
        ("v.xls", "", r"v\.xls: expected a VCF, CSV, TSV or parquet file with chrom, pos \(1-based\), ref, alt, label"),
        ("v.csv", "", r"v\.csv: the file is empty"),
    ],
)
def test_files_that_make_no_task(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadData, match=message):
        from_variants(tmp_path / name)


def test_files_that_are_not_here(tmp_path):
    for name in ("no.vcf", "no.tsv"):
        with pytest.raises(BadData, match=rf"{name}: no such file; expected a VCF"):
            from_variants(tmp_path / name)


# --- wrong reference data -----------------------------------------------------------------------------------------------


def test_another_assembly_is_refused(contigs, genome, tmp_path):
    shifted = {name: letters[1:] for name, letters in contigs.items()}
    path = tsv(tmp_path / "v.tsv", rows(shifted))
    with pytest.raises(
        BadData, match=r"v\.tsv, genome genome\.fa: \d+ of 294 variants \(7\d\.\d%\) have another reference allele there"
    ):
        from_variants(path).bind(Reference(genome)).load("chromosome")
    lines = [*rows(contigs), *[("1", LENGTH + number, "A", "C", 1) for number in range(1, 9)]]
    with pytest.raises(BadData, match=r"8 of 302 variants \(2\.6%\) lie where it has no letter: is it only a part\?"):
        from_variants(tsv(path, lines)).bind(Reference(genome)).load("chromosome")
    lines = [*rows(contigs), *[("9", number, "A", "C", 1) for number in range(1, 9)]]
    with pytest.raises(
        BadData, match=r"8 of 302 variants are on chromosomes that .*genome\.fa lacks, such as '9' \(it holds 1, 2"
    ):
        from_variants(tsv(path, lines)).bind(Reference(genome)).load("chromosome")


def test_an_alignment_whose_target_is_another_row(contigs, genome, tmp_path):
    fastas = []
    for name, letters in contigs.items():
        fastas.append(tmp_path / f"{name}.fa")
        fastas[-1].write_text(f">you chr{name}:0-{LENGTH}\n{letters[::-1]}\n>me\n{letters}\n")
    store = build_store(fastas, tmp_path / "store")
    task = from_variants(tsv(tmp_path / "v.tsv", rows(contigs)))
    with pytest.raises(BadData, match=r"store: row 0 \(you\) differs from the genome genome\.fa at 7\d\.\d% of the positions"):
        task.bind(Reference(genome, store)).load("chromosome")
    part = build_store(fastas[0], tmp_path / "part")
    with pytest.raises(BadData, match=r"part: no chromosome '2'; it holds 1"):
        task.bind(Reference(genome, part)).load("chromosome")


def test_references_that_are_refused(contigs, tmp_path):
    task = from_variants(tsv(tmp_path / "v.tsv", rows(contigs)))
    for bind in (task.bind, tasks()[0].bind):
        with pytest.raises(UserError, match="context 0: a window has at least 1 nucleotide"):
            bind(Reference(context=0))
    with pytest.raises(UserError, match=r"v\.tsv: no genome; give one with --genome, or `harness data get hg38`"):
        task.load("chromosome")


# --- splits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["chromosome", "position"])
def test_no_group_is_cut(rule, contigs, genome, tmp_path):
    task = from_variants(tsv(tmp_path / "v.tsv", rows(contigs, range(20, LENGTH - 20, 13)))).bind(Reference(genome))
    assert task.split_rules[:2] == ("chromosome", "position")
    splits = pickle.loads(pickle.dumps(task)).load(rule)
    groups = {}
    for name, part in parts(splits).items():
        assert {example.label for example in part} == {0, 1}
        groups[name] = {block(example.id) if rule == "position" else example.id.split(":")[0] for example in part}
        share = len(part) / len(everything(splits))
        assert share == pytest.approx(0.6 if name == "train" else 0.2, abs=0.15)
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["validation"]
    assert not groups["validation"] & groups["test"]
    wide = task.bind(Reference(genome, context=512)).load(rule)  # one split for every context
    assert [example.id for example in wide.test] == [example.id for example in splits.test]


def test_five_folds_test_each_variant_once(contigs, genome, tmp_path):
    task = from_variants(tsv(tmp_path / "v.tsv", rows(contigs, range(20, LENGTH - 20, 13)))).bind(Reference(genome))
    folds = [task.load(rule) for rule in task.split_rules if rule.startswith("position")]
    tested = [example.id for fold in folds for example in fold.test]
    assert len(folds) == 5
    assert sorted(tested) == sorted(example.id for example in everything(folds[0]))
    for fold in folds:
        held_out, trained = ({block(example.id) for example in part} for part in (fold.test, fold.train))
        assert not held_out & trained
        assert {fold.block(example.id) for example in fold.test} == held_out  # what intervals resample
    by_chromosome = task.load("chromosome")
    assert len({by_chromosome.block(example.id) for example in by_chromosome.test}) < len(by_chromosome.test)


def test_splits_that_cannot_be(contigs, genome, tmp_path):
    few = {name: contigs[name] for name in CHROMOSOMES[:3]}
    task = from_variants(tsv(tmp_path / "v.tsv", rows(few)))
    assert task.split_rules == ("position", "position-2", "position-3", "position-4", "position-5")
    one_block = tsv(tmp_path / "w.tsv", rows({"1": contigs["1"]}, range(100, 900, 7)))
    with pytest.raises(BadData, match=r"w\.tsv: 57 benign and 58 pathogenic variants on 1 blocks of 1,024 positions; each needs"):
        from_variants(one_block).bind(Reference(genome)).load("position")
    apart = [(*line[:4], int(line[0] == "1")) for line in rows(contigs)]
    with pytest.raises(
        BadData, match=r"u\.tsv: split 'chromosome' leaves .* with benign variants only \(chromosomes .*--split position"
    ):
        from_variants(tsv(tmp_path / "u.tsv", apart)).bind(Reference(genome)).load("chromosome")


# --- the real ones ------------------------------------------------------------------------------------------------------


def test_brca1(shared):
    folder = shared / "data/variants"
    task = from_variants(folder / "clinvar_brca1_missense.hg38.tsv")
    reference = Reference(
        folder / "hg38_chr17_42424999_43600000.fa.gz", folder / "brca1_locus_msa.hg38_chr17_43044294_43125483.fasta.gz"
    )
    splits = task.bind(reference).load("position")
    assert splits.changes == {"columns_without_species": 25_108}  # no reference allele differs, nothing is dropped
    assert Counter(example.label for example in everything(splits)) == {0: 406, 1: 232}
    assert {example.windows[0].alignment.shape for example in splits.test} == {(73, 128)}
    for part in parts(splits).values():
        assert {example.label for example in part} == {0, 1}
    bare = task.bind(replace(reference, alignment=None, context=512)).load("position")
    assert [example.id for example in bare.test] == [example.id for example in splits.test]
    assert bare.train[0].windows[0].alignment is None


def test_files_as_published(shared):
    folder = shared / "data/variants"
    assert from_variants(folder / "clinvar_vs_common_missense.hg38.vcf").summary.startswith("2,000 single-nucleotide variants")
    task = from_variants(folder / "clinvar_with_published_scores.csv.gz")
    assert task.summary.startswith("999 single-nucleotide variants")
    part = from_variants(folder / "clinvar_vs_common_missense.hg38.vcf").bind(
        Reference(folder / "hg38_chr17_42424999_43600000.fa.gz")
    )
    with pytest.raises(BadData, match=r"1,869 of 2,000 variants are on chromosomes that .* lacks, such as '1' \(it holds 17\)"):
        part.load("chromosome")


# --- the public sets ----------------------------------------------------------------------------------------------------


def test_clinvar_and_omim(contigs, genome, tmp_path, monkeypatch):
    clinvar, omim = tasks()
    assert (clinvar.name, omim.name) == ("clinvar", "omim")
    for task in (clinvar, omim):
        assert task.split_rules[:2] == ("chromosome", "position")
        assert [source.path for source in task.sources] == [f"variants/{task.name}.parquet", "genomes/hg38.2bit"]
        assert task.sample is not None
        assert task.sample.summary.startswith("SIMULATED, not real variants")
        with pytest.raises(DataMissing, match=rf"{task.name}: .*{task.name}\.parquet is missing; `harness data get {task.name}`"):
            task.load("chromosome")
    bound = clinvar.bind(Reference(genome))
    assert [source.path for source in bound.sources] == ["variants/clinvar.parquet"]
    assert bound.sample is None  # whoever brings a genome does not mean the sample
    longer = clinvar.bind(Reference(context=512))
    assert (longer.label, longer.sample.label) == ("clinvar[common]@512", "clinvar@512 (sample)")
    # As if downloaded; read as a table, so that this needs no pyarrow.
    monkeypatch.setattr("harness.files.table.is_parquet", lambda path: False)
    home = tmp_path / "data" / "variants"
    home.mkdir(parents=True)
    tsv(home / "clinvar.parquet", rows(contigs))
    splits = bound.load("chromosome")
    assert len(everything(splits)) == len(rows(contigs))
    assert next(iter(splits.files)) == "clinvar.parquet"
    assert all(len(digest) == 64 for digest in splits.files.values())


def test_listing_stays_light():
    code = (
        "import sys; import harness.tasks.variants as v; v.tasks();"
        "print(*sorted({'numpy', 'pandas', 'sklearn', 'Bio', 'torch', 'pyfaidx', 'zarr', 'urllib.request'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout.split() == []
