"""Weight files are read as torch reads them, without its unpickler; what is damaged or hostile is one line."""

from __future__ import annotations

import json
import pickle
import struct
import time
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.errors import BadData, DataMissing, HarnessError
from harness.files.checkpoint import load_tensors, read_tensors, weight_file

KINDS = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def saved(value, path: Path, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, zipped):
    shared = torch.arange(24.0).reshape(4, 6)
    state = {
        **network().state_dict(),
        "transposed": shared.T,
        "row": shared[2],
        "every second": shared[:, ::2],
        "parameter": nn.Parameter(torch.ones(3)),
        "number": torch.tensor(7.0),
        "empty": torch.empty(0),
        "expanded": torch.tensor([1.0]).expand(3),
        **{str(kind): torch.tensor([0, 1, 3]).to(kind) for kind in KINDS},
    }
    file = saved(OrderedDict(state), tmp_path / "a.bin", zipped)
    theirs = torch.load(file, weights_only=True)
    found = read_tensors(file)
    assert equal(found, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in theirs.items()})
    assert {tensor.dtype for tensor in found.values() if tensor.is_floating_point()} == {torch.float32}


def test_the_contents_decide_not_the_name(tmp_path):
    state = network().state_dict()
    save_file(state, tmp_path / "a.bin")
    saved(state, tmp_path / "b.safetensors")
    assert equal(read_tensors(tmp_path / "a.bin"), state)
    assert equal(read_tensors(tmp_path / "b.safetensors"), state)


def test_a_file_without_checksums_is_read(tmp_path):
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes them")
    torch.serialization.set_crc32_options(False)
    try:
        file = saved(network().state_dict(), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(read_tensors(file), network().state_dict())


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda state: {"epoch": 3, "state_dict": state, "optimizer": {0: torch.ones(1)}}, ""),
        (lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"a": torch.ones(1)}}, ""),
        (lambda state: {"pytorch-lightning_version": "2.1", "state_dict": state, "hyper_parameters": {"lr": 1e-4}}, "model."),
        (lambda state: {"module": state, "step": torch.tensor(3)}, "module."),
        (lambda state: state, "module."),
        (lambda state: state, "_orig_mod."),
        (lambda state: state, "module._orig_mod."),
        (lambda state: state, "_orig_mod.module."),
    ],
)
def test_training_loops_wrap_a_model_in_these_ways(tmp_path, wrap, prefix):
    state = network().state_dict()
    file = saved(wrap({prefix + name: tensor for name, tensor in state.items()}), tmp_path / "a.ckpt")
    assert equal(read_tensors(file), state)


def test_a_prefix_that_only_some_names_have_is_the_models_own(tmp_path):
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert equal(read_tensors(saved(state, tmp_path / "a.pt")), state)


def test_shards_are_read_by_their_index(tmp_path):
    state = network().state_dict()
    names = sorted(state)
    index = {name: f"{number % 2}.safetensors" for number, name in enumerate(names)}
    for shard in ("0.safetensors", "1.safetensors"):
        save_file({name: state[name] for name in names if index[name] == shard}, tmp_path / shard)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    assert weight_file(tmp_path) == path
    assert equal(read_tensors(path), state)
    audit = load_tensors(network(), read_tensors(path), path)
    (tmp_path / "1.safetensors").write_bytes((tmp_path / "1.safetensors").read_bytes()[:-1] + b"\x01")
    assert load_tensors(network(), read_tensors(path), path).sha256 != audit.sha256
    path.write_text(json.dumps({"weight_map": index | {"more": "0.safetensors"}}))
    with pytest.raises(BadData, match="more is in none of its files"):
        read_tensors(path)
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(DataMissing, match=r"1 of its 2 files are missing, such as 1\.safetensors"):
        read_tensors(path)
    for wrong in ('{"weight_map": {"a": "../x.bin"}}', '{"weight_map": {"a": 3}}', "[]", '{"weight_map": {}}', "{" * 100_000):
        path.write_text(wrong)
        with pytest.raises(BadData, match="not an index of weight files"):
            read_tensors(path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({0: torch.ones(1)}, "expected a state_dict"),
        ([torch.ones(1)], "expected a state_dict"),
        ({}, "expected a state_dict"),
        (torch.ones(3), "expected a state_dict"),
        ({"a": torch.ones(1), "b": "text"}, "expected a state_dict"),
        ({"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, r"several sets of tensors \(model, ema\)"),
        ({"a": torch.ones(2, 2).to_sparse()}, "holds a sparse tensor, which is not read here"),
        (lambda: {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, "holds a qtensor, which is not read here"),
        ({"a": torch.ones(2, device="meta")}, "holds a meta tensor no storage"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "refused, not run|complex"),
        ({"a": torch.empty(0, 10**15)}, r"a has the shape \(0, 1000000000000000\)"),
        ({"a": np.ones(2)}, r"more than tensors in it \(numpy"),
        ({"a": nn.Linear(1, 1)}, r"more than tensors in it \(torch\.nn"),
        ({"a": Evil(Path("/tmp/never-made"))}, "refused, not run"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # what torch says of the values themselves
def test_what_is_no_model_is_refused_by_what_it_is(tmp_path, value, reason, zipped):
    try:
        file = saved(value() if callable(value) and not isinstance(value, nn.Module) else value, tmp_path / "a.pt", zipped)
    except (RuntimeError, NotImplementedError, pickle.PicklingError):
        pytest.skip("torch itself cannot save this")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's own warnings, for one
        with pytest.raises(BadData, match=reason) as caught:
            read_tensors(file)
    assert str(caught.value).count("\n") == 0
    assert str(file) in str(caught.value)
    assert not Path("/tmp/never-made").exists()


NEST = b")" + b"2\x86" * 60  # a tuple of two tuples of two tuples …: sixty bytes that take 2**60 steps to hash or to write out


def header(entries: dict, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 not a zip",
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        b"\x80\x02}q\x00.",
        b"\x80\x02c__builtin__\neval\n(S'1'\ntR.",
        b"\x80\x02]r\xff\xff\xff\xff.",  # a memo of four billion entries
        b"\x80\x04\x96" + struct.pack("<Q", 1 << 50) + b"x.",  # a petabyte of bytes
        b"\x80\x02}" + NEST + b"Ns.",
        b"\x80\x02}(" + NEST + b"Nu.",
        b"(" + NEST + b"Nd.",
        b"\x80\x04(" + NEST + b"\x91.",
        b"\x80\x04\x8f(" + NEST + b"\x90.",
        b"\x80\x02ccollections\nOrderedDict\n((" + NEST + b"Ntt\x85R.",
        b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + NEST + b"tQ.",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        header({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        header({"a": {"dtype": "F32", "shape": [0, 1 << 60], "data_offsets": [0, 0]}}),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        header({"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        header({"__metadata__": {}}),
        struct.pack("<Q", 1 << 60) + b"{}",
    ],
)
def test_what_is_no_weight_file_is_one_line_and_takes_no_time(tmp_path, content):
    begun = time.process_time()
    for name in ("a.safetensors", "a.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadData, match=rf"checkpoint .*{name}: ") as caught:
            read_tensors(tmp_path / name)
        assert len(str(caught.value)) < 500
    assert time.process_time() - begun < 2


def test_archives_hold_no_more_than_they_say(tmp_path):
    state = {f"t{number}": torch.zeros(1000) for number in range(4)}
    with zipfile.ZipFile(saved(state, tmp_path / "good.pt")) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(BadData, match="is compressed"):
        read_tensors(tmp_path / "bomb.pt")
    for lacking in members:
        if lacking.endswith(("data.pkl", "data/0")):
            with zipfile.ZipFile(tmp_path / "part.pt", "w") as archive:
                for name, content in members.items():
                    if name != lacking:
                        archive.writestr(name, content)
            with pytest.raises(BadData, match="cannot be read as weights"):
                read_tensors(tmp_path / "part.pt")
    # A tensor that claims more than its storage: the pickle's sizes are 1000, as a two-byte number.
    (pickled,) = (name for name in members if name.endswith("data.pkl"))
    for claim in (b"M\xff\xff", b"J\xff\xff\xff\x7f"):
        with zipfile.ZipFile(tmp_path / "claim.pt", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content.replace(b"M\xe8\x03", claim) if name == pickled else content)
        with pytest.raises(BadData, match="cannot be read as weights"):
            read_tensors(tmp_path / "claim.pt")


def mutations(content: bytes, count: int, seed: int):
    """Copies of a file with a few bytes changed, cut out, repeated or cut off."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            at, size = int(rng.integers(len(changed))), int(rng.integers(1, 9))
            match int(rng.integers(5)):
                case 0:
                    changed[at] ^= 1 << int(rng.integers(8))
                case 1:
                    changed[at : at + size] = rng.bytes(size)
                case 2:
                    del changed[at : at + size]
                case 3:
                    changed[at:at] = changed[at : at + size]
                case 4 if rng.random() < 0.3:
                    del changed[at:]
            if not changed:
                break
        yield bytes(changed)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_mutated_file_is_an_error_of_ours_or_the_same_weights(tmp_path, form):
    state = network().state_dict()
    whole = tmp_path / "whole.bin"
    if form == "safetensors":
        save_file(state, whole)
    else:
        saved(state, whole, form == "zip")
    begun, messages = time.process_time(), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for changed in mutations(whole.read_bytes(), 300, seed=1):
            path, model = tmp_path / "changed.bin", network()
            path.write_bytes(changed)
            try:
                load_tensors(model, read_tensors(path), path)
            except HarnessError as error:
                messages.append(str(error))
                continue
            if form == "zip":  # the others have no checksum of their numbers
                assert equal(model.state_dict(), state)
    assert len(messages) > 100
    assert not any("\n" in message for message in messages)
    assert time.process_time() - begun < 30


def test_the_reader_asks_nothing_of_torchs_unpickler(tmp_path, monkeypatch):
    files = [saved(network().state_dict(), tmp_path / f"{zipped}.pt", zipped) for zipped in (True, False)]
    monkeypatch.setattr(torch, "load", lambda *given, **more: pytest.fail("asked"))
    for file in files:
        assert equal(read_tensors(file), network().state_dict())
