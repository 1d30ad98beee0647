"""Scans: windows along sequences and intervals, held to values computed by hand, and the files that they make."""

from __future__ import annotations

import gzip
import sys

import numpy as np
import pytest
from made_trained import Adapter, Heard, Made, gc, seeds

from harness.data import reverse_complement
from harness.errors import BadData, UnknownName, UserError
from harness.files import bed
from harness.inference import answers, tracks
from harness.inference.answers import PART
from harness.inference.inputs import open_input
from harness.inference.scan import Layout, scan
from harness.inference.tracks import Stretch

LENGTH = 97
CHROMOSOME = "".join(np.random.default_rng(4).choice(list("ACGT"), LENGTH))


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_text(f">chr2\n{CHROMOSOME}\n>chr10\n{CHROMOSOME[::-1]}\n")
    return path


def by_hand(sequence: str, window: int, step: int, low: int = 0, minus: bool = False) -> dict[int, float]:
    """The mean over the windows at each position, from the definition."""
    last = len(sequence) - window
    starts = sorted({*range(0, max(last, 0) + 1, step), max(last, 0)})
    found = {}
    for position in range(len(sequence)):
        windows = [sequence[start : start + window] for start in starts if start <= position < start + window]
        asked = [gc(reverse_complement(letters) if minus else letters) for letters in windows if letters.strip("N")]
        if asked:
            found[low + position] = float(np.mean(asked))
    return found


def positions(path, name: str) -> dict[int, float]:
    """The value at each position of a track in a bedGraph."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    found = {}
    for line in text.splitlines():
        track, start, end, value = line.split("\t")
        if track == name:
            for position in range(int(start), int(end)):
                assert position not in found
                found[position] = float(value)
    return found


@pytest.mark.parametrize(("window", "step"), [(10, 1), (10, 3), (10, 10), (30, 7), (97, 5), (96, 1), (200, 10)])
def test_a_position_has_the_mean_of_the_windows_that_cover_it(tmp_path, window, step):
    path = tmp_path / "x.fa"
    path.write_text(f">t\n{CHROMOSOME}\n")
    scan(seeds(), open_input([path]), Layout(window, step), tmp_path / "x.bedgraph")
    expected = by_hand(CHROMOSOME, window, step)
    assert sorted(expected) == list(range(LENGTH))
    assert positions(tmp_path / "x.bedgraph", "t") == pytest.approx(expected, rel=1e-6)


def test_values_do_not_depend_on_how_many_windows_are_looked_at_together(tmp_path, monkeypatch):
    path = tmp_path / "x.fa"
    path.write_text(f">t\n{CHROMOSOME * 5}\n>u\n{CHROMOSOME}\n")
    scan(seeds(), open_input([path]), Layout(20, 3), tmp_path / "whole.bedgraph")
    monkeypatch.setattr(tracks, "ROWS", 4)
    monkeypatch.setattr(answers, "CHUNK", 7)
    scan(seeds(), open_input([path]), Layout(20, 3), tmp_path / "parts.bedgraph")
    assert (tmp_path / "parts.bedgraph").read_bytes() == (tmp_path / "whole.bedgraph").read_bytes()


def test_windows_at_both_ends_by_hand():
    stretch = Stretch("t", 5, 30, ".", "")
    assert Layout(10, 4).starts(stretch).tolist() == [5, 9, 13, 17, 20]
    assert Layout(10, 5).starts(stretch).tolist() == [5, 10, 15, 20]
    assert Layout(25, 5).starts(stretch).tolist() == [5]
    assert Layout(40, 5).starts(stretch).tolist() == [5]
    for layout in (Layout(10, 4), Layout(10, 5), Layout(25, 5), Layout(40, 5), Layout(24, 9)):
        assert layout.count(stretch) == len(layout.starts(stretch))
    assert [Layout(10, 4).flush(stretch), Layout(10, 5).flush(stretch), Layout(40, 5).flush(stretch)] == [True, False, False]


def test_windows_of_n_alone_are_skipped_and_counted(tmp_path):
    sequence = "GCGCATAT" + "N" * 30 + "ATGCATGC"
    path = tmp_path / "x.fa"
    path.write_text(f">t\n{sequence}\n>short\nGGA\n")
    heard = Heard()
    done = scan(seeds(), open_input([path]), Layout(8, 4), tmp_path / "x.bg", reporter=heard)
    expected = by_hand(sequence, 8, 4)
    assert positions(tmp_path / "x.bg", "t") == pytest.approx(expected, rel=1e-6)
    assert 15 not in expected
    assert positions(tmp_path / "x.bg", "short") == pytest.approx(dict.fromkeys(range(3), 2 / 3), rel=1e-6)
    assert (done.windows, done.skipped) == (6, 6)
    assert done.notes == ["6 windows of N alone were skipped"]
    assert "the last window of 1 is flush with the end, less than a step after the one before" in heard.lines
    assert "1 are shorter than a window, and are one window each" in heard.lines
    assert "windows of 8 nt, but those of training had 10" in heard.lines


def test_intervals_of_a_genome_on_both_strands_in_sorted_order(tmp_path, genome):
    regions = tmp_path / "x.bed"
    regions.write_text("2\t50\t90\tb\t0\t-\nchr10\t3\t33\tc\t0\t+\nchr2\t0\t25\ta\t0\t+\n2\t60\t97\tb\t0\t-\n")
    heard = Heard()
    made = Made(answer=lambda example: example.windows[0].sequence.count("G") / 10)
    scan(seeds(made), open_input([regions], genome=genome), Layout(10, 4), tmp_path / "x.bedgraph.gz", reporter=heard)
    lines = gzip.decompress((tmp_path / "x.bedgraph.gz").read_bytes()).decode().splitlines()
    order = [(line.split("\t")[0], int(line.split("\t")[1])) for line in lines]
    assert order == sorted(order)
    assert {name for name, _ in order} == {"2", "chr10"}
    found = positions(tmp_path / "x.bedgraph.gz", "2")
    assert sorted(found) == [*range(25), *range(50, 97)]
    windows = {start: reverse_complement(CHROMOSOME[start : start + 10]).count("G") / 10 for start in [*range(50, 87, 4), 87]}
    for position in range(50, 97):
        covering = [value for start, value in windows.items() if start <= position < start + 10]
        assert found[position] == pytest.approx(np.mean(covering), rel=1e-6)
    assert "1 intervals overlap with others, and are joined" in heard.lines


def test_a_bigwig_reads_back(tmp_path, genome):
    pytest.importorskip("pybigtools")
    pyBigWig = pytest.importorskip("pyBigWig")
    regions = tmp_path / "x.bed"
    regions.write_text("chr2\t10\t60\nchr10\t0\t97\n")
    scan(seeds(), open_input([regions], genome=genome), Layout(12, 5), tmp_path / "x.bw")
    with pyBigWig.open(str(tmp_path / "x.bw")) as file:
        assert file.chroms() == {"chr10": LENGTH, "chr2": LENGTH}
        values = np.array(file.values("chr2", 0, LENGTH))
        whole = np.array(file.values("chr10", 0, LENGTH))
    expected = by_hand(CHROMOSOME[10:60], 12, 5, low=10)
    assert np.flatnonzero(~np.isnan(values)).tolist() == sorted(expected)
    assert values[10:60] == pytest.approx([expected[position] for position in range(10, 60)], rel=1e-6)
    assert whole == pytest.approx(list(by_hand(CHROMOSOME[::-1], 12, 5).values()), rel=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["genome.fa", "x.bed", "x.bw"]


def test_a_bigwig_without_its_package_says_what_to_install(tmp_path, genome, monkeypatch):
    monkeypatch.setitem(sys.modules, "pybigtools", None)
    with pytest.raises(UserError, match=r"needs the package pybigtools: pip install 'gfm-harness\[bigwig\]'"):
        scan(seeds(), open_input([genome]), Layout(12, 5), tmp_path / "x.bigWig")


def test_peaks_are_joined_positions_with_the_highest_score(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(">t\nATATATATATGCGCGATATAGGCCAATATA\n>u\nGGGGGGGGGG\n")
    done = scan(seeds(), open_input([path]), Layout(5, 5), tmp_path / "x.bg", peaks=tmp_path / "p.bed", threshold=0.6)
    lines = [line.split("\t") for line in (tmp_path / "p.bed").read_text().splitlines()]
    assert lines == [
        ["t", "10", "15", "peak_1", "1000", ".", "1"],
        ["t", "20", "25", "peak_2", "800", ".", "0.8"],
        ["u", "0", "10", "peak_3", "1000", ".", "1"],
    ]
    assert done.peaks == 3
    assert [line.locus.start for line in bed.intervals(tmp_path / "p.bed", {})] == [10, 20, 0]


def test_peaks_of_intervals_have_their_strand(tmp_path, genome):
    regions = tmp_path / "x.bed"
    regions.write_text("chr2\t0\t20\ta\t0\t+\nchr2\t20\t40\tb\t0\t-\n")
    options = {"peaks": tmp_path / "p.bed", "threshold": 0.0}
    scan(seeds(), open_input([regions], genome=genome), Layout(10, 5), tmp_path / "x.bg", **options)
    lines = [line.split("\t") for line in (tmp_path / "p.bed").read_text().splitlines()]
    assert [(line[1], line[2], line[5]) for line in lines] == [("0", "20", "+"), ("20", "40", "-")]


def test_a_stopped_scan_goes_on_and_ends_with_the_same_bytes(tmp_path, genome, monkeypatch):
    monkeypatch.setattr(answers, "CHUNK", 8)
    scan(seeds(), open_input([genome]), Layout(10, 3), tmp_path / "whole.bedgraph", peaks=tmp_path / "whole.bed")
    with pytest.raises(KeyboardInterrupt):
        scan(seeds(Made(stop_after=4)), open_input([genome]), Layout(10, 3), tmp_path / "x.bedgraph", peaks=tmp_path / "x.bed")
    assert (tmp_path / f"x.bedgraph{PART}").exists()
    assert not (tmp_path / "x.bedgraph").exists()
    again = Made()
    scan(seeds(again), open_input([genome]), Layout(10, 3), tmp_path / "x.bedgraph", peaks=tmp_path / "x.bed")
    assert sum(again.asked) == 2 * 30 - 32
    assert (tmp_path / "x.bedgraph").read_bytes() == (tmp_path / "whole.bedgraph").read_bytes()
    assert (tmp_path / "x.bed").read_bytes() == (tmp_path / "whole.bed").read_bytes()


def test_the_class_of_a_track(tmp_path, genome):
    three = Made(classes=("a", "b", "c"))
    with pytest.raises(UserError, match="a track holds one of a, b, c; say which with --class"):
        scan(seeds(three), open_input([genome]), Layout(10, 10), tmp_path / "x.bg")
    with pytest.raises(UnknownName, match="class 'd': the run's are a, b, c"):
        scan(seeds(three), open_input([genome]), Layout(10, 10), tmp_path / "x.bg", of_class="d")
    scan(seeds(three), open_input([genome]), Layout(10, 10), tmp_path / "x.bg", of_class="b")
    found = positions(tmp_path / "x.bg", "chr2")
    assert found[0] == pytest.approx((1 - gc(CHROMOSOME[:10])) / 2)


def test_a_scan_of_a_regression_needs_a_threshold_for_peaks(tmp_path, genome):
    number = Made(kind="regression", classes=("te",))
    with pytest.raises(UserError, match="say from which one on with --threshold"):
        scan(seeds(number), open_input([genome]), Layout(10, 10), tmp_path / "x.bg", peaks=tmp_path / "p.bed")
    scan(seeds(number), open_input([genome]), Layout(10, 10), tmp_path / "x.bg")
    assert positions(tmp_path / "x.bg", "chr2")[0] == pytest.approx(100 * gc(CHROMOSOME[:10]))


@pytest.mark.parametrize("text", ["101", "101:", "0:5", "10:11", "a:b", "10:-1", "1e3:10"])
def test_layouts_that_are_none(text):
    with pytest.raises(UserError, match=f"scan '{text}'"):
        Layout.of(text)


def test_what_cannot_be_scanned_is_refused_before_anything_is_asked(tmp_path, genome):
    made = Made(adapter=Adapter(max_length=50, shortest=4))

    def refused(path, layout, message, kind=UserError, out="x.bedgraph", **more):
        with pytest.raises(kind, match=message):
            scan(seeds(made), open_input([path], **more), layout, tmp_path / out)
        assert made.asked == []
        assert not [name for name in tmp_path.iterdir() if name.name.startswith(out)]

    def written(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    refused(genome, Layout(51, 10), "windows of 51 nt, but cnn takes at most 50")
    refused(genome, Layout(50, 10), "the name must end in .bedgraph", out="x.csv")
    twice = written("twice.fa", ">a\nACGTACGT\n>a\nACGT\n")
    refused(twice, Layout(8, 4), "2 sequences are named 'a'", BadData)
    refused(written("short.fa", ">a\nACGTACGT\n>b\nAC\n"), Layout(8, 4), "record 'b': a window of 2 nt, below 4")
    both = written("both.bed", "chr2\t0\t20\ta\t0\t+\nchr2\t10\t30\tb\t0\t-\n")
    refused(both, Layout(8, 4), "overlaps with line 1 on the other strand", genome=genome)
    refused(written("off.bed", "chr3\t0\t20\n"), Layout(8, 4), "has no chromosome 'chr3'", BadData, genome=genome)
    refused(written("end.bed", "chr2\t90\t200\n"), Layout(8, 4), "lie off it: another assembly", BadData, genome=genome)


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"threshold": float("nan"), "peaks": "p.bed"}])
def test_a_threshold_is_a_number_and_of_peaks(tmp_path, genome, options):
    if "peaks" in options:
        options["peaks"] = tmp_path / options["peaks"]
    with pytest.raises(UserError, match=r"threshold .*: a number from which on positions are peaks"):
        scan(seeds(), open_input([genome]), Layout(12, 5), tmp_path / "x.bg", **options)
