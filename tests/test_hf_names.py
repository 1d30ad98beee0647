"""hf:owner/name: fetched from a hub on this machine, listed, planned without torch, and called the same everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import ROOT, random_windows
from made_hf import checkpoint, edit
from test_cli import refused

from harness import plan, registry
from harness.engine.build import request
from harness.errors import DataMissing, UnknownName, UserError
from harness.evidence.records import folder_name, read_all
from harness.files import hub, repository

SHA = "1" * 40


class Hub(BaseHTTPRequestHandler):
    """Serves a folder as the repository owner/tiny: its listing, and its files in parts if asked."""

    folder: ClassVar[Path]
    main = SHA  # the newest commit, of which nothing is served but the listing
    asked: ClassVar[list[str]] = []
    cut: ClassVar[set[str]] = set()  # files whose next answer ends in the middle

    def do_GET(self):
        Hub.asked.append(self.path)
        if self.path.startswith("/api/models/owner/tiny/revision/"):
            siblings = [{"rfilename": "README.md"}, {"rfilename": "onnx/model.onnx"}]
            for file in sorted(self.folder.iterdir()):
                large = (
                    {"lfs": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}} if file.suffix == ".safetensors" else {}
                )
                siblings.append({"rfilename": file.name, "size": file.stat().st_size, **large})
            revision = self.path.split("/revision/")[1].split("?")[0]
            return self.answer(json.dumps({"sha": Hub.main if revision == "main" else revision, "siblings": siblings}).encode())
        file = self.folder / self.path.rsplit("/", 1)[-1]
        if self.path.startswith(f"/owner/tiny/resolve/{SHA}/") and file.is_file():
            return self.answer(file.read_bytes(), file.name)
        self.send_response(401 if "gated" in self.path else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, content, name=""):
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[start:]
        if name in Hub.cut:
            Hub.cut.discard(name)
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return checkpoint("bert", tmp_path_factory.mktemp("tiny") / "bert")


@pytest.fixture(autouse=True)
def served(tiny, tmp_path, monkeypatch):
    """The hub's environment; a folder of its own for weights."""
    Hub.folder, Hub.main, Hub.asked, Hub.cut = tiny, SHA, [], set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HARNESS_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("HARNESS_OFFLINE", raising=False)
    monkeypatch.setattr("harness.files.sources.PAUSE", 0.0)
    yield tmp_path / "weights" / "owner--tiny" / "main"
    server.shutdown()


def test_get_path_verify_list_and_show(harness, served, tiny):
    refused(harness("weights", "path", "hf:owner/tiny"), "harness weights get hf:owner/tiny")
    done = harness("weights", "get", "hf:owner/tiny")
    assert done.stdout.strip() == str(served), done.stderr
    fetched = {file.name for file in served.iterdir() if not file.name.startswith(".")}
    assert fetched == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "SHA256SUMS"}
    assert (served / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert all(f"/resolve/{SHA}/" in path for path in Hub.asked if "resolve" in path)  # one commit, whatever main is meanwhile
    assert harness("weights", "verify", "hf:owner/tiny").returncode == 0
    assert harness("weights", "path", "hf:owner/tiny", HARNESS_OFFLINE="1").stdout.strip() == str(served)
    assert "hf:owner/tiny" in harness("list", "models").stdout
    assert "BertForMaskedLM" in harness("list", "models").stdout
    assert "owner/tiny at main" in harness("show", "hf:owner/tiny").stdout
    (served / "config.json").write_text("{}")
    done = harness("weights", "verify", "hf:owner/tiny")
    assert done.returncode == 1
    assert "wrong checksum" in done.stdout


def test_a_cut_download_is_resumed(served, tiny):
    Hub.cut = {"model.safetensors"}
    assert request("hf:owner/tiny").checkpoint == str(served)
    assert (served / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert Hub.asked.count(f"/owner/tiny/resolve/{SHA}/model.safetensors") == 2
    assert not list(served.glob("*.part"))


def test_files_that_are_fetched_later_are_from_the_same_commit(served):
    """Configuration of one commit and weights of the next would be a model that nobody published."""
    hub.resolve("hf", registry.model_facts("hf").card, "owner/tiny", weights=False)
    assert not (served / "model.safetensors").exists()
    Hub.main = "2" * 40
    assert request("hf:owner/tiny").checkpoint == str(served)
    assert all(f"/resolve/{SHA}/" in path for path in Hub.asked if "resolve" in path)


def test_weights_that_are_not_what_the_hub_lists_are_not_used(served, monkeypatch):
    monkeypatch.setattr(repository, "_facts", lambda file: ("0" * 64 if file["rfilename"].startswith("model") else "", None))
    with pytest.raises(UserError, match=r"not the published 000000000000"):
        request("hf:owner/tiny")
    assert not repository.is_whole(served)


@pytest.mark.parametrize("model", ["hf:owner/none", "hf:gated/tiny", "hf:owner/none@v2"])
def test_missing_and_gated_repositories(harness, model):
    done = harness("run", "--model", model, "--task", "QKI")
    refused(done, f"model {model.partition('@')[0]!r}", "no such repository or file, or a private one, which needs HF_TOKEN")
    assert len(done.stderr.splitlines()) == 1


def test_no_network(harness, served):
    done = harness("run", "--model", "hf:owner/tiny", "--task", "QKI", HF_ENDPOINT="http://127.0.0.1:9")
    refused(done, "cannot be fetched", "check the network")
    done = harness("run", "--model", "hf:owner/tiny", "--task", "QKI", HARNESS_OFFLINE="1")
    refused(done, "HARNESS_OFFLINE is set and owner/tiny is not in", "copy config.json")
    assert not repository.is_whole(served)


def test_a_full_disk_is_noticed_before_the_download(harness, monkeypatch, served):
    monkeypatch.setattr(repository.shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(10, 9, 1))
    refused(harness("run", "--model", "hf:owner/tiny", "--task", "QKI"), "are to be fetched", "HARNESS_WEIGHTS")
    assert not repository.present(served)


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        ({"siblings": [], "sha": SHA}, "has no config.json"),
        (
            {"siblings": [{"rfilename": "config.json"}, {"rfilename": "model.gguf"}], "sha": SHA},
            "has no model.safetensors or pytorch_model.bin, but model.gguf",
        ),
        ({"error": "?"}, "does not list its files"),
        ({"siblings": [{"rfilename": "../config.json"}], "sha": SHA}, "has no config.json"),
        ({"siblings": [{"rfilename": "config.json"}], "sha": "../.."}, "does not list its files"),
    ],
)
def test_listings_that_make_no_model(listing, words):
    with pytest.raises(Exception, match=words):
        repository.parse(listing, "owner/x at main")


def test_which_files_are_fetched():
    names = [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    names += [
        "pytorch_model.bin",
        "tf_model.h5",
        "vocab.txt",
        "modeling_x.py",
        "onnx/model.safetensors",
        "optimizer.pt",
        "training_args.bin",
    ]
    found = repository.parse({"sha": SHA, "siblings": [{"rfilename": name} for name in names]}, "x")
    assert list(found.files) == ["vocab.txt", "config.json", *names[2:4], names[1]]
    assert list(found.without_weights().files) == ["vocab.txt", "config.json"]


@pytest.mark.parametrize(
    "name", ["hf:", "hf:tiny", "hf:owner/", "hf:owner/a/b", "hf:../x", "hf:owner/..", "hf:owner/x@", "hf:own er/x", "cnn:owner/x"]
)
def test_names_that_are_none(name):
    with pytest.raises(UnknownName):
        registry.model_names(name)


def test_names_are_kept_as_the_hub_spells_them():
    assert registry.model_names("hf:AIRI-Institute/GENA_lm.t2t@V1") == ["hf:AIRI-Institute/GENA_lm.t2t@V1"]
    facts = registry.model_facts("HF:AIRI-Institute/GENA_lm.t2t@V1")
    assert (facts.name, facts.card.checkpoint, facts.card.revision) == (
        "hf:AIRI-Institute/GENA_lm.t2t",
        "AIRI-Institute/GENA_lm.t2t",
        "V1",
    )
    assert registry.repository("mine.py") is registry.repository("dnabert1") is None
    folder = folder_name("hf:owner/tiny")
    assert "/" not in folder
    assert ":" not in folder
    assert folder != folder_name("hf:owner-tiny")


class TestRuns:
    def plan(self, model, **asked):
        (run,) = plan(model, "QKI", tune="probe", **asked)
        return run

    def test_a_run_from_the_hub_to_the_table(self, harness, tmp_path):
        lines = [f"{window.sequence},{number % 2}" for number, window in enumerate(random_windows(60))]
        (tmp_path / "mine.csv").write_text("sequence,label\n" + "\n".join(lines))
        command = ("run", "--model", "hf:owner/tiny", "--task", "mine.csv", "--tune", "probe")
        done = harness(*command)
        assert done.returncode == 0, done.stderr
        assert "letters: spaced (upper case, T), as [CLS] … [SEP]; mean of the tokens" in done.stderr + done.stdout
        (record,) = read_all(tmp_path / "results")
        assert record.model["name"] == "hf:owner/tiny"
        assert record.model["card"]["checkpoint"] == "owner/tiny"
        assert record.model["audit"]["facts"]["letters"] == "spaced"
        assert "hf:owner/tiny" in harness("table").stdout
        assert "recorded already" in harness(*command, HARNESS_OFFLINE="1").stderr
        assert harness("verify").returncode == 0

    def test_a_run_that_kept_its_weights_is_a_checkpoint_and_keeps_its_name(self, harness, tmp_path, tiny):
        lines = [f"{window.sequence},{number % 2}" for number, window in enumerate(random_windows(40))]
        (tmp_path / "mine.csv").write_text("sequence,label\n" + "\n".join(lines))
        again = ("run", "--model", "hf", "--task", "mine.csv", "--epochs", "1", "--checkpoint")
        assert harness(*again, str(tiny), "--keep").returncode == 0
        (first,) = read_all(tmp_path / "results")
        folder = str(tmp_path / "results" / first.folder)
        assert harness(*again, folder).returncode == 0
        assert {record.model["name"] for record in read_all(tmp_path / "results")} == {"hf:bert"}
        assert "recorded already" in harness(*again, folder).stderr
        refused(harness(*again, folder, "--option", "pooling=max"), "has options of its own")

    def test_ids_are_of_content_not_of_paths(self, tiny, tmp_path):
        first = self.plan("hf", checkpoint=str(tiny))
        copied = shutil.copytree(tiny, tmp_path / "elsewhere" / "renamed")
        second = self.plan("hf", checkpoint=str(copied))
        assert (first.name, second.name) == ("hf:bert", "hf:renamed")
        assert first.id == second.id
        for file, change in (("config.json", {"layer_norm_eps": 1e-5}), ("tokenizer_config.json", {"x": 1})):
            changed = shutil.copytree(tiny, tmp_path / file)
            edit(changed / file, **change)
            assert self.plan("hf", checkpoint=str(changed)).id != first.id
        assert self.plan("hf", checkpoint=str(tiny), option={"pooling": "max"}).id != first.id

    def test_a_random_twin_needs_no_weights(self, served, tiny, tmp_path):
        run = self.plan("hf:owner/tiny", init="random")
        assert not any(path.endswith(".safetensors") for path in Hub.asked)
        assert (run.name, run.checkpoint, run.options) == ("hf:owner/tiny", None, {"config": "owner/tiny"})
        copied = shutil.copytree(tiny, tmp_path / "copied")
        twin = self.plan("hf", init="random", option={"config": str(copied)})
        assert (twin.name, twin.origin) == ("hf:copied", run.origin)
        adapter = run.model_request().build()
        assert (adapter.name, adapter.audit) == ("hf:owner/tiny", None)
        edit(copied / "config.json", num_hidden_layers=1)
        assert self.plan("hf", init="random", option={"config": str(copied)}).origin != run.origin

    def test_weights_are_named_once(self, tiny):
        with pytest.raises(UserError, match="both name weights"):
            request("hf:owner/tiny", checkpoint=str(tiny))
        with pytest.raises(DataMissing, match="says nothing of the weights"):
            request("hf")
        with pytest.raises(UserError, match="only for random weights"):
            request("hf", checkpoint=str(tiny), options={"config": str(tiny)})
        with pytest.raises(DataMissing, match="no such file or folder"):
            request("hf", init="random", options={"config": "./none"})

    def test_a_hub_id_as_checkpoint_has_the_same_name(self, served):
        assert request("hf", checkpoint="owner/tiny").name == "hf:owner/tiny"
        assert registry.model_names("floors") == ["cnn", "gc", "kmer"]

    def test_planning_imports_neither_torch_nor_transformers(self, tiny, tmp_path):
        plan("hf", "QKI", checkpoint=str(tiny), device="cpu", precision="float32")  # the device is remembered
        code = f"""
import sys
from harness import plan
from harness.cli.main import app
(run,) = plan("hf", "QKI", checkpoint={str(tiny)!r}, device="cpu", precision="float32")
print(run.name, sorted(set(sys.modules) & {{"torch", "transformers", "tokenizers", "peft"}}))"""
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stdout.splitlines() == ["hf:bert []"], done.stderr


def test_the_adapter_without_files_is_a_small_bert_of_letters(harness):
    done = harness("check-adapter", "hf")
    assert done.returncode == 0, done.stdout
    assert harness("check-adapter", "hf", "--checkpoint", str(Hub.folder)).returncode == 0


def test_what_is_on_this_machine_is_listed_but_not_the_weights_of_other_models(tmp_path, tiny, monkeypatch):
    known = registry.model_cards()
    for name in ("owner--mine/main", "zhihan1996--DNABERT-2-117M/main", "half--done/main"):
        shutil.copytree(tiny, tmp_path / "weights" / name)
    (tmp_path / "weights/half--done/main/model.safetensors").unlink()
    assert [hub_id for hub_id, _ in hub.local_repositories(known)] == ["owner/mine"]
