"""GenomicBenchmarks tasks on made-up intervals and genomes: letters, labels, split rules, reference data, refusals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from made_genomic_benchmarks import genome, intervals, letters, tiles

from harness import registry
from harness.data import Example, reverse_complement
from harness.errors import BadData, ChecksumMismatch, DataMissing, UnknownName, UserError
from harness.files import sources
from harness.files.sources import locate
from harness.task import Reference, Splits, Task
from harness.tasks import _gb_intervals

NONTATA, WORM, CODING = "human_nontata_promoters", "demo_human_or_worm", "demo_coding_vs_intergenomic_seqs"
pytestmark = pytest.mark.usefixtures("own_cache")


def task(name: str, **reference) -> Task:
    bind = registry.tasks()[name].bind
    assert bind is not None
    return bind(Reference(**reference))


def everything(splits: Splits) -> dict[str, Example]:
    return {example.id: example for part in (splits.train, splits.validation, splits.test) for example in part}


def parts(splits: Splits) -> list[set[str]]:
    return [{example.id for example in part} for part in (splits.train, splits.validation, splits.test)]


@pytest.fixture(autouse=True)
def _tasks_made_anew():
    """The list of tasks is kept, with the checksums of the published files."""
    registry._task_makers.cache_clear()
    yield
    registry._task_makers.cache_clear()


@pytest.fixture
def nontata(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Three chromosomes; positives on the minus strand, negatives without a strand. Its genome."""
    chromosomes = {f"chr{name}": letters(3000, seed) for seed, name in enumerate(("1", "6", "9"))}
    negatives = tiles("chr1", 8, strand="") + tiles("chr6", 8, strand="") + tiles("chr9", 20, strand="")
    positives = [(name, start + 1500, end + 1500, "-") for name, start, end, _ in negatives]
    intervals(monkeypatch, NONTATA, negative=(negatives[:24], negatives[24:]), positive=(positives[:24], positives[24:]))
    genome("hg38", {name: text.lower() for name, text in chromosomes.items()})
    return chromosomes


# --- letters and labels -------------------------------------------------------------------------------------------------


def test_windows_are_the_stretches_of_the_genome(nontata):
    found = everything(task(NONTATA).load("published"))
    assert len(found) == 72
    first = found[f"{NONTATA}:train:negative:2"]
    assert (first.label, first.windows[0].sequence) == (0, nontata["chr1"][30:50])  # an empty strand is plus, letters upper case
    second = found[f"{NONTATA}:test:positive:1"]
    assert (second.label, second.windows[0].sequence) == (1, reverse_complement(nontata["chr9"][1740:1760]))
    assert {example.windows[0].locus.strand for example in found.values() if example.label == 0} == {"+"}


def test_every_form_of_a_genome_gives_the_same_question(nontata, tmp_path):
    other = tmp_path / "mine.fa"
    other.write_text("".join(f">{name.removeprefix('chr')}\n{text}\n" for name, text in nontata.items()))
    default, own = task(NONTATA).load("published"), task(NONTATA, genome=other).load("published")
    assert default.files == own.files
    assert set(default.files) == {source.path for source in task(NONTATA).sources} | {"windows cut from hg38"}
    changed = tmp_path / "changed.fa"
    changed.write_text(other.read_text().replace(nontata["chr9"][:20], "A" * 20, 1))
    assert task(NONTATA, genome=changed).load("published").files != own.files


@pytest.mark.parametrize("strand", ["+", "-"])
def test_pseudoautosomal_letters_of_y_are_n(monkeypatch, strand):
    rows = [("chrY", 9990, 10010, strand), ("chrY", 10_500, 10_520, strand), ("chrX", 10_500, 10_520, strand)]
    far = [("chrY", 2_781_470, 2_781_490, strand), *tiles("chrX", 12)]
    intervals(monkeypatch, NONTATA, negative=(tiles("chrX", 12, start=5000), rows), positive=(far, tiles("chrX", 3, start=8000)))
    y = letters(2_790_000, 1)
    genome("hg38", {"chrX": letters(12_000, 2), "chrY": y})
    splits = task(NONTATA).load("published")
    found = everything(splits)
    turned = reverse_complement if strand == "-" else str
    assert found[f"{NONTATA}:test:negative:1"].windows[0].sequence == turned(y[9990:10_000] + "N" * 10)
    assert found[f"{NONTATA}:test:negative:2"].windows[0].sequence == "N" * 20
    assert "N" not in found[f"{NONTATA}:test:negative:3"].windows[0].sequence
    assert found[f"{NONTATA}:train:positive:1"].windows[0].sequence == turned("N" * 9 + y[2_781_479:2_781_490])
    assert splits.changes["pseudoautosomal_to_n"] == 10 + 20 + 9
    assert splits.changes["without_letters"] == 1
    assert any("written as N" in note for note in splits.notes)
    assert any(
        note.startswith("windows with N: 13.33% of negative, 6.25% of positive; a model can tell") for note in splits.notes
    )


def test_a_worm_chromosome_is_no_human_one(monkeypatch):
    human = [*tiles("chrX", 20), ("chrMT", 5, 25, "-")]
    worm = [*tiles("X", 20), ("MtDNA", 5, 25, "+")]
    intervals(monkeypatch, WORM, human=(human, tiles("chrX", 5, start=1000)), worm=(worm, tiles("X", 5, start=1000)))
    people = {"chrX": letters(2000, 1), "chrM": letters(100, 2)}
    worms = {"chrX": letters(2000, 3), "chrM": letters(100, 4)}
    genome("hg38", people)
    genome("ce11", worms)
    splits = task(WORM).load("published")
    found = everything(splits)
    assert registry.tasks()[WORM].classes == ("human", "worm")
    assert found[f"{WORM}:train:human:21"].windows[0].sequence == reverse_complement(people["chrM"][5:25])
    assert found[f"{WORM}:train:worm:21"].windows[0].sequence == worms["chrM"][5:25]
    assert found[f"{WORM}:train:worm:2"].windows[0].sequence == worms["chrX"][30:50]
    assert found[f"{WORM}:train:worm:2"].windows[0].locus.chromosome == "ce11.chrX"
    assert splits.block is None  # the intervals are the same in both genomes, and none overlaps another
    assert "overlapping_windows" not in splits.changes


def test_transcripts_are_found_without_their_version(monkeypatch):
    names = [f"ENST{number:011}" for number in range(12)]
    coding = [(name, 3, 23, "+") for name in names]
    intervals(monkeypatch, CODING, coding_seqs=(coding[:8], coding[8:]), intergenomic_seqs=(tiles("chr1", 8), tiles("chr9", 4)))
    genome("hg38", {"chr1": letters(1000, 1), "chr9": letters(1000, 2)})
    texts = {f"{name}.{number + 1}": letters(50, number) for number, name in enumerate(names)}
    place = " cdna {}:GRCh38:{}:{}:{}:1 gene:ENSG1.1 gene_biotype:protein_coding"
    titles = {
        name: place.format(
            "chromosome", "1" if n < 4 else "CHR_HSCHR6_MHC_COX_CTG1" if n == 4 else "20", 100_000 + n, 100_500 + n
        )
        for n, name in enumerate(texts)
    }
    genome("cdna97", texts, titles)
    assert registry.tasks()[CODING].positive == "coding_seqs"
    splits = task(CODING).load("chromosome")
    found = everything(splits)
    assert found[f"{CODING}:test:coding_seqs:2"].windows[0].sequence == texts[f"{names[9]}.10"][3:23]
    _, validation, test = parts(splits)
    assert {name for name in test if ":coding_seqs:" in name} == {f"{CODING}:train:coding_seqs:{n}" for n in (1, 2, 3, 4)}
    assert {name for name in validation if ":coding_seqs:" in name} == {
        f"{CODING}:train:coding_seqs:5"
    }  # a haplotype of chromosome 6
    assert splits.changes["of_overlapping_genes"] == 11
    (block,) = {splits.block(name) for name in test if ":coding_seqs:" in name}
    assert block
    genome("cdna97", texts)  # without titles
    splits = task(CODING).load("published")
    assert any("of 12 transcripts" in note and "does not say where in the genome" in note for note in splits.notes)
    genome("cdna97", texts | {f"{names[0]}.9": "ACGT"})
    with pytest.raises(BadData, match=r"ENST00000000000\.1 and ENST00000000000\.9 are versions of one transcript"):
        task(CODING).load("published")


# --- split rules --------------------------------------------------------------------------------------------------------


def test_published_keeps_the_authors_test_part(nontata):
    splits = task(NONTATA).load("published")
    train, validation, test = parts(splits)
    assert {name.split(":")[1] for name in train | validation} == {"train"}
    assert test == {f"{NONTATA}:test:{label}:{n}" for label in ("negative", "positive") for n in range(1, 13)}
    assert len(validation) == 4  # a tenth of 24 of each class
    assert splits.notes[0] == "validation is 10% of the authors' train part, drawn by locus with seed 42"
    assert "99.6 % of the negatives" in splits.notes[1]


def test_chromosome_takes_those_of_the_facts(nontata):
    splits = task(NONTATA).load("chromosome")
    train, validation, test = ({everything(splits)[name].windows[0].locus.chromosome for name in part} for part in parts(splits))
    assert (train, validation, test) == ({"chr9"}, {"chr6"}, {"chr1"})


def test_overlapping_windows_stay_together(monkeypatch):
    """Pairs of windows that overlap by one nucleotide: one of train, one of test."""
    first = [("chr9", 100 * n, 100 * n + 20, "+") for n in range(60)]
    second = [("chr9", 100 * n + 19, 100 * n + 39, "-") for n in range(60)]
    intervals(monkeypatch, NONTATA, negative=(first[:30], second[:30]), positive=(first[30:], second[30:]))
    genome("hg38", {"chr9": letters(7000, 1)})
    splits = task(NONTATA).load("locus")
    assert [len(part) for part in parts(splits)] == [72, 24, 24]
    for part in parts(splits):
        for name in part:
            _, half, label, number = name.split(":")
            assert f"{NONTATA}:{'test' if half == 'train' else 'train'}:{label}:{number}" in part
    assert splits.changes["overlapping_windows"] == 120
    blocks = Counter(splits.block(name) for name in parts(splits)[2])
    assert set(blocks.values()) == {2}


def test_windows_of_n_are_no_copies_of_each_other(monkeypatch):
    """They would all be held out together, or not at all."""
    rows = tiles("chr9", 100)
    intervals(monkeypatch, NONTATA, negative=(rows, rows[:5]), positive=(tiles("chr9", 100, start=5000), rows[5:10]))
    genome("hg38", {"chr9": "N" * 4000 + letters(5000, 1)})
    splits = task(NONTATA).load("published")
    assert "duplicates" not in splits.changes
    held = [example.label for example in splits.validation]
    assert (held.count(0), held.count(1)) == (10, 10)


def test_unknown_split_rule(nontata):
    with pytest.raises(UnknownName, match="unknown split 'thesis': choose one of published, chromosome, locus"):
        task(NONTATA).load("thesis")


# --- what is missing or does not fit ------------------------------------------------------------------------------------


def test_a_missing_genome_says_how_to_get_it(nontata):
    locate(sources.REFERENCES["hg38"]).unlink()
    with pytest.raises(DataMissing, match=r"not what they are cut from, .*hg38\.2bit; `harness data get hg38` .*--genome FILE"):
        task(NONTATA).load("published")


def test_missing_and_changed_intervals(nontata):
    path = locate(task(NONTATA).sources[0])
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ChecksumMismatch, match=r"negative\.csv\.gz: sha256 .*`harness data get human_nontata_promoters`"):
        task(NONTATA).load("published")
    path.unlink()
    with pytest.raises(DataMissing, match="1 of 4 files are missing"):
        task(NONTATA).load("published")


def test_a_part_of_a_genome_is_refused(nontata, tmp_path):
    part = tmp_path / "part.fa"
    part.write_text(f">chr9\n{nontata['chr9']}\n")
    with pytest.raises(BadData, match=r"part\.fa: lacks 2 of the 3 chromosomes of .*, such as chr1, and so 32 of 72 windows"):
        task(NONTATA, genome=part).load("published")
    part.write_text("".join(f">{name}\n{text[:1600]}\n" for name, text in nontata.items()))
    with pytest.raises(BadData, match=r"part\.fa: [\d,]+ nucleotides of the windows .* lie off it"):
        task(NONTATA, genome=part).load("published")


def test_another_assembly_is_refused(nontata, monkeypatch):
    monkeypatch.setattr(_gb_intervals, "LENGTHS", {"hg38": ("chr1", 2999)})
    with pytest.raises(BadData, match=r"chr1 ends at 3,000, that of hg38 at 2,999: another assembly"):
        task(NONTATA).load("published")


def test_options_that_do_not_fit():
    with pytest.raises(UserError, match="lengths of their own; leave --context out"):
        task(NONTATA, context=64)
    with pytest.raises(UserError, match="select rows of an alignment"):
        task(NONTATA, species="89")
    with pytest.raises(UserError, match="no alignment for these, for the windows of one class are of spliced transcripts"):
        task(CODING, alignment=Path("x.maf"))
    with pytest.raises(UserError, match="an alignment would hold the human windows alone, and so give the class away"):
        task(WORM, alignment=Path("x.maf"))
    with pytest.raises(UnknownName, match="option source='hob': neither intervals nor hub nor a folder"):
        task(NONTATA, source="hob")


# --- alignments ---------------------------------------------------------------------------------------------------------


def maf(path: Path, chromosomes: dict[str, str], aligned: set[str]) -> Path:
    """The genome itself, and one other species on some chromosomes."""
    text = "##maf version=1\n"
    for name, sequence in chromosomes.items():
        text += f"\na score=0\ns hg38.{name} 0 {len(sequence)} + {len(sequence)} {sequence}\n"
        if name in aligned:
            text += f"s panTro4.{name} 0 {len(sequence)} + {len(sequence)} {sequence}\n"
    path.write_text(text)
    return path


def test_every_window_gets_its_columns(nontata, tmp_path):
    path = maf(tmp_path / "x.maf", nontata, set(nontata))
    splits = task(NONTATA, alignment=path, species="panTro4").load("published")
    assert splits.species == ("panTro4",)
    for example in everything(splits).values():
        window = example.windows[0]
        assert [row.tobytes().decode() for row in window.alignment] == [window.sequence, window.sequence]
    assert "columns in which another species aligns: 100.0% of negative, 100.0% of positive" in splits.notes


def test_an_alignment_of_one_class_is_warned_of(monkeypatch, tmp_path):
    intervals(
        monkeypatch, NONTATA, negative=(tiles("chr1", 20), tiles("chr1", 5, start=1000)),
        positive=(tiles("chr9", 20), tiles("chr9", 5, start=1000)),
    )  # fmt: skip
    chromosomes = {"chr1": letters(2000, 1), "chr9": letters(2000, 2)}
    genome("hg38", chromosomes)
    splits = task(NONTATA, alignment=maf(tmp_path / "x.maf", chromosomes, {"chr9"})).load("published")
    (note,) = (note for note in splits.notes if note.startswith("columns"))
    assert "0.0% of negative, 100.0% of positive; WARNING: where the alignment ends tells the classes apart" in note


# --- the command line ---------------------------------------------------------------------------------------------------


def test_a_run_from_intervals(nontata, harness):
    done = harness("run", "--model", "gc", "--task", NONTATA, "--split", "chromosome")
    assert done.returncode == 0, done.stderr
    assert "test: chr1; validation: chr6 chr14; train: the other chromosomes" in done.stdout + done.stderr
    assert harness("run", "--model", "gc", "--task", NONTATA, "--split", "chromosome").returncode == 0
    locate(sources.REFERENCES["hg38"]).unlink()
    done = harness("run", "--model", "gc", "--task", NONTATA)
    assert done.returncode == 2
    assert "`harness data get hg38` fetches it" in done.stderr


def test_data_commands_know_the_genome(nontata, harness):
    shown = harness("show", NONTATA).stdout
    assert all(text in shown for text in ("judge models by --split locus", "Grešová", "hg38.2bit", "Apache-2.0 (file"))
    assert "yes" in harness("list", "tasks").stdout
    locate(sources.REFERENCES["hg38"]).unlink()
    assert f"harness data get {NONTATA} --genomes" in " ".join(harness("list", "tasks").stdout.split())
    done = harness("data", "get", NONTATA, HARNESS_OFFLINE="1")
    assert done.returncode == 0
    assert "not here yet: hg38" in done.stdout + done.stderr
    done = harness("data", "get", NONTATA, "--genomes", HARNESS_OFFLINE="1")
    assert done.returncode == 1
    assert "hg38.2bit is missing" in done.stderr
    assert harness("data", "verify", NONTATA).returncode == 0
