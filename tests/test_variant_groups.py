"""What a file of variants says besides: the kind of negatives, consequences and genes, assemblies; and where each is shown."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_records import published, record

import harness
from harness.errors import BadData, UnknownName, UserError
from harness.evidence.comparison import wide
from harness.evidence.groups import MAX_SCORED, MIN_EXAMPLES, judged_groups
from harness.evidence.predictions import Predictions, read_predictions
from harness.evidence.records import read_all
from harness.evidence.tables import make_table
from harness.study.audit import open_tasks
from harness.study.plan import Run, plan
from harness.study.run import execute
from harness.task import Reference, task_label
from harness.tasks._variant_words import consequence, gene
from harness.tasks.variants import from_variants

pytestmark = pytest.mark.usefixtures("own_cache")

LENGTH = 3000
RNG = np.random.default_rng(5)
CONTIGS = {str(name): "".join(RNG.choice(list("ACGT"), LENGTH)) for name in range(1, 7)}
OTHER = {"A": "C", "C": "G", "G": "T", "T": "A"}
PLACES = [(name, position, CONTIGS[name][position - 1]) for name in CONTIGS for position in range(30, LENGTH - 30, 31)]
VARIANTS = [(name, position, letter, OTHER[letter]) for name, position, letter in PLACES]
WORDS = ("Benign", "Pathogenic")


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    path = tmp_path / "genome.fa"
    path.write_text("".join(f">chr{name}\n{letters}\n" for name, letters in CONTIGS.items()))
    return path


def table(path: Path, variants: list = VARIANTS, **columns: Callable[[int], object]) -> Path:
    lines = ["\t".join(["chrom", "pos", "ref", "alt", *columns])]
    lines += ["\t".join(map(str, [*one, *(of(number) for of in columns.values())])) for number, one in enumerate(variants)]
    path.write_text("\n".join(lines) + "\n")
    return path


def vcf(path: Path, info: Callable[[int], str], header: str = "") -> Path:
    lines = [f"{c}\t{p}\t.\t{r}\t{a}\t.\t.\t{info(number)}\n" for number, (c, p, r, a) in enumerate(VARIANTS)]
    path.write_text("##fileformat=VCFv4.2\n" + header + "".join(lines))
    return path


def word(number: int) -> str:
    return WORDS[number % 2]


# --- negatives ----------------------------------------------------------------------------------------------------------


def test_labels_show_the_choice_of_negatives():
    assert task_label("clinvar", 128, False, "common") == "clinvar[common]"
    assert task_label("clinvar", 512, False, "common") == "clinvar[common]@512"
    assert task_label("clinvar", 128, True) == "clinvar (sample)"


def test_records_that_do_not_say_their_negatives_have_a_column_of_their_own():
    older = record(task="clinvar", context=128)
    newer = replace(older, task=older.task | {"negatives": "common"}, run_id="seed0-0000000000")
    table = wide([older, newer], "accuracy", [published(task="clinvar[common]")])
    assert list(table.columns.values()) == ["clinvar", "clinvar[common]"]
    assert newer.folder.parts[0] != older.folder.parts[0]
    assert [column.task for row, column in table.cells if row.source] == ["clinvar[common]"]


@pytest.mark.parametrize(
    ("words", "negatives", "label"),
    [
        (("Benign", "Pathogenic"), "benign", "v.tsv[benign]"),
        (("Likely_benign", "Pathogenic/Likely_pathogenic"), "benign", "v.tsv[benign]"),
        (("Common", "Pathogenic"), "common", "v.tsv[common]"),
        (("0", "1"), "", "v.tsv"),
        (("False", "True"), "", "v.tsv"),
    ],
)
def test_labels_of_an_own_file_say_what_its_negatives_are(words, negatives, label, tmp_path):
    task = from_variants(table(tmp_path / "v.tsv", label=lambda number: words[number % 2]))
    assert (task.negatives, task.label) == (negatives, label)
    assert task.negatives_from == ((negatives,) if negatives else ())


def test_codes_say_benign(tmp_path):
    assert from_variants(vcf(tmp_path / "v.vcf", lambda number: f"CLNSIG={(2, 5)[number % 2]}")).label == "v.vcf[benign]"


def test_two_kinds_of_negatives_need_a_choice(genome, tmp_path):
    kinds = ("Benign", "Pathogenic", "Common", "Pathogenic", "Common", "Pathogenic")
    path = table(tmp_path / "v.tsv", label=lambda number: kinds[number % 6])
    task = from_variants(path)
    assert (task.label, task.negatives_from) == ("v.tsv", ("common", "benign", "own"))
    with pytest.raises(UserError, match=r"95 benign and 190 common, .*choose --option negatives=common\|benign\|own"):
        task.bind(Reference(genome)).load("chromosome")
    found = {}
    for choice in task.negatives_from:
        bound = task.bind(Reference(genome, negatives=choice))
        assert bound.label == f"v.tsv[{choice}]"
        splits = bound.load("chromosome")
        ids = {example.id: example.label for part in splits.parts.values() for example in part}
        found[choice] = (list(ids.values()).count(0), list(ids.values()).count(1), splits.changes.get("other_negatives", 0))
    assert found == {"common": (190, 285, 95), "benign": (95, 285, 190), "own": (285, 285, 0)}


def test_the_choice_goes_from_the_option_into_run_and_record(genome, tmp_path):
    kinds = ("Benign", "Pathogenic", "Common", "Pathogenic")
    path = table(tmp_path / "v.tsv", label=lambda number: kinds[number % 4])
    asked = {"task": f"variants:{path}", "genome": genome, "context": 32, "device": "cpu"}
    runs = [plan("gc", option={"negatives": choice}, **asked)[0] for choice in ("common", "benign")]
    assert [run.label for run in runs] == ["v.tsv[common]@32", "v.tsv[benign]@32"]
    assert runs[0].id != runs[1].id
    assert runs[0].options == {}
    for run in runs:
        again = Run.from_json(json.loads(json.dumps(run.to_json())))
        record = execute(again, tmp_path / "results")
        assert record.task_label == run.label
        assert record.folder.parts[0].startswith("v.tsv-" + record.task["negatives"])
    (item, _, splits), *_ = open_tasks(f"variants:{path}", genome=genome, context=32, negatives="common")
    assert (item.label, splits.changes["other_negatives"]) == ("v.tsv[common]@32", 143)
    assert harness.load_task(f"variants:{path}", negatives="own").label == "v.tsv[own]"
    labels = make_table(tmp_path / "results", metric="auroc").columns.values()
    assert sorted(labels) == ["v.tsv[benign]@32", "v.tsv[common]@32"]
    for task, choice in ((f"variants:{path}", "rare"), ("clinvar", "benign"), ("QKI", "common")):
        with pytest.raises(UserError):
            plan("gc", task, option={"negatives": choice})
    with pytest.raises(UserError, match="option negatives='benign': not a choice that clinvar gives; it has common"):
        plan("gc", "clinvar", option={"negatives": "benign"})


# --- consequences and genes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("missense_variant", "missense_variant"),
        (
            "SO:0001583|missense_variant|SO:0001619|non-coding_transcript_variant|SO:0001624|3_prime_UTR_variant",
            "missense_variant",
        ),
        ("SO:0001819|synonymous_variant,SO:0001583|missense_variant", "missense_variant"),
        ("intron_variant&splice_donor_variant", "splice_donor_variant"),
        ("SO:0001587|nonsense", "nonsense"),
        ("missense variant", "missense_variant"),
        ("odd", "odd"),
        (".", ""),
        ("", ""),
    ],
)
def test_the_most_severe_consequence(text, expected):
    assert consequence(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("BRCA1:672|NBR2:10230", "BRCA1"), ("BRCA1;NBR2", "BRCA1"), ("TP53", "TP53"), ("-", ""), ("", "")]
)
def test_the_first_gene(text, expected):
    assert gene(text) == expected


CSQ = '##INFO=<ID=CSQ,Number=.,Type=String,Description="Consequence annotations from Ensembl VEP. Format: Allele|SYMBOL|Consequence">\n'


@pytest.mark.parametrize(
    ("info", "header"),
    [
        ("MC=SO:0001583|missense_variant;GENEINFO=TP53:7157", ""),
        ("CSQ=G|WRAP53|upstream_gene_variant,G|TP53|missense_variant", CSQ),
        ("CSQ=G|upstream_gene_variant|MODIFIER|WRAP53,G|missense_variant|MODERATE|TP53", ""),
        ("ANN=G|missense_variant|MODERATE|TP53|ENSG1,G|upstream_gene_variant|MODIFIER|WRAP53|ENSG2", ""),
    ],
)
def test_what_a_vcf_says(info, header, genome, tmp_path):
    path = vcf(tmp_path / "v.vcf", lambda number: f"CLNSIG={word(number)};{info}", header)
    splits = from_variants(path).bind(Reference(genome, context=32)).load("chromosome")
    ids = {example.id for part in splits.parts.values() for example in part}
    assert splits.groups == {"consequence": dict.fromkeys(ids, "missense_variant"), "gene": dict.fromkeys(ids, "TP53")}


def test_a_file_that_says_nothing_has_no_groups(genome, tmp_path):
    path = table(tmp_path / "v.tsv", label=word, strand=lambda number: "+")
    splits = from_variants(path).bind(Reference(genome, context=32)).load("chromosome")
    assert splits.groups == {}
    path = table(tmp_path / "w.tsv", label=word, Consequence=lambda number: "missense_variant", GeneSymbol=lambda number: "-")
    splits = from_variants(path).bind(Reference(genome, context=32)).load("chromosome")
    assert list(splits.groups) == ["consequence"]
    assert not any("Consequence" in note for note in splits.notes)


def predictions(words: list[str], seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.arange(len(words)) % 2
    harmful = np.clip(labels * 0.3 + rng.random(len(words)) * 0.7, 0, 1)
    outputs = np.stack([1 - harmful, harmful], axis=1)
    ids = tuple(f"1:{number}:A:C" for number in range(len(words)))
    return Predictions(ids, labels, outputs, ("benign", "pathogenic"), groups={"gene": tuple(words)})


def test_small_groups_are_counted_and_not_scored():
    found = judged_groups(predictions(["big"] * 60 + ["small"] * (MIN_EXAMPLES - 1) + [""] * 30 + ["enough"] * MIN_EXAMPLES))
    assert list(found["gene"]) == ["big", "enough", "small"]
    assert [found["gene"][name]["examples"] for name in found["gene"]] == [60, MIN_EXAMPLES, MIN_EXAMPLES - 1]
    assert set(found["gene"]["small"]) == {"examples"}
    assert 0.5 < found["gene"]["big"]["metrics"]["auroc"] <= 1
    one_class = predictions(["a", "b"] * 40)  # a: benign only
    assert judged_groups(one_class)["gene"] == {"a": {"examples": 40}, "b": {"examples": 40}}
    many = judged_groups(predictions([f"gene{number}" for number in range(MAX_SCORED + 5) for _ in range(MIN_EXAMPLES)]))
    assert sum("metrics" in group for group in many["gene"].values()) == MAX_SCORED


def grouped_run(genome: Path, tmp_path: Path) -> Path:
    effects = ("missense_variant", "missense_variant", "synonymous_variant", "synonymous_variant", "stop_gained", "")
    path = table(
        tmp_path / "v.tsv", label=word, mc=lambda number: effects[number // 2 % 6], GeneSymbol=lambda number: f"G{number % 90}"
    )
    for run in plan(["gc", "kmer"], f"variants:{path}", genome=genome, context=32, device="cpu", name="mine"):
        execute(run, tmp_path / "results")
    return tmp_path / "results"


def test_records_predictions_and_tables_have_the_groups(genome, tmp_path, harness):
    results = grouped_run(genome, tmp_path)
    record = read_all(results)[0]
    found = read_predictions(results / record.folder)
    assert set(found.groups) == {"consequence", "gene"}
    assert set(found.groups["consequence"]) == {"missense_variant", "synonymous_variant", "stop_gained", ""}
    scored = {name: group for name, group in record.groups["consequence"].items() if "metrics" in group}
    assert {"missense_variant", "synonymous_variant"} <= set(scored)
    assert sum(group["examples"] for group in record.groups["consequence"].values()) < len(found.ids)
    assert record.groups == json.loads(json.dumps(judged_groups(found)))
    for name in ("consequence=missense", "consequence=missense_variant"):
        shown = make_table(results, metric="auroc", subset=name)
        means = shown.to_frame().set_index("model")["mean"]
        assert means["gc (floor)"] == pytest.approx(record.groups["consequence"]["missense_variant"]["metrics"]["auroc"])
        examples = record.groups["consequence"]["missense_variant"]["examples"]
        assert any(f"scored on {name} test examples alone: mine[benign]@32 {examples}" in note for note in shown.notes)
    done = harness(
        "table", "--results", str(results), "--subset", "consequence=synonymous", "--metric", "auroc", "--format", "csv"
    )
    assert {line["subset"] for line in csv.DictReader(done.stdout.splitlines())} == {"consequence=synonymous"}
    with pytest.raises(
        UnknownName, match=r"subset 'consequence=misense_variant': no record has that consequence; they have missense_"
    ):
        make_table(results, subset="consequence=misense_variant")
    with pytest.raises(UnknownName, match=r"subset 'x=y': choose one of all, novel, leaking, or consequence=…, or gene=…"):
        make_table(results, subset="x=y")
    small = make_table(results, metric="auroc", subset="gene=G1")
    assert "undefined: a group needs 20 examples, and 5 of each class, to be scored" in small.notes
    assert all(mark.startswith("undefined") for mark in small.to_frame().marks)


def test_verify_computes_the_groups_again(genome, tmp_path, harness):
    results = grouped_run(genome, tmp_path)
    assert harness("verify", str(results)).returncode == 0
    path = next(results.rglob("record.json"))
    content = json.loads(path.read_text())
    content["groups"]["consequence"]["missense_variant"]["metrics"]["auroc"] = 0.99
    path.write_text(json.dumps(content))
    done = harness("verify", str(results))
    assert done.returncode != 0
    assert "groups.consequence.missense_variant.metrics.auroc is stated as 0.99" in done.stdout + done.stderr


def test_the_screen_shows_scores_by_group(genome, tmp_path, harness):
    effects = ("missense_variant", "missense_variant", "synonymous_variant", "synonymous_variant")
    path = table(tmp_path / "v.tsv", label=word, mc=lambda number: effects[number // 2 % 4])
    done = harness(
        "run", "--model", "gc", "--task", f"variants:{path}", "--genome", str(genome), "--context", "32", "--device", "cpu"
    )
    lines = [line for line in done.stdout.splitlines() + done.stderr.splitlines() if "test variants of" in line]
    assert len(lines) == 2
    assert "auroc on the" in lines[0]


# --- assemblies ---------------------------------------------------------------------------------------------------------


def both_assemblies(tmp_path: Path, shift: int = 7) -> Path:
    """Every variant twice, as ClinVar's variant_summary.txt has it; in GRCh37 elsewhere."""
    header = "#AlleleID\tType\tClinicalSignificance\tGeneSymbol\tAssembly\tChromosome\tPositionVCF\tReferenceAlleleVCF\tAlternateAlleleVCF"
    lines = [header]
    for number, (name, position, letter, other) in enumerate(VARIANTS):
        fields = f"{number}\tsingle nucleotide variant\t{word(number)}\tG{number % 3}"
        lines.append(f"{fields}\tGRCh37\t{name}\t{position + shift}\t{letter}\t{other}")
        lines.append(f"{fields}\tGRCh38\t{name}\t{position}\t{letter}\t{other}")
    lines += [f"{n}\tDeletion\tBenign\tG0\tGRCh38\t1\t-1\tna\tna" for n in range(3)]
    lines += [f"{n}\tIndel\tUncertain significance\tG0\tGRCh38\t1\t77\tA\tAC" for n in range(2)]
    (tmp_path / "variant_summary.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "variant_summary.txt"


def test_the_genome_says_which_assembly_is_meant(genome, tmp_path):
    task = from_variants(both_assemblies(tmp_path))
    assert task.label == "variant_summary.txt[benign]"
    splits = task.bind(Reference(genome, context=32)).load("chromosome")
    ids = {example.id for part in splits.parts.values() for example in part}
    assert ids == {f"{name}:{position}:{letter}:{other}" for name, position, letter, other in VARIANTS}
    changes = {name: count for name, count in splits.changes.items() if name != "outside_genome"}
    assert changes == {"not_snv": 3, "unlabelled": 2, "other_assembly": len(VARIANTS)}
    assert set(splits.groups) == {"gene"}
    assert "variants of GRCh38, whose reference alleles the genome has" in splits.notes


def test_a_genome_that_says_nothing_of_the_assembly_is_refused(genome, tmp_path):
    task = from_variants(both_assemblies(tmp_path))
    with pytest.raises(
        BadData, match="variants of GRCh37 and GRCh38; keep those of one assembly, or give its genome with --genome"
    ):
        task.bind(Reference(context=1)).load("chromosome")
    (tmp_path / "other.fa").write_text("".join(f">{name}\n{letters[::-1]}\n" for name, letters in CONTIGS.items()))
    with pytest.raises(BadData, match=r"other\.fa does not say which, for it has \d+\.\d% of GRCh37's, \d+\.\d% of GRCh38's"):
        task.bind(Reference(tmp_path / "other.fa", context=32)).load("chromosome")
