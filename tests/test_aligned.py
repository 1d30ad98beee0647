"""Windows of the user's own that have loci: letters of a genome, columns of an alignment, and the commands that prepare both."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.data import Locus, reverse_complement
from harness.errors import BadData, UnknownName, UserError
from harness.files.alignments import build_store, open_alignment
from harness.files.sources import REFERENCES, locate
from harness.task import Reference
from harness.tasks import _aligned
from harness.tasks.files import from_files

LENGTH = 2000
RNG = np.random.default_rng(0)
CHROMOSOME = "".join(RNG.choice(list("ACGT"), LENGTH))
OTHER = "".join(RNG.choice(list("ACGT-"), LENGTH))
PLACES = [(start, start + 20 + start % 11, "+-"[start % 2]) for start in range(100, 1300, 39)]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def genome(tmp_path) -> Path:
    path = tmp_path / "genome.fa"
    path.write_text(f">chr5\n{CHROMOSOME}\n")
    return path


@pytest.fixture
def alignment(tmp_path) -> Path:
    """Columns 0 to 1,200: the last windows stick out."""
    path = tmp_path / "msa.fa"
    path.write_text(f">me chr5:0-1200\n{CHROMOSOME[:1200]}\n>you\n{OTHER[:1200]}\n>gone\n{'-' * 1200}\n")
    return path


def letters(start: int, end: int, strand: str, text: str = CHROMOSOME) -> str:
    return text[start:end] if strand == "+" else reverse_complement(text[start:end])


def fasta(path: Path, places: list[tuple[int, int, str]]) -> Path:
    path.write_text("".join(f">chr5:{a}-{b}({strand})\n{letters(a, b, strand)}\n" for a, b, strand in places))
    return path


def bed(path: Path, places: list[tuple[int, int, str]], chromosome: str = "chr5") -> Path:
    path.write_text("".join(f"{chromosome}\t{a}\t{b}\tpeak\t0\t{strand}\t7.5\n" for a, b, strand in places))
    return path


@pytest.fixture
def fastas(tmp_path) -> list[Path]:
    return [fasta(tmp_path / "pos.fa", PLACES[:15]), fasta(tmp_path / "neg.fa", PLACES[15:])]


@pytest.fixture
def beds(tmp_path) -> list[Path]:
    return [bed(tmp_path / "pos.bed", PLACES[:15]), bed(tmp_path / "neg.bed", PLACES[15:])]


def examples(splits):
    return [*splits.train, *splits.validation, *splits.test]


# --- columns --------------------------------------------------------------------------------------------------------------


def test_every_window_has_the_columns_of_its_locus(fastas, alignment):
    plain = from_files(fastas).load("stratified")
    splits = from_files(fastas).bind(Reference(alignment=alignment)).load("stratified")
    assert [example.id for example in examples(splits)] == [example.id for example in examples(plain)]
    outside = 0
    for example in examples(splits):
        (window,) = example.windows
        place = window.locus.start, window.locus.end, window.locus.strand
        other = letters(*place, OTHER[:1200] + "-" * 800)
        assert [bytes(row).decode() for row in window.alignment] == [letters(*place), other, "-" * len(window)]
        outside += other.count("-")
    assert splits.changes["columns_without_species"] == outside
    assert "alignment_mismatch" not in splits.changes
    assert splits.files.keys() - plain.files.keys() == {"columns of 3 rows, msa.fa"}
    pair = from_files(fastas).bind(Reference(alignment=alignment, species="you")).load("stratified")
    assert len(pair.train[0].windows[0].alignment) == 2
    assert pair.files != splits.files


def test_the_windows_own_letters_stand_in_row_0(tmp_path, fastas, alignment):
    text = fastas[0].read_text().splitlines()
    text[1] = ("C" if text[1][0] == "A" else "A") + text[1][1:]
    fastas[0].write_text("\n".join(text))
    splits = from_files(fastas).bind(Reference(alignment=alignment)).load("stratified")
    assert splits.changes["alignment_mismatch"] == 1
    for example in examples(splits):
        assert bytes(example.windows[0].alignment[0]).decode() == example.windows[0].sequence


def test_columns_beyond_memory_wait_in_a_file(fastas, alignment, monkeypatch):
    task = from_files(fastas).bind(Reference(alignment=alignment))
    expected = task.load("stratified")
    monkeypatch.setattr(_aligned, "MAX_BYTES_IN_MEMORY", 10)
    found = task.load("stratified")
    assert isinstance(found.test[0].windows[0].alignment, np.memmap)
    assert found.files == expected.files
    for one, other in zip(examples(found), examples(expected), strict=True):
        np.testing.assert_array_equal(one.windows[0].alignment, other.windows[0].alignment)


def test_alignments_that_do_not_fit(tmp_path, fastas, alignment):
    task = from_files(fastas)
    wrong = tmp_path / "wrong.fa"
    wrong.write_text(f">you chr5:0-{LENGTH}\n{OTHER.replace('-', 'A')}\n>me\n{CHROMOSOME}\n")
    with pytest.raises(BadData, match=r"wrong\.fa: row 0 \(you\) differs from the windows at 7\d\.\d% of the positions"):
        task.bind(Reference(alignment=wrong)).load("stratified")
    wrong.write_text(f">me chr5:1400-{LENGTH}\n{CHROMOSOME[1400:]}\n>you\n{CHROMOSOME[1400:]}\n")
    with pytest.raises(BadData, match=r"wrong\.fa: covers no position of the windows; is it of other stretches"):
        task.bind(Reference(alignment=wrong)).load("stratified")
    wrong.write_text(f">me chr6:0-{LENGTH}\n{CHROMOSOME}\n")
    with pytest.raises(BadData, match=r"wrong\.fa: no chromosome 'chr5'; it holds 6"):
        task.bind(Reference(alignment=wrong)).load("stratified")


def test_references_that_windows_cannot_take(tmp_path, fastas, genome, alignment):
    task = from_files(fastas)
    for reference, message in (
        (Reference(genome), r"pos\.fa and .*neg\.fa: the windows have letters of their own; leave --genome out"),
        (Reference(context=64), r"the windows have lengths of their own; leave --context out"),
        (Reference(species="89"), r"species '89': they select rows of an alignment; give it with --msa"),
    ):
        with pytest.raises(UserError, match=message):
            task.bind(reference)
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"ACGT,{i % 2}\n" for i in range(20)))
    fastas[1].write_text(fastas[1].read_text().replace(">chr5:685-", ">w685-"))
    for paths, record in ((fastas, r"'negative:w685-\S+'"), ([tmp_path / "t.csv"], "'1'")):
        with pytest.raises(
            UserError, match=rf"--msa needs the locus of every window, and {record} has none; write it into FASTA"
        ):
            from_files(paths).bind(Reference(alignment=alignment))


# --- BED ------------------------------------------------------------------------------------------------------------------


def test_bed_files_give_the_windows_that_their_fasta_files_give(fastas, beds, genome, alignment):
    for reference in (Reference(genome), Reference(genome, alignment)):
        task = from_files(beds).bind(reference)
        assert (task.name, task.family, task.classes) == ("pos+neg", "files", ("negative", "positive"))
        splits = task.load("stratified")
        expected = from_files(fastas).bind(Reference(alignment=reference.alignment)).load("stratified")
        for one, other in zip(examples(splits), examples(expected), strict=True):
            assert (one.id, one.label) == (other.id, other.label)
            assert (one.windows[0].sequence, one.windows[0].locus) == (other.windows[0].sequence, other.windows[0].locus)
            np.testing.assert_array_equal(one.windows[0].alignment, other.windows[0].alignment)
        assert "windows of genome genome.fa" in splits.files
        assert splits.changes == expected.changes


def test_dialects_of_bed(tmp_path, genome, beds):
    three = "track name=peaks\n#chrom start end\nbrowser position chr5\n\n" + "".join(f"5 {a} {b}\r\n" for a, b, _ in PLACES[:5])
    (tmp_path / "pos.narrowPeak.gz").write_bytes(gzip.compress(three.encode()))
    splits = from_files([tmp_path / "pos.narrowPeak.gz", beds[1]]).bind(Reference(genome)).load("stratified")
    found = {example.windows[0].locus for example in examples(splits) if example.label == 1}
    assert found == {Locus("5", a, b) for a, b, _ in PLACES[:5]}
    beds[0].write_text("".join(f"chr5\t{a}\t{b}\tx\t0\t.\n" for a, b, _ in [*PLACES[:5], (LENGTH - 20, LENGTH + 2, ".")]))
    splits = from_files(beds).bind(Reference(genome)).load("stratified")
    assert splits.changes == {"outside_genome": 2}
    assert Counter(example.windows[0].locus.strand for example in examples(splits) if example.label == 1) == {"+": 6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr5\t10\n", r"line 1: 'chr5\\t10' is no interval; expected BED: chromosome, start"),
        ("chr5\t10\t20\nchr5\t-1\t20\n", r"line 2: .* is no interval"),
        ("chr5\t10\t20\ta\t0\tplus\n", r"line 1: .* is no interval"),
        ("chr5\t20\t20\n", r"line 1: chr5:20-20\(\+\) is empty; start must be below end"),
        ("chr5\t10\t20\n\nchr5\t10\t20\tname\n", r"line 3: chr5:10-20\(\+\) stands in line 1 too; keep one of them"),
        ("track\n", r"no intervals; expected BED"),
        ("", r"the file is empty; expected BED"),
    ],
)
def test_bed_files_that_cannot_be_used(text, message, tmp_path, beds):
    beds[0].write_text(text)
    with pytest.raises(BadData, match=rf"pos\.bed.*{message}"):
        from_files(beds)


def test_bed_files_and_genomes_that_do_not_fit(tmp_path, fastas, beds, genome):
    with pytest.raises(UserError, match=r"neg\.bed: intervals have no letters; give their genome with --genome"):
        from_files(beds).load("stratified")
    for paths in (beds[:1], [beds[0], fastas[1]], [*beds, beds[0]]):
        with pytest.raises(UserError, match="BED files come in twos, positives first"):
            from_files(paths)
    bed(beds[1], [(a + 900, b + 900, strand) for a, b, strand in PLACES[15:]])
    with pytest.raises(BadData, match=r"genome\.fa: \d+\.\d% of the intervals' nucleotides lie off it: another assembly"):
        from_files(beds).bind(Reference(genome)).load("stratified")
    bed(beds[1], PLACES[15:], "chr9")
    with pytest.raises(BadData, match=r"genome\.fa: no chromosome 'chr9'"):
        from_files(beds).bind(Reference(genome)).load("stratified")
    bed(beds[1], PLACES[15:17])
    with pytest.raises(BadData, match=r"class 'negative' has 2 windows; it needs 3"):
        from_files(beds)


# --- commands -------------------------------------------------------------------------------------------------------------


def called(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_build_msa(tmp_path, alignment):
    second = tmp_path / "second.fa"
    second.write_text(">me chr6:10-14\nACGT\n>them\nAC-T\n>you\nACGG\n")
    done = called("data", "build-msa", alignment, second, "--out", tmp_path / "store", "--species", "you,them")
    assert done.exception is None
    assert "store: 2 chromosomes, 1,204 columns, 3 rows with the target, " in done.stderr.replace("\n", "")
    store = open_alignment(tmp_path / "store")
    assert store.species == ("me", "you", "them")
    assert [bytes(row).decode() for row in store.columns(Locus("6", 10, 14))] == ["ACGT", "ACGG", "AC-T"]
    again = called("data", "build-msa", alignment, "--out", tmp_path / "store")
    assert isinstance(again.exception, UserError)
    assert "store exists; remove it or choose another name" in str(again.exception)
    assert called("data", "build-msa", "--out", tmp_path / "x").exit_code == 2


def test_build_msa_of_a_cut_file_leaves_nothing(tmp_path, alignment):
    block = "a\ns me.chr1 0 4 + 9 ACGT\ns you.chr1 0 4 + 9 ACGA\n\n"
    cut = tmp_path / "cut.maf"
    cut.write_text("##maf version=1\n" + block + "a\ns me.chr1 4 5 + 9 AC")
    done = called("data", "build-msa", cut, "--out", tmp_path / "store")
    assert isinstance(done.exception, BadData)
    assert "cut.maf, line 7: 2 letters where 5 are announced; the file is cut or damaged" in str(done.exception)
    assert {path.name for path in tmp_path.iterdir()} == {"cut.maf", "msa.fa"}


def test_progress_reaches_the_end(tmp_path, alignment):
    seen = []
    build_store(alignment, tmp_path / "store", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3 * 1200, 3 * 1200)


def test_references_have_names(tmp_path):
    for name, source in REFERENCES.items():
        assert called("data", "path", name).stdout.strip() == str(locate(source))
    assert called("data", "verify", "hg38").exit_code == 1
    path = locate(REFERENCES["hg38"])
    path.parent.mkdir(parents=True)
    path.write_bytes(struct.pack("<4IB1sI", 0x1A412743, 0, 1, 0, 1, b"1", 22) + struct.pack("<4IB", 4, 0, 0, 0, 0b10011100))
    assert called("data", "get", "HG38").exception is None  # here already, a 2bit file, and UCSC states no checksum
    assert called("data", "verify", "hg38").exit_code == 0
    assert str(path) in called("data", "path", "clinvar").stdout.splitlines()  # what clinvar reads is what the name gets
    error = called("data", "get", "hg37").exception
    assert isinstance(error, UnknownName)
    assert "unknown data set 'hg37': did you mean hg38?" in str(error)


def test_an_alignment_that_covers_one_class_more_is_warned_of(tmp_path, alignment):
    inside = [(start, start + 20, "+") for start in range(100, 1100, 30)]
    beyond = [(start, start + 20, "+") for start in range(1190, 1960, 30)]  # of which the first reaches in
    task = from_files([fasta(tmp_path / "pos.fa", inside), fasta(tmp_path / "neg.fa", beyond)])
    assert task.bind is not None
    (note,) = (note for note in task.bind(Reference(alignment=alignment)).load("shuffled").notes if "another species" in note)
    assert "WARNING: where the alignment ends tells the classes apart" in note
    assert "% of negative" in note
    assert "% of positive" in note
