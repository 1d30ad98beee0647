"""VCFs with a model's probabilities: every record stays, and what has no score says why."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT
from made_trained import Made, gc, seeds

from harness.errors import BadData, UserError
from harness.files.alignments import build_store
from harness.inference import answers, variants
from harness.inference.annotate import annotate
from harness.inference.answers import PART
from harness.inference.inputs import VARIANTS, open_input
from harness.inference.predict import predict, reference_of
from harness.registry import variant_pairs
from harness.task import Reference
from harness.tasks._variant_alleles import Variant
from harness.tasks._variant_windows import cut_windows

LETTERS = "".join(np.random.default_rng(5).choice(list("ACGT"), 400))
CONTEXT = 20
HEADER = '##fileformat=VCFv4.2\n##INFO=<ID=AF,Number=A,Type=Float,Description="x">\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO'


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(f">chr1\n{LETTERS}\n>chr2\n{LETTERS[::-1]}\n")
    return path


def other(letter: str) -> str:
    return "CGTA"["ACGT".index(letter)]


def at(position: int, size: int = 1) -> str:
    return LETTERS[position - 1 : position - 1 + size]


def windows(position: int, reference: str, alternate: str) -> tuple[str, str]:
    """The pair by its definition: CONTEXT letters, the change at CONTEXT // 2, the alternate filled or cut at its right end."""
    start = position - 1 - CONTEXT // 2
    text = LETTERS[start : start + CONTEXT + len(reference)]
    changed = text[: CONTEXT // 2] + alternate + text[CONTEXT // 2 + len(reference) :]
    return text[:CONTEXT], changed[:CONTEXT]


def records() -> list[tuple[list[str], list[str | float]]]:
    """Fields of records, and for each alternate allele the probability (the alternate window's share of G and C) or a reason."""

    def line(position, reference, alternates, info=".", chromosome="chr1", name="."):
        return [chromosome, str(position), name, reference, alternates, ".", "PASS", info, "GT", "0/1"]

    def score(*variant):
        return gc(windows(*variant)[1])

    snv, second = other(at(50)), other(other(at(50)))
    # Where the alleles share no letters at their other ends, so that what is put in and out stands right behind the first.
    cut = next(position for position in range(60, 80) if at(position) != at(position + 2))
    put = next(position for position in range(80, 100) if at(position) != "A")
    return [
        (line(50, at(50), snv, "AF=0.1;DB"), [score(50, at(50), snv)]),
        (line(50, at(50), f"{snv},{second}", chromosome="1", name="rs7"), [score(50, at(50), snv), score(50, at(50), second)]),
        (line(cut, at(cut, 3), at(cut)), [score(cut + 1, at(cut + 1, 2), "")]),
        (line(put, at(put), f"{at(put)}GATTACA,<DEL>,*"), [score(put + 1, "", "GATTACA"), "symbolic_allele", "symbolic_allele"]),
        (line(80, other(at(80)), at(80)), ["reference_mismatch"]),
        (line(90, at(90), "."), ["no_alternate_allele"]),
        (line(90, at(90), at(90).lower()), ["alleles_are_the_same"]),
        (line(90, "N", "A"), ["letters_besides_acgt"]),
        (line(100, at(100, 30), at(100)), ["too_long_for_context"]),
        (line(5000, "A", "C"), ["off_genome"]),
        (line(50, "A", "C", chromosome="chrUn"), ["off_genome"]),
        (line(0, "A", "C"), ["off_genome"]),
        (line(0, "N", "<INS>"), ["symbolic_allele"]),
        (
            line(120, at(120, 2), other(at(120)) + other(at(121)), "END=1"),
            [score(120, at(120, 2), other(at(120)) + other(at(121)))],
        ),
    ]


@pytest.fixture
def vcf(tmp_path):
    path = tmp_path / "in.vcf"
    path.write_text("\n".join([HEADER + "\tFORMAT\ts1", *("\t".join(fields) for fields, _ in records())]) + "\n")
    return path


def opened(path, genome):
    return open_input([path], reference=Reference(genome, context=CONTEXT))


def info(fields: list[str]) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in fields[7].split(";"))


def test_every_record_stays_and_has_a_score_or_a_reason(tmp_path, vcf, genome):
    done = annotate(seeds(Made(windows_per_example=2)), opened(vcf, genome), tmp_path / "out.vcf")
    lines = (tmp_path / "out.vcf").read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert header[:2] == HEADER.splitlines()[:2]
    assert header[2].startswith(
        '##INFO=<ID=HARNESS_P,Number=A,Type=Float,Description="Probability of the class bound by cnn, trained on QKI, seed 0",'
    )
    assert header[3].startswith("##INFO=<ID=HARNESS_SKIPPED,Number=A,Type=String,")
    assert header[4] == HEADER.splitlines()[2] + "\tFORMAT\ts1"
    found = [line.split("\t") for line in lines[len(header) :]]
    assert len(found) == len(records()) == done.records
    for fields, (given, expected) in zip(found, records(), strict=True):
        assert fields[:7] + fields[8:] == given[:7] + given[8:]
        told = info(fields)
        own = {name: told.pop(name).split(",") for name in ("HARNESS_P", "HARNESS_SKIPPED") if name in told}
        assert told == ({} if given[7] == "." else info(given))
        for number, value in enumerate(expected):
            if isinstance(value, str):
                assert own["HARNESS_SKIPPED"][number] == value
                assert own.get("HARNESS_P", ["."] * len(expected))[number] == "."
            else:
                assert float(own["HARNESS_P"][number]) == pytest.approx(value, abs=1e-6)
                assert own.get("HARNESS_SKIPPED", ["."] * len(expected))[number] == "."
    assert done.scored == 6
    assert done.skipped == {
        "symbolic_allele": 3,
        "reference_mismatch": 1,
        "no_alternate_allele": 1,
        "alleles_are_the_same": 1,
        "letters_besides_acgt": 1,
        "too_long_for_context": 1,
        "off_genome": 3,
    }
    assert "kept without a score: 1 reference mismatch" in done.notes
    assert any(note.startswith("WARNING: the genome has other letters") for note in done.notes)


def test_several_seeds_have_a_spread_and_an_annotated_file_is_annotated_anew(tmp_path, vcf, genome):
    two = seeds(Made(windows_per_example=2), Made(windows_per_example=2, seed=5))
    annotate(two, opened(vcf, genome), tmp_path / "two.vcf")
    first = next(line.split("\t") for line in (tmp_path / "two.vcf").read_text().splitlines() if not line.startswith("#"))
    low = records()[0][1][0]
    expected = [low, low + (1 - low) / 2]
    assert float(info(first)["HARNESS_P"]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert float(info(first)["HARNESS_SD"]) == pytest.approx(np.std(expected, ddof=1), abs=1e-6)
    annotate(seeds(Made(windows_per_example=2)), opened(tmp_path / "two.vcf", genome), tmp_path / "again.vcf")
    annotate(seeds(Made(windows_per_example=2)), opened(vcf, genome), tmp_path / "one.vcf")
    assert (tmp_path / "again.vcf").read_bytes() == (tmp_path / "one.vcf").read_bytes()


def test_gzip_in_and_bgzip_out(tmp_path, vcf, genome):
    packed = tmp_path / "in.vcf.gz"
    packed.write_bytes(gzip.compress(vcf.read_bytes().replace(b"\n", b"\r\n")))
    annotate(seeds(Made(windows_per_example=2)), opened(packed, genome), tmp_path / "out.vcf.gz")
    annotate(seeds(Made(windows_per_example=2)), opened(vcf, genome), tmp_path / "out.vcf")
    made = (tmp_path / "out.vcf.gz").read_bytes()
    assert gzip.decompress(made) == (tmp_path / "out.vcf").read_bytes()
    assert made[12:14] == b"BC"  # the extra field of bgzip, which tabix needs


def test_a_stopped_annotation_goes_on_and_ends_with_the_same_bytes(tmp_path, vcf, genome, monkeypatch):
    monkeypatch.setattr(answers, "CHUNK", 2)
    monkeypatch.setattr(variants, "TOGETHER", 3)
    annotate(seeds(Made(windows_per_example=2)), opened(vcf, genome), tmp_path / "whole.vcf")
    with pytest.raises(KeyboardInterrupt):
        annotate(seeds(Made(windows_per_example=2, stop_after=2)), opened(vcf, genome), tmp_path / "x.vcf")
    assert (tmp_path / f"x.vcf{PART}").exists()
    again = Made(windows_per_example=2)
    annotate(seeds(again), opened(vcf, genome), tmp_path / "x.vcf")
    assert sum(again.asked) == 2
    assert (tmp_path / "x.vcf").read_bytes() == (tmp_path / "whole.vcf").read_bytes()


def test_variants_as_a_table(tmp_path, vcf, genome):
    path = tmp_path / "v.csv"
    snv = other(at(50))
    path.write_text(f"chrom,pos,ref,alt,label\n1,50,{at(50)},{snv},bound\nchr1,60,{other(at(60))},{at(60)},unbound\n")
    for source, count in ((path, 1), (vcf, 6)):
        found = opened(source, genome)
        assert found.kind == VARIANTS
        outcome = predict(seeds(Made(windows_per_example=2)), found, tmp_path / "out.csv", force=True)
        with (tmp_path / "out.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == outcome.entries == count
        assert rows[0]["id"] == f"1:50:{at(50)}:{snv}"
        assert float(rows[0]["probability_bound"]) == gc(windows(50, at(50), snv)[1])
        assert found.changes["reference_mismatch"] == 1
    assert outcome.scored == 0


def test_what_cannot_be_annotated_is_refused(tmp_path, vcf, genome):
    made = Made(windows_per_example=2)
    with pytest.raises(UserError, match="variants, but cnn was trained on windows"):
        annotate(seeds(), opened(vcf, genome), tmp_path / "out.vcf")
    table = tmp_path / "v.csv"
    table.write_text("chrom,pos,ref,alt\n1,50,A,C\n")
    with pytest.raises(UserError, match="only a VCF is annotated"):
        annotate(seeds(made), opened(table, genome), tmp_path / "out.vcf")
    bad = tmp_path / "bad.vcf"
    bad.write_text(HEADER + "\nchr1\tfifty\t.\tA\tC\t.\t.\t.\n")
    with pytest.raises(BadData, match=r"bad\.vcf, line 4: .* is no VCF record"):
        annotate(seeds(made), opened(bad, genome), tmp_path / "out.vcf")
    bad.write_text(HEADER + "\n")
    with pytest.raises(BadData, match=r"bad\.vcf: no variants; expected a VCF"):
        annotate(seeds(made), opened(bad, genome), tmp_path / "out.vcf")
    bad.write_text(f"{HEADER}\nchr1\t50\t.\t{other(at(50))}\t{at(50)}\t.\t.\t.\n")
    with pytest.raises(BadData, match=r"none of the variants \(1 reference mismatch\); is the genome of another assembly\?"):
        annotate(seeds(made), opened(bad, genome), tmp_path / "out.vcf")
    with pytest.raises(UserError, match="no genome; give one with --genome"):
        open_input([vcf], reference=Reference(context=CONTEXT))
    with pytest.raises(UserError, match=r"was trained on 2 species of an alignment, and 0 are given; see --msa"):
        annotate(seeds(Made(windows_per_example=2, species=("a", "b"))), opened(vcf, genome), tmp_path / "out.vcf")
    assert made.asked == []
    assert not list(tmp_path.glob("out.vcf*"))


def test_the_runs_own_genome_and_context_are_the_default(tmp_path):
    own = {"genome": str(tmp_path / "own.fa"), "alignment": None, "species": "", "context": 64, "source": ""}
    made = seeds(Made(windows_per_example=2, reference=own, lengths=(64, 64)))
    assert reference_of(made) == Reference(tmp_path / "own.fa", context=64)
    assert reference_of(made, tmp_path / "other.fa") == Reference(tmp_path / "other.fa", context=64)


@pytest.mark.parametrize("aligned", [False, True])
def test_windows_are_those_that_training_cuts(tmp_path, genome, aligned):
    alignment = None
    if aligned:
        fastas = []
        for name, letters in (("1", LETTERS), ("2", LETTERS[::-1])):
            rows = [letters, letters.translate(str.maketrans("A", "-")), letters.translate(str.maketrans("C", "T"))]
            fastas.append(tmp_path / f"{name}.fa")
            fastas[-1].write_text(
                "".join(f">{who}\n{row}\n" for who, row in zip((f"human chr{name}:0-400", "mouse", "rat"), rows, strict=True))
            )
        alignment = build_store(fastas, tmp_path / "store")
    reference, changes = Reference(genome, alignment, context=CONTEXT), Counter()
    alleles = [("1", position, at(position), other(at(position))) for position in range(5, 390, 7)]
    alleles += [("1", position, at(position, 3), at(position)) for position in range(30, 300, 11)]
    alleles += [("1", position, at(position), at(position) + "GATC") for position in range(31, 300, 13)]
    made = variant_pairs(genome, reference).made(alleles)
    _, cut, _, _ = cut_windows(genome, [Variant(*allele, 0) for allele in alleles], reference, changes)
    assert len(made) == len(cut)
    for mine, example in zip(made, cut, strict=True):
        assert mine.id == example.id
        for one, two in zip(mine.windows, example.windows, strict=True):
            assert (one.sequence, one.locus) == (two.sequence, two.locus)
            assert (one.alignment is not None) == aligned
            assert one.alignment is None or (one.alignment == two.alignment).all()


@pytest.mark.parametrize(("ask", "ending"), [(annotate, "vcf"), (predict, "csv")])
def test_a_model_is_told_which_letters_a_longer_variant_changes(tmp_path, vcf, genome, ask, ending):
    told = []

    def answer(example):
        told.append(example.changed)
        return 0.5

    ask(seeds(Made(windows_per_example=2, answer=answer)), opened(vcf, genome), tmp_path / f"out.{ending}")
    first = CONTEXT // 2
    assert told == [None, None, None, (first, first + 2), (first, first + 7), (first, first + 2)]


# --- the command ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a genome, a fine-tuned run of cnn and a zero-shot run of an untrained model."""
    folder = tmp_path_factory.mktemp("variants")
    rng = np.random.default_rng(2)
    contigs = {str(number): "".join(rng.choice(list("ACGT"), 3000)) for number in range(1, 8)}
    (folder / "genome.fa").write_text("".join(f">chr{name}\n{letters}\n" for name, letters in contigs.items()))
    with (folder / "train.tsv").open("w") as file:
        print("chrom\tpos\tref\talt\tlabel", file=file)
        for name, letters in contigs.items():
            for number, position in enumerate(range(40, 2900, 140)):
                print(name, position, letters[position - 1], other(letters[position - 1]), number % 2, sep="\t", file=file)
    with (folder / "new.vcf").open("w") as file:
        print(HEADER, file=file)
        for position in (100, 200, 300):
            letter = contigs["1"][position - 1]
            print("chr1", position, ".", letter, other(letter), ".", ".", ".", sep="\t", file=file)
        print("chr1", 400, ".", contigs["1"][399], "<DUP>", ".", ".", ".", sep="\t", file=file)
    common = ["--task", "variants:train.tsv", "--genome", "genome.fa", "--context", "32", "--quiet", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    for words in (["--model", "cnn", "--epochs", "1"], ["--model", "dnabert1", "--init", "random:tiny", "--tune", "zero"]):
        command = [sys.executable, "-m", "harness", "run", *words, *common]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


def annotated(harness, trained, tmp_path, model: str) -> list[dict[str, str]]:
    run = next((trained / "results").glob(f"*/{model}/seed0-*"))
    done = harness("predict", str(run), str(trained / "new.vcf"), "--out", "out.vcf")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out.vcf: 4 records, 3 alternate alleles with a score\n"
    assert "kept without a score: 1 symbolic allele" in done.stderr
    lines = (tmp_path / "out.vcf").read_text().splitlines()
    return [info(line.split("\t")) for line in lines if not line.startswith("#")]


def test_a_fine_tuned_run_annotates_with_its_own_genome(harness, tmp_path, trained):
    found = annotated(harness, trained, tmp_path, "cnn")
    assert all(0 < float(one["HARNESS_P"]) < 1 for one in found[:3])
    assert found[3] == {"HARNESS_SKIPPED": "symbolic_allele"}


def test_a_zero_shot_run_gives_the_ratio_of_likelihoods(harness, tmp_path, trained):
    found = annotated(harness, trained, tmp_path, "dnabert1")
    for one in found[:3]:
        assert float(one["HARNESS_P"]) == pytest.approx(1 / (1 + np.exp(float(one["HARNESS_LLR"]))), abs=1e-5)
    assert len({one["HARNESS_LLR"] for one in found[:3]}) == 3
