"""Sequences to pretrain on: which records become windows, what is left out and said, what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.data import Locus, reverse_complement
from harness.engine.corpus import Corpus
from harness.errors import BadData, UserError
from harness.files.sequences import LONGEST_RECORD, open_sequences
from harness.files.simulated import simulate


def random_letters(count: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), count))


def write(path: Path, *records: tuple[str, str]) -> Path:
    path.write_text("".join(f">{title}\n{letters}\n" for title, letters in records))
    return path


class TestRecords:
    def test_types_are_the_second_words_and_u_is_read_as_t(self, tmp_path):
        source = open_sequences(write(tmp_path / "a.fa", ("r1 tRNA more", "ACGU"), ("r2", "ggnn"), ("r3 snoRNA", "ACGTT")))
        assert source.types == {"r1": "tRNA", "r3": "snoRNA"}
        assert source.whole
        assert [source.window(Locus(*stretch)).sequence for stretch in source.stretches] == ["ACGT", "GGNN", "ACGTT"]
        assert source.window(Locus("r1", 0, 3, "-")).sequence == reverse_complement("ACG")

    def test_what_repeats_is_left_out_and_counted(self, tmp_path):
        source = open_sequences(write(tmp_path / "a.fa", ("x", "ACGT"), ("x", "GGGG"), ("y", "acgu"), ("z", ""), ("w", "RCGT")))
        assert [name for name, _, _ in source.stretches] == ["x", "x#2", "w"]
        assert source.notes == [
            "a.fa: 1 records are left out: their letters are those of an earlier one, or its reverse complement",
            "a.fa: 1 records without letters are left out",
            "a.fa: 1 ambiguous letters are read as N",
        ]

    def test_what_repeats_on_the_other_strand_or_in_another_file_of_a_folder_is_left_out(self, tmp_path):
        write(tmp_path / "a.fa", ("x", "AACGGT"), ("y", reverse_complement("AACGGT")))
        write(tmp_path / "b.fa", ("z", "aacggu"))
        source = open_sequences(tmp_path)
        assert [name for name, _, _ in source.stretches] == ["a/x"]
        assert [note.partition(" are")[0] for note in source.notes] == ["a.fa: 1 records", "b.fa: 1 records"]

    def test_the_facts_tell_any_letter_and_any_type_and_not_the_path(self, tmp_path):
        def facts(name, record, folder=False):
            (tmp_path / name).mkdir()
            path = write(tmp_path / name / "a.fa", ("x tRNA", "ACGT"), record)
            write(tmp_path / name / "b.fa", ("z", "TTTTT"))
            return open_sequences(tmp_path / name if folder else path).facts()

        for folder in (False, True):
            first = facts(f"first{folder}", ("y tRNA", "GGGGG"), folder)
            assert facts(f"same{folder}", ("y tRNA", "GGGGG"), folder) == first
            assert facts(f"letter{folder}", ("y tRNA", "GGGGA"), folder) != first
            assert facts(f"type{folder}", ("y rRNA", "GGGGG"), folder) != first

    @pytest.mark.parametrize("other", ["x.fasta", "x.fa.gz"])
    def test_two_files_of_a_folder_with_one_name_are_refused(self, tmp_path, other):
        for name in ("x.fa", other):
            write(tmp_path / name, ("one", "ACGT"))
        with pytest.raises(BadData, match=r"x\.fa.* have the same name; leave one of them out, or rename it"):
            open_sequences(tmp_path)

    def test_a_long_record_makes_a_genome(self, tmp_path):
        chromosome = random_letters(LONGEST_RECORD + 1)
        source = open_sequences(write(tmp_path / "g.fa", ("chr1", chromosome), ("chr2:100-104", "ACGT")))
        assert not source.whole
        assert source.stretches == [("1", 0, len(chromosome)), ("2", 100, 104)]
        assert source.window(Locus("1", 5, 25)).sequence == chromosome[5:25]

    def test_a_record_named_after_its_place_makes_a_genome(self, tmp_path):
        source = open_sequences(write(tmp_path / "part.fa", ("chr7:1000-1020", "ACGTT" * 4)))
        assert source.stretches == [("7", 1000, 1020)]
        assert source.window(Locus("7", 1005, 1010)).sequence == "ACGTT"
        assert open_sequences(write(tmp_path / "own.fa", ("chr7:1000-1021", "ACGTT" * 4))).whole

    def test_a_folder_is_its_files(self, tmp_path):
        write(tmp_path / "b.fasta", ("one miRNA", "ACGT"))
        write(tmp_path / "a.fa", ("one", "GGGGG"))
        (tmp_path / "readme.txt").write_text("not read")
        source = open_sequences(tmp_path)
        assert source.stretches == [("a/one", 0, 5), ("b/one", 0, 4)]
        assert source.types == {"b/one": "miRNA"}
        assert source.window(Locus("b/one", 0, 4)).sequence == "ACGT"

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("ACGT\n", "does not begin with '>'"),
            (">x\nAC!T\n", r"record 'x': letters '!' are not IUPAC .* mend it"),
            (">x\nAC-T\n", "record 'x': letters '-' are not IUPAC .* leave it out; --msa takes an alignment"),
            (">x\n\n>y\n\n", "holds no letters"),
            ("", "empty"),
        ],
    )
    def test_bad_files(self, tmp_path, content, words):
        (tmp_path / "a.fa").write_text(content)
        with pytest.raises(BadData, match=words):
            open_sequences(tmp_path / "a.fa")

    def test_a_folder_without_sequences(self, tmp_path):
        with pytest.raises(BadData, match=r"no file in this folder ends in \.fa"):
            open_sequences(tmp_path)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(BadData, match="no such file"):
            open_sequences(tmp_path / "none.fa")


class TestCorpus:
    def test_short_sequences_are_windows_and_none_is_both_trained_on_and_held_out(self, tmp_path):
        records = [(f"r{number}", random_letters(10 + number % 50, number)) for number in range(300)]
        corpus = Corpus(open_sequences(write(tmp_path / "a.fa", *records)), 64)
        trained = {window.sequence for window in corpus.draw(np.random.default_rng(0), 20_000)}
        held_out = {window.sequence for window in corpus.held_out(1000)}
        assert len(held_out) == 30
        assert trained | held_out == {letters for _, letters in records}
        assert not trained & held_out

    def test_long_sequences_have_more_windows_than_short_ones(self, tmp_path):
        """In proportion to their letters, up to the edges; 10,000 draws, 5 standard deviations: a false alarm in 10^6 runs."""
        records = [(f"r{number}", random_letters(50 if number % 2 else 2000, number)) for number in range(40)]
        corpus = Corpus(open_sequences(write(tmp_path / "a.fa", *records)), 100)
        windows = corpus.draw(np.random.default_rng(0), 10_000)
        sizes = corpus._ends - corpus._firsts
        share = sizes[sizes == 50].sum() / corpus.letters
        assert sum(len(window) == 50 for window in windows) / 10_000 == pytest.approx(share, abs=0.0076 + 0.1 * share)

    def test_long_sequences_give_windows_of_the_context(self, tmp_path):
        corpus = Corpus(
            open_sequences(write(tmp_path / "a.fa", ("a", random_letters(5000)), ("b", random_letters(4000, 1)))), 128
        )
        assert {len(window) for window in corpus.draw(np.random.default_rng(0), 200)} == {128}

    def test_sequences_below_the_shortest_are_left_out_and_counted(self, tmp_path):
        records = [(f"r{number}", random_letters(length, number)) for number, length in enumerate((3, 5, 20, 30, 40))]
        corpus = Corpus(open_sequences(write(tmp_path / "a.fa", *records)), 64, shortest=6)
        assert corpus.too_short == 2
        assert min(len(window) for window in corpus.draw(np.random.default_rng(0), 100)) >= 20
        with pytest.raises(UserError, match="longest sequence has 40 nt; windows of at least 50 are needed"):
            Corpus(corpus.source, 64, shortest=50)

    def test_both_strands(self, tmp_path):
        """Half of 400 windows, within 5 standard deviations: a false alarm once in a million runs."""
        letters = random_letters(3000)
        corpus = Corpus(open_sequences(write(tmp_path / "a.fa", ("a", letters))), 50, both_strands=True)
        windows = corpus.draw(np.random.default_rng(0), 400)
        reverse = sum(window.locus.strand == "-" for window in windows)
        assert abs(reverse - 200) < 50
        for window in windows:
            plus = letters[window.locus.start : window.locus.end]
            assert window.sequence == (plus if window.locus.strand == "+" else reverse_complement(plus))
        assert {window.locus.strand for window in corpus.held_out(50)} == {"+"}

    def test_regions_restrict_where_windows_begin(self, tmp_path):
        source = open_sequences(write(tmp_path / "a.fa", ("a", random_letters(6000)), ("b", random_letters(6000, 1))))
        regions = {"a": np.arange(0, 5900, 7)}
        corpus = Corpus(source, 50, regions=regions)
        windows = [*corpus.draw(np.random.default_rng(0), 300), *corpus.held_out(100)]
        assert {window.locus.chromosome for window in windows} == {"a"}
        assert all(window.locus.start % 7 == 0 for window in windows)
        tiles = sorted(window.locus.start for window in corpus.held_out(100))
        assert min(np.diff(tiles)) >= 50
        with pytest.raises(BadData, match="none of the regions"):
            Corpus(source, 50, regions={"elsewhere": np.arange(10)})

    def test_only_unknown_letters(self, tmp_path):
        corpus = Corpus(open_sequences(write(tmp_path / "a.fa", ("a", "N" * 3000))), 50)
        with pytest.raises(BadData, match="more than half of the letters are N"):
            corpus.draw(np.random.default_rng(0), 1)

    def test_texts_are_the_letters_that_are_trained_on(self, tmp_path):
        letters = random_letters(4000)
        corpus = Corpus(open_sequences(write(tmp_path / "a.fa", ("a", letters))), 64)
        assert sum(map(len, corpus.texts())) == corpus.letters < 4000
        assert all(text in letters for text in corpus.texts())


class TestSimulated:
    def test_the_same_seed_writes_the_same(self, tmp_path):
        first, second, other = (simulate(tmp_path / name, 20_000, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
        contents = [[file.read_bytes() for file in files] for files in (first, second, other)]
        assert contents[0] == contents[1] != contents[2]

    def test_the_alignment_is_of_the_first_chromosome(self, tmp_path):
        from harness.files.alignments import open_alignment

        files = {file.name: file for file in simulate(tmp_path / "sim", 20_000)}
        alignment = open_alignment(files["alignment.chr1_0_10000.fa"])
        rows = alignment.columns(Locus("chr1", 500, 900))
        assert rows[0].tobytes().decode() == open_sequences(files["genome.fa"]).window(Locus("chr1", 500, 900)).sequence
        assert alignment.extents == {"1": (0, 10_000)}

    def test_nothing_is_overwritten(self, tmp_path):
        simulate(tmp_path / "sim", 20_000)
        with pytest.raises(UserError, match="not empty"):
            simulate(tmp_path / "sim", 20_000)
        with pytest.raises(UserError, match="at least 10,000"):
            simulate(tmp_path / "new", 10)
