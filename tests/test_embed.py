"""`harness embed` and harness.embed(): what is written, what it says of itself, what is refused, and what is computed once."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import random_windows

import harness as face
from harness.data import Window
from harness.engine import predict as engine
from harness.errors import BadData, UserError
from harness.inference import embed as module

TINY = ("--init", "random:tiny", "--precision", "float32", "--device", "cpu")
SEQUENCES = {f"s{number}": window.sequence for number, window in enumerate(random_windows(30, (20, 60)))}


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    return path


def model(name: str, **options):
    return face.load_model(name, init="random:tiny", option=options)


def read(path):
    """Ids, a list with the numbers of each sequence, and the metadata."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(path)
        rows = table.column("embedding").to_pylist()
        return table.column("id").to_pylist(), [np.float32(row) for row in rows], json.loads(table.schema.metadata[b"harness"])
    if path.suffix == ".npz":
        arrays = dict(np.load(path))
        about = json.loads(str(arrays.pop("harness")))
    else:
        import zarr

        group = zarr.open_group(path, mode="r")
        arrays, about = {name: group[name][:] for name in group.array_keys()}, group.attrs["harness"]
    numbers, offsets = arrays["embeddings"], arrays.get("offsets")
    assert numbers.dtype == np.float32
    rows = list(numbers) if offsets is None else [numbers[first:end] for first, end in itertools.pairwise(offsets)]
    return list(arrays["ids"]), rows, about


class TestFiles:
    @pytest.mark.parametrize("ending", [".parquet", ".npz", ".zarr"])
    @pytest.mark.parametrize("per_base", [False, True], ids=["pooled", "per base"])
    def test_each_format_holds_the_same(self, harness, monkeypatch, tmp_path, fasta, ending, per_base):
        monkeypatch.setattr(module, "CHUNK", 7)  # several chunks, the last of them smaller
        out = tmp_path / f"e{ending}"
        done = harness("embed", str(fasta), "--model", "dnabert2", *TINY, "--out", str(out), *["--per-base"] * per_base)
        assert done.returncode == 0, done.stderr
        assert f"30 sequences → {out}" in done.stdout
        ids, rows, about = read(out)
        assert ids == list(SEQUENCES)
        expected = face.embed(model("dnabert2"), list(SEQUENCES.values()), per_base=per_base)
        for row, numbers, sequence in zip(rows, expected, SEQUENCES.values(), strict=True):
            assert numbers.shape == ((len(sequence), 64) if per_base else (64,))
            np.testing.assert_allclose(row, numbers, atol=1e-5)
        stated = {"model": "dnabert2", "size": "tiny", "seed": 0, "layer": None, "per_base": per_base, "fingerprint": None}
        assert stated.items() <= about.items()
        assert about["pooling"].startswith("of each base" if per_base else "the mean of all tokens with [CLS] and [SEP]")
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]

    def test_a_layer_is_averaged_over_bases(self, harness, tmp_path, fasta):
        done = harness("embed", str(fasta), "--model", "caduceus", *TINY, "--layer", "1", "--out", "e.npz")
        assert done.returncode == 0, done.stderr
        _, rows, about = read(tmp_path / "e.npz")
        assert (about["layer"], about["layers"], about["pooling"][:19]) == (1, 2, "the mean over bases")
        by_base = face.embed(model("caduceus"), list(SEQUENCES.values()), per_base=True, layer=1)
        np.testing.assert_allclose(rows, [states.mean(axis=0) for states in by_base], atol=1e-5)

    def test_the_weights_are_named_by_their_content(self, harness, tmp_path, fasta):
        from safetensors.torch import save_file

        (tmp_path / "w").mkdir()
        weights = {name: tensor.contiguous() for name, tensor in model("msamamba", pooling="last").state_dict().items()}
        save_file(weights, tmp_path / "w" / "model.safetensors")
        own = ("--checkpoint", str(tmp_path / "w"), "--option", "pooling=last", *TINY[2:])
        done = harness("embed", str(fasta), "--model", "msamamba", *own, "--out", "e.npz")
        assert done.returncode == 0, done.stderr
        _, rows, about = read(tmp_path / "e.npz")
        assert len(about["fingerprint"]) == 64
        assert (about["options"], about["seed"], about["layers"]) == ({"pooling": "last"}, None, 2)
        expected = face.embed(model("msamamba", pooling="last"), list(SEQUENCES.values()))
        np.testing.assert_allclose(rows, expected, atol=1e-5)

    def test_bases_without_a_token_are_not_numbers_and_are_counted(self, harness, tmp_path):
        (tmp_path / "in.fa").write_text(">a\nACGT\n>b\nACGTACGT\n")
        done = harness("embed", "in.fa", "--model", "dnabert1", *TINY, "--per-base", "--out", "e.npz")
        assert "4 bases are held by no token of dnabert1: their numbers are NaN" in done.stderr
        _, (short, whole), _ = read(tmp_path / "e.npz")
        assert np.isnan(short).all()
        assert short.shape == (4, 64)
        assert np.isfinite(whole).all()

    def test_intervals_of_a_genome(self, harness, tmp_path):
        (tmp_path / "genome.fa").write_text(">chr1\n" + "ACGGTTTACC" * 5 + "\n")
        (tmp_path / "in.bed").write_text("chr1\t0\t10\tplus\t0\t+\nchr1\t0\t10\tminus\t0\t-\n")
        done = harness("embed", "in.bed", "--genome", "genome.fa", "--model", "rnafm", *TINY, "--out", "e.npz")
        assert done.returncode == 0, done.stderr
        ids, rows, _ = read(tmp_path / "e.npz")
        assert ids == ["plus", "minus"]
        np.testing.assert_allclose(rows, face.embed(model("rnafm"), ["ACGGTTTACC", "GGTAAACCGT"]), atol=1e-5)

    def test_what_the_model_does_not_know_is_said(self, harness, tmp_path):
        (tmp_path / "in.fa").write_text(">a\nACGTNNNN\n>b\nacguACGT\n")
        said = harness("embed", "in.fa", "--model", "gpn_msa", *TINY, "--out", "e.npz").stderr
        assert "counted: lower case 4, u to t 1" in said
        assert "gpn_msa reads alignments: sequences alone, as here, are not what it was trained for" in said
        assert "25.00% of the tokens of the first 2 sequences are unknown to gpn_msa" in said

    def test_the_model_of_a_run(self, harness, tmp_path, fasta):
        rows = [f"{sequence},{number % 2}" for number, sequence in enumerate(SEQUENCES.values())]
        (tmp_path / "train.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")
        assert harness("run", "--model", "cnn", *TINY, "--epochs", "1", "--task", "train.csv").returncode == 0
        (run,) = (path.parent for path in (tmp_path / "results").rglob("run.json"))
        done = harness("embed", str(fasta), "--model", "cnn", "--checkpoint", str(run), *TINY[2:], "--out", "e.npz")
        assert done.returncode == 0, done.stderr
        _, rows, about = read(tmp_path / "e.npz")
        assert about["fingerprint"]
        expected = face.load_run(run, device="cpu").embed(list(SEQUENCES.values()))
        np.testing.assert_allclose(rows, expected, atol=1e-5)
        assert not np.allclose(rows, face.embed(model("cnn"), list(SEQUENCES.values())), atol=1e-3)

    def test_a_large_npz_says_that_it_is_held_in_memory(self, harness, monkeypatch, fasta):
        monkeypatch.setattr(module, "LARGE", 100)
        done = harness("embed", str(fasta), "--model", "gc", "--out", "e.npz")
        assert done.stderr.count("held in memory until its end; .parquet and .zarr are written as they come") == 1
        assert "held in memory" not in harness("embed", str(fasta), "--model", "gc", "--out", "e.parquet").stderr


class TestRefusals:
    """One line, exit code 2, and no file."""

    @pytest.fixture
    def refused(self, harness, tmp_path, fasta):
        def ask(*options: str, source=fasta) -> str:
            before = sorted(path.name for path in tmp_path.iterdir())
            done = harness("embed", str(source), *options)
            assert done.returncode == 2, done.stderr
            assert "Traceback" not in done.stderr
            assert sorted(path.name for path in tmp_path.iterdir()) == before
            return done.stderr

        return ask

    def test_what_the_model_cannot_do(self, refused):
        for option in (("--per-base",), ("--layer", "1")):
            assert "'gc': has no states of bases; leave --per-base and --layer out" in refused(
                "--model", "gc", "--out", "e.npz", *option
            )
        for layer in ("0", "3", "-1"):
            said = refused("--model", "rnafm", *TINY, "--out", "e.npz", "--layer", layer)
            assert f"layer {layer}: rnafm has 1 to 2; leave it out for what the model pools" in said

    def test_where_it_cannot_be_written(self, refused, tmp_path):
        own = ("--model", "gc", "--out")
        assert "expected a name that ends with .parquet, .npz, .zarr" in refused(*own, "e.csv")
        assert "there is no folder" in refused(*own, "none/e.npz")
        (tmp_path / "e.npz").write_text("mine")
        assert "exists; choose another name, or --force to replace it" in refused(*own, "e.npz")
        assert (tmp_path / "e.npz").read_text() == "mine"

    def test_a_package_that_is_not_installed(self, refused, monkeypatch):
        monkeypatch.setattr("harness.inference.embedding_files.find_spec", lambda name: None)
        for ending, package in ((".parquet", "pyarrow"), (".zarr", "zarr")):
            said = refused("--model", "gc", "--out", f"e{ending}")
            assert f"{package} is not installed; pip install 'gfm-harness[variants]', or write .npz" in said

    def test_a_window_that_is_too_long_is_found_before_anything_is_computed(self, refused, tmp_path, monkeypatch):
        monkeypatch.setattr(engine, "_apply", None)
        long = tmp_path / "long.fa"
        long.write_text(">short\nACGT\n>long\n" + "A" * 600 + "\n")
        said = refused("--model", "dnabert1", *TINY, "--out", "e.npz", source=long)
        assert "long.fa" in said
        assert "window of 600 nt: dnabert1 takes at most 515" in said

    def test_bad_input(self, refused, tmp_path):
        own = ("--model", "gc", "--out", "e.npz")
        (tmp_path / "bad.fa").write_text(">a\nAC!T\n")
        assert "bad.fa" in refused(*own, source=tmp_path / "bad.fa")
        (tmp_path / "empty.fa").write_text("")
        assert "empty.fa" in refused(*own, source=tmp_path / "empty.fa")
        assert "none.fa" in refused(*own, source=tmp_path / "none.fa")

    def test_a_full_disk(self, refused, monkeypatch):
        def full(*given, **more):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez", full)
        said = refused("--model", "gc", "--out", "e.npz")
        assert "cannot be written (No space left on device); nothing was kept" in said

    def test_what_breaks_on_the_way_leaves_the_old_file(self, harness, tmp_path, fasta, monkeypatch):
        monkeypatch.setattr(module, "CHUNK", 7)
        for ending in (".parquet", ".npz", ".zarr"):
            out = tmp_path / f"e{ending}"
            call = ("embed", str(fasta), "--model", "rnafm", *TINY, "--per-base", "--force", "--out", str(out))
            assert harness(*call).returncode == 0
            before, calls = read(out), []

            def breaks(*given, calls=calls, **more):
                calls.append(given)
                if len(calls) == 3:
                    raise MemoryError
                return engine.embed_bases(*given, **more)

            with monkeypatch.context() as patched:
                patched.setattr(module, "embed_bases", breaks)
                assert harness(*call).returncode == 1
            assert len(calls) == 3
            after = read(out)
            assert after[0] == before[0]
            assert all(np.array_equal(*pair) for pair in zip(after[1], before[1]))
            assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
            assert harness(*call).returncode == 0


class TestTheCache:
    """Pooled embeddings are computed once, by whoever asks first."""

    @pytest.fixture(autouse=True)
    def _own(self, own_cache):
        pass

    @pytest.fixture
    def counted(self, monkeypatch):
        """How many examples each call computed."""
        calls = []

        def embed(classifier, examples, *given, **more):
            calls.append(len(examples))
            return engine.embed(classifier, examples, *given, **more)

        monkeypatch.setattr(module, "embed_windows", embed)
        return calls

    def table(self, path, part, label=True):
        head = "sequence,label\n" if label else "sequence\n"
        path.write_text(head + "".join(f"{sequence}{f',{number % 2}' if label else ''}\n" for number, sequence in part))
        return str(path)

    def test_a_probe_makes_it_free(self, harness, tmp_path, counted):
        rows = list(enumerate(SEQUENCES.values()))
        parts = [self.table(tmp_path / f"{name}.csv", part) for name, part in (("train", rows[:20]), ("dev", rows[20:26]))]
        parts.append(self.table(tmp_path / "test.csv", rows[26:]))
        probe = ("run", "--model", "rnafm", *TINY, "--tune", "probe")
        done = harness(*probe, "--train", parts[0], "--validation", parts[1], "--test", parts[2])
        assert done.returncode == 0, done.stderr
        # Any mixture of what training and validation embedded, in another order, and without labels.
        mixed = self.table(tmp_path / "mixed.csv", rows[25:3:-2], label=False)
        assert harness("embed", mixed, "--model", "rnafm", *TINY, "--out", "e.npz").returncode == 0
        assert counted == []
        expected = face.embed(model("rnafm"), [sequence for _, sequence in rows[25:3:-2]])
        counted.clear()
        np.testing.assert_allclose(read(tmp_path / "e.npz")[1], expected, atol=1e-5)
        # The test split was never embedded alone, so only this is computed.
        every = self.table(tmp_path / "all.csv", rows, label=False)
        assert harness("embed", every, "--model", "rnafm", *TINY, "--out", "all.npz").returncode == 0
        assert counted == [4]
        assert harness("embed", every, "--model", "rnafm", *TINY, "--out", "all.npz", "--force").returncode == 0
        assert counted == [4]

    def test_what_changes_the_numbers_is_computed_anew(self, harness, fasta, counted):
        for number, more in enumerate([(), ("--seed", "1"), ("--layer", "1"), ("--option", "pooling=cls")], start=1):
            for _ in range(2):
                asked = ("embed", str(fasta), "--model", "rnafm", *TINY, *more, "--out", "e.npz", "--force")
                assert harness(*asked).returncode == 0
                assert counted == [30] * number

    def test_a_damaged_list_is_computed_again(self, harness, tmp_path, fasta, counted):
        asked = ("embed", str(fasta), "--model", "rnafm", *TINY, "--out", "e.npz", "--force")
        assert harness(*asked).returncode == 0
        before = read(tmp_path / "e.npz")[1]
        few = tmp_path / "few.fa"
        few.write_text("".join(f">{name}\n{SEQUENCES[name]}\n" for name in ("s3", "s1", "s2")))
        (array,) = (tmp_path / "cache").rglob("*.npy")
        content = array.read_bytes()
        array.write_bytes(content[:-40] + bytes(8) + content[-32:])
        assert harness("embed", str(few), *asked[2:]).returncode == 0
        assert counted == [30, 3]
        np.testing.assert_allclose(read(tmp_path / "e.npz")[1], [before[3], before[1], before[2]], atol=1e-5)


class TestInPython:
    def test_spellings_and_windows(self):
        found = face.embed(model("cnn"), ["acgu", Window("ACGT"), "ACGT"])
        assert found.shape == (3, 16)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[1:], found[[0, 0]], atol=1e-6)

    def test_it_is_what_the_model_pools(self):
        adapter, windows = model("caduceus"), random_windows(5, (10, 30))
        with torch.inference_mode():
            expected = torch.cat([adapter(adapter.collate([window])) for window in windows])
        np.testing.assert_allclose(face.embed(adapter, windows, batch_size=2), expected, atol=1e-5)

    def test_nothing_and_one(self):
        assert face.embed(model("cnn"), []).shape == (0, 16)
        assert face.embed(model("cnn"), [], per_base=True) == []
        with pytest.raises(UserError, match="one alone; give a list of them"):
            face.embed(model("cnn"), "ACGT")

    def test_mistakes_are_named(self):
        adapter = model("dnabert1")
        for sequence, words in (("", "sequence 1: ''"), ("AC!", "sequence 1: letters '!'"), (None, "sequence 1: 'None'")):
            with pytest.raises(BadData, match=words):
                face.embed(adapter, ["ACGTACGT", sequence])
        with pytest.raises(BadData, match="sequence 1: window of 600 nt: dnabert1 takes at most 515"):
            face.embed(adapter, ["ACGTACGT", "A" * 600])
        with pytest.raises(UserError, match="layer 9: dnabert1 has 1 to 2"):
            face.embed(adapter, ["ACGTACGT"], layer=9)

    def test_the_model_is_left_as_it_was(self):
        adapter = model("cnn").train()
        state = torch.get_rng_state()
        face.embed(adapter, ["ACGT"] * 3, per_base=True)
        assert adapter.training
        assert torch.equal(torch.get_rng_state(), state)
