"""The command line as a user meets it, in an empty folder; a few tests start the real program."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from dataclasses import fields
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import motif_examples, start

from harness import registry
from harness.evidence import records as results
from harness.evidence import tables
from harness.recipe import Recipe

FAST = ("--init", "random:tiny", "--epochs", "1")


def two_files(folder: Path, count: int = 40) -> tuple[str, str]:
    """FASTA files of windows with and without a motif, as the words of --task."""
    for name, label in (("pos.fa", 1), ("neg.fa", 0)):
        records = [example for example in motif_examples(2 * count, 30) if example.label == label]
        (folder / name).write_text("".join(f">{example.id}\n{example.windows[0].sequence}\n" for example in records))
    return "./pos.fa", "./neg.fa"


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear line, exit code 2, no traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last


class TestLook:
    def test_the_program_starts_and_lists_are_whole(self, harness, tmp_path):
        out, err = start("harness", "--help", folder=tmp_path).communicate(timeout=60)
        assert "run" in out, err
        models = harness("list", "models").stdout
        assert all(name in models for name in ("msamamba", "kmer (floor)", "OpenReview"))
        tasks = harness("list", "tasks").stdout
        assert all(name in tasks for name in ("QKI", "GTF2F1", "thesis, published", "harness data get QKI"))

    def test_show_tells_all_of_a_model_or_task(self, harness, tmp_path):
        shown = harness("show", "dnabert1").stdout
        assert all(
            text in shown for text in ("Ji et al. 2021", "long='refuse' (str)", "learning_rate 0.0002", "zhihan1996/DNA_bert_6")
        )
        shown = harness("show", "clinvar").stdout
        assert all(text in shown for text in ("assembly", "hg38", "citation", "chromosome, position", "not here", "SIMULATED"))
        refused(harness("show", "QKJ"), "unknown model or task 'QKJ'", "did you mean QKI")
        (tmp_path / "broken.py").write_text("def f(:")
        refused(harness("show", "./broken.py"), "broken.py", "not Python")

    def test_doctor(self, harness):
        done = harness("doctor")
        assert done.returncode == 0, done.stderr
        assert "bf16" in done.stdout
        assert "selective_scan: cpu (compiled by Numba)" in " ".join(done.stdout.split())

    def test_wrong_usage(self, harness):
        for arguments in (("rum",), ("run", "--model", "kmer"), ("run", "--model", "kmer", "--task", "QKI", "--epochs", "many")):
            done = harness(*arguments)
            assert done.returncode == 2
            assert "Traceback" not in done.stderr


class TestRun:
    def test_sample_run_makes_a_record_and_tables(self, harness, tmp_path):
        done = harness("run", "--model", "msamamba", "--task", "QKI", *FAST)
        assert done.returncode == 0, done.stderr
        assert "SIMULATED" in done.stderr
        assert "best possible" in done.stdout
        (record,) = results.read_all(tmp_path / "results")
        assert (record.task["name"], record.task_label) == ("QKI", "QKI (sample)")
        assert record.task["simulated"]
        assert record.model["notes"] == ["no alignment at hand: each window is read as an alignment of one row"]
        assert record.recipe["epochs"] == 1
        assert sum(record.task["counts"]["train"].values()) == 2400
        predictions = results.read_predictions(tmp_path / "results" / record.folder)
        assert results.judge(predictions)[0] == pytest.approx(record.metrics)
        table = harness("table", "--format", "markdown")
        assert "QKI (sample)" in table.stdout
        assert "msamamba" in table.stdout
        assert {path.stem for path in (tmp_path / "results/tables").iterdir()} == {*tables.WIDE, "summary"}

    def test_the_same_run_twice_is_the_same_record_bit_for_bit(self, harness, tmp_path):
        task = two_files(tmp_path)
        command = ("run", "--model", "msamamba", "--task", *task, *FAST, "--precision", "float32", "--quiet")
        for folder in ("a", "b"):
            assert harness(*command, "--results", folder).returncode == 0
        one, other = (results.read_all(tmp_path / folder)[0] for folder in ("a", "b"))
        assert (one.run_id, one.metrics) == (other.run_id, other.metrics)
        first, second = (tmp_path / folder / one.folder / "predictions.csv" for folder in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
        again = harness(*command[:-1], "--results", "a")
        assert "recorded already" in again.stderr
        assert len(results.read_all(tmp_path / "a")) == 1

    def test_probe_embeds_each_window_once(self, harness, tmp_path):
        task = two_files(tmp_path)
        command = ("run", "--model", "msamamba", "--task", *task, "--init", "random:tiny", "--tune", "probe", "--quiet")
        cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
        for folder in ("a", "b"):
            done = harness(*command, "--results", folder, **cache)
            assert done.returncode == 0, done.stderr
        one, other = (results.read_all(tmp_path / folder)[0] for folder in ("a", "b"))
        assert one.metrics == other.metrics
        assert one.model["parameters"]["trainable"] < 100
        assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2

    def test_a_checkpoint_that_lacks_tensors_needs_the_user_to_say_so(self, harness, tmp_path):
        state = registry.adapter_class("msamamba").from_checkpoint(size="tiny").state_dict()
        del state["layers.1.norm3.scale"]
        torch.save(state, tmp_path / "part.pt")
        command = ("run", "--model", "msamamba", "--task", *two_files(tmp_path), "--epochs", "1", "--checkpoint", "part.pt")
        refused(harness(*command), "layers.1.norm3.scale", "tensors match")
        done = harness(*command, "--allow-partial")
        assert done.returncode == 0, done.stderr
        assert "partial weights: 1 of" in done.stderr
        (record,) = results.read_all(tmp_path / "results")
        assert record.model["audit"]["missing"] == ["layers.1.norm3.scale"]
        assert record.model["allow_partial"]

    def test_own_files_and_all_floors(self, harness, tmp_path):
        task = two_files(tmp_path)
        done = harness("run", "--model", "floors", "--task", *task, "--seed", "1", "--seed", "2")
        assert done.returncode == 0, done.stderr
        records = results.read_all(tmp_path / "results")
        assert {(record.model["name"], record.seed) for record in records} == {
            (name, seed) for name in ("cnn", "gc", "kmer") for seed in (1, 2)
        }
        assert {record.task["name"] for record in records} == {"pos+neg"}

    def test_lists_of_models_and_tasks(self, harness, tmp_path):
        command = ("run", "--model", "gc,kmer", "--model", "gc", "--task", "QKI", "--task", "PTBP1,ILF3", "--quiet")
        assert harness(*command).returncode == 0
        found = {(record.model["name"], record.task["name"]) for record in results.read_all(tmp_path / "results")}
        assert found == {(model, task) for model in ("gc", "kmer") for task in ("QKI", "PTBP1", "ILF3")}

    def test_an_option_of_one_value_that_is_given_twice_is_refused(self, harness):
        command = ("run", "--model", "cnn", "--task", "QKI")
        for twice in (
            ("--results", "a", "--results=b"),
            ("--lr", "1e-3", "--learning-rate", "1e-4"),
            ("--split", "a", "--split", "b"),
        ):
            refused(harness(*command, *twice), "is given 2 times, and takes one value; give it once")
        refused(harness("table", "--metric", "f1", "--metric", "auroc"), "--metric is given 2 times")

    def test_every_setting_of_a_recipe_is_an_option(self, harness, tmp_path):
        shown = harness("run", "--help").stdout
        for item in fields(Recipe):
            assert re.search(rf"--{item.name.replace('_', '-')}[ ,]", shown)
        given = ("--tune", "lora", "--lora-rank", "2", "--lora-alpha", "4", "--betas", "0.8", "0.95", "--epochs", "1")
        done = harness("run", "--model", "msamamba", "--task", *two_files(tmp_path), "--init", "random:tiny", *given)
        assert done.returncode == 0, done.stderr
        (record,) = results.read_all(tmp_path / "results")
        assert (record.recipe["lora_rank"], record.recipe["lora_alpha"], record.recipe["betas"]) == (2, 4, [0.8, 0.95])

    def test_a_failed_run_is_a_record(self, harness, tmp_path):
        done = harness("run", "--model", "cnn", "--task", "QKI", *FAST, "--learning-rate", "1e30", "--clip", "1e30")
        assert done.returncode == 1
        (record,) = results.read_all(tmp_path / "results")
        assert not record.finished
        assert "lower --learning-rate" in record.error
        assert "failed" in harness("table").stdout

    def test_kill_leaves_no_half_record(self, tmp_path):
        process = start(
            *("harness", "run", "--model", "cnn", "--task", "QKI", "--epochs", "500", "--patience", "500"),
            folder=tmp_path,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs inherit it ignored
        )
        for line in process.stderr:
            if "after epoch 1" in line:
                break
        process.send_signal(signal.SIGINT)
        process.wait(30)
        assert process.returncode != 0
        assert not list(tmp_path.glob("results/**/record.json"))

    @pytest.mark.slow
    def test_two_processes_train_one_model(self, tmp_path):
        """`accelerate launch` (on CPUs: torchrun) needs no other code: each process sees its share, one writes the record."""
        command = ("run", "--model", "msamamba", "--task", *two_files(tmp_path), "--init", "random:tiny", "--epochs", "2")
        launched = ("torch.distributed.run", "--nproc_per_node", "2", "-m", "harness", *command, "--device", "cpu")
        process = start(*launched, folder=tmp_path)
        _, err = process.communicate()
        assert process.returncode == 0, err[-2000:]
        (record,) = results.read_all(tmp_path / "results")
        assert record.environment["processes"] == 2
        assert len(record.history) == 2
        assert len(results.read_predictions(tmp_path / "results" / record.folder).ids) == 16


class TestBadInput:
    """One line that names the argument, the value and the remedy; exit code 2; nothing written."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--model", "kmers", "--task", "QKI"), ("unknown model 'kmers'", "did you mean kmer")),
            (("--model", "kmer", "--task", "QKJ"), ("unknown task 'QKJ'", "did you mean QKI")),
            (("--model", "kmer", "--task", "QKI", "--split", "thesys"), ("unknown split of QKI 'thesys'", "thesis")),
            (("--model", "kmer", "--task", "QKI", "--no-sample"), ("3 of 3 files", "harness data get QKI")),
            (("--model", "kmer", "--task", "QKI", "--split", "published"), ("harness data get QKI",)),
            (("--model", "kmer", "--task", "none.fa"), ("none.fa", "no such file")),
            (("--model", "kmer", "--task", "QKI", "--tune", "full"), ("kmer has no weights",)),
            (("--model", "cnn", "--task", "QKI", "--learning-rate", "0"), ("learning-rate 0.0",)),
            (("--model", "cnn", "--task", "QKI", "--betas", "0.9", "1"), ("betas (0.9, 1.0)", "at least 0 and below 1")),
            (("--model", "cnn", "--task", "QKI", "--seed", "-1"), ("seed -1",)),
            (("--model", "cnn", "--task", "QKI,a.csv"), ("task 'QKI' and files",)),
            (("--model", "cnn", "--task", "QKI", "--device", "tpu"), ("device 'tpu'",)),
            (("--model", "cnn", "--task", "QKI", "--init", "zeros"), ("init 'zeros'",)),
            (("--model", "cnn", "--task", "QKI", "--init", "random:huge"), ("size 'huge'", "tiny")),
            (("--model", "msamamba", "--task", "QKI", "--option", "layot=column"), ("did you mean layout",)),
            (("--model", "msamamba", "--task", "QKI", "--option", "mask_rows=half"), ("mask_rows='half'", "float")),
            (("--model", "caduceus", "--task", "QKI", *FAST, "--option", "rc_average=maybe"), ("rc_average='maybe'", "bool")),
            (("--model", "msamamba", "--task", "QKI", "--checkpoint", "none.pt"), ("none.pt", "no such file")),
            (("--model", "./none.py", "--task", "QKI"), ("none.py", "no such file")),
        ],
        ids=lambda value: " ".join(value)[:60],
    )
    def test_refused(self, harness, tmp_path, arguments, words):
        refused(harness("run", *arguments), *words)
        assert not (tmp_path / "results").exists()

    def test_results_that_cannot_be_written(self, harness, tmp_path):
        (tmp_path / "file").write_text("")
        refused(harness("run", "--model", "gc", "--task", "QKI", "--results", "file/results"), "file/results", "--results")

    def test_one_class_too_few_windows_and_wrong_columns(self, harness, tmp_path):
        (tmp_path / "one.csv").write_text("sequence,label\n" + "ACGT,1\n" * 9)
        (tmp_path / "few.csv").write_text("sequence,label\n" + "ACGT,1\n" * 9 + "ACGG,0\n")
        (tmp_path / "columns.csv").write_text("dna,outcome\nACGT,1\n")
        for name in ("one.csv", "few.csv", "columns.csv"):
            refused(harness("run", "--model", "gc", "--task", name), name)
        assert not (tmp_path / "results").exists()


class TestData:
    def test_get_path_verify(self, harness, tmp_path, shared):
        """From a mirror on this machine: everything but the public host itself."""
        source = tmp_path / "www" / "raw.githubusercontent.com/maxlwnii/tapt/9030fac23f1d7b5a524753fda6a3e1e96b11be1d/DNABERT2"
        source.mkdir(parents=True)
        (source / "data").symlink_to(shared / "data/rbp")
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path / "www")))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = {"HARNESS_MIRROR": f"http://127.0.0.1:{server.server_port}"}
        try:
            assert harness("data", "verify", "QKI").returncode == 1
            done = harness("data", "get", "QKI", **mirror)
            assert done.returncode == 0, done.stderr
            assert "3 files are in" in done.stderr
            verified = harness("data", "verify", "QKI")
            assert (verified.returncode, verified.stdout.count("\tok")) == (0, 3)
            path = Path(harness("data", "path", "QKI").stdout.splitlines()[0])
            assert path.is_file()
            assert harness("run", "--model", "gc", "--task", "QKI", "--no-sample", "--quiet").returncode == 0
            record = json.loads(next(tmp_path.glob("results/QKI/gc/*/record.json")).read_text())
            assert record["task"]["counts"]["test"] == {"unbound": 404, "bound": 403}
            path.write_text(path.read_text() + "A,1\n")
            refused(harness("run", "--model", "kmer", "--task", "QKI"), "sha256", "harness data get QKI")
        finally:
            server.shutdown()

    def test_no_network(self, harness, monkeypatch):
        monkeypatch.setattr("harness.files.sources.PAUSE", 0.0)
        done = harness("data", "get", "QKI", HARNESS_MIRROR="http://127.0.0.1:9")
        assert done.returncode == 1
        assert "check the network" in done.stderr
        assert "Traceback" not in done.stderr


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass
