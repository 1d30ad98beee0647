"""A damaged or foreign results folder: what can be read makes the table, the rest is named, nothing breaks down."""

import copy
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from made_records import checkpoint, record

from harness.evidence import records, schema, tables
from harness.evidence.records import MAX_FAULTS, read, read_all, write
from harness.task import CLASSIFICATION

RUN = Path("QKI", "cnn", "seed0-0000000000")
GOOD = "kmer (floor)"
VALUES = [None, True, -1, 1.5, 1e300, 10**30, float("nan"), "text", "", [], [None], {}, {"a": {"b": []}}, "\ud800"]


def full_record(**changes):
    """A record in which every section is filled."""
    scores = {"mean_change": 0.1, "auroc": 0.7, "accuracy": 0.8}
    return record(
        **{
            "model": "cnn",
            "checkpoint": checkpoint(),
            "environment": {"device": "cpu", "device_name": "EPYC", "precision": "bf16", "versions": {"python": "3.11"}},
            "intervals": {"accuracy": (0.7, 0.95)},
            "leakage": {
                "counts": {"none": 3, "near": 1, "overlap": 0, "exact": 1},
                "parameters": {"identity": 0.8},
                "subsets": {
                    "novel": {"examples": 3, "metrics": {"accuracy": 0.7}, "intervals": {"accuracy": [0.5, 0.8]}},
                    "leaking": {"examples": 2, "metrics": {"auroc": None}, "intervals": {"auroc": None}},
                },
            },
            "alignment": {"examples": 5, "intact": {"auroc": 0.9}, "blanked": scores, "shuffled": scores},
            "history": [{"epoch": 1, "validation_log_loss": 0.5}],
            "events": ["out of memory: batch 16 → 8"],
            "counts": {part: {"unbound": 5, "bound": 5} for part in ("train", "validation", "test")},
            "main_metric": "accuracy",
            "question": "0123",
        }
        | changes
    )


@pytest.fixture
def results(tmp_path):
    """A results folder with a good record and one to be damaged."""
    write(record(model="kmer"), None, tmp_path)
    assert write(full_record(), None, tmp_path) == tmp_path / RUN
    return tmp_path


def paths(value, path=()):
    """Every place in a JSON value."""
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(item, (*path, key))


def mutations(content):
    """Copies of a record's JSON with each place deleted, or given each of VALUES."""
    for path in paths(content):
        for value in ["delete", *VALUES]:
            changed = copy.deepcopy(content)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            if value == "delete":
                del holder[path[-1]]
            else:
                holder[path[-1]] = value
            yield ".".join(map(str, path)), changed


def test_any_change_of_a_field_is_refused_by_name_or_makes_a_table(results):
    """All places of a full record × all values: a record that is accepted goes through every table."""
    path, good = results / RUN / "record.json", read(results / "QKI/kmer/seed0-0000000000")
    content = json.loads(path.read_text())
    accepted, refused = [], {}
    for place, changed in mutations(content):
        path.write_text(json.dumps(changed))
        try:
            accepted.append(read(path.parent))
        except records.BadData as error:
            refused[place] = str(error)
    assert len(accepted) > 500
    assert all(message.startswith(str(path)) and "\n" not in message for message in refused.values())
    assert set(schema.REQUIRED) | set(schema.REQUIRED_OF[CLASSIFICATION]) <= set(refused)
    for odd in accepted:
        tables._table([good, odd], None, "model,task", None, False, True).to_frame()
    everything = [good, *accepted]
    for metric in ("accuracy", "auroc"):
        table = tables.wide(everything, metric, all_settings=True)
        assert GOOD in str(table)
        assert table._repr_html_()
    tables.long(everything, "f1", ["model", "device"])
    tables.write_tables(results, everything)


def broken(text):
    return lambda path: (path / "record.json").write_text(text)


def instead(make):
    """Something else where a path was."""

    def change(path):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    return change


def in_place_of_the_record(make):
    return lambda path: instead(make)(path / "record.json")


def edited(**fields):
    def change(path):
        content = json.loads((path / "record.json").read_text())
        (path / "record.json").write_text(json.dumps(content | fields))

    return change


def as_socket(path):
    where = os.getcwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(where)


def large(path):
    with open(path / "record.json", "ab") as file:
        file.truncate(records.MAX_RECORD_BYTES + 1)


FAULTS = {
    "an empty file": broken(""),
    "no JSON": broken("<html>404</html>"),
    "half of it": lambda path: (path / "record.json").write_text((path / "record.json").read_text()[:500]),
    "a list": broken("[]"),
    "a number": broken("5"),
    "null": broken("null"),
    "an empty object": broken("{}"),
    "another program's": broken('{"schema": "https://json-schema.org", "name": "x"}'),
    "a newer schema": edited(schema=4),
    "a schema that is a list": edited(schema=[2]),
    "no UTF-8": lambda path: (path / "record.json").write_bytes(b"\xff\xfe\x00{"),
    "zero bytes": lambda path: (path / "record.json").write_bytes(b"\0" * 4096),
    "deep lists": broken("[" * 100_000 + "]" * 100_000),
    "deep objects in a record": lambda path: edited(extra=json.loads('{"a":' * 50 + "1" + "}" * 50))(path),
    "very deep objects": broken('{"a":' * 100_000),
    "a number of 5,000 digits": lambda path: (path / "record.json").write_text('{"seed": ' + "9" * 5000 + "}"),
    "NaN": lambda path: (path / "record.json").write_text(
        (path / "record.json").read_text().replace('"accuracy": 0.9', '"accuracy": NaN')
    ),
    "too large": large,
    "a run id with a path": edited(run_id="../../../up"),
    "escape sequences in a type": edited(seed="\x1b[31mred\nline"),
    "a named pipe": in_place_of_the_record(os.mkfifo),
    "a socket": in_place_of_the_record(as_socket),
    "a device": in_place_of_the_record(lambda path: path.symlink_to("/dev/zero")),
    "a folder": in_place_of_the_record(Path.mkdir),
    "a link to itself": in_place_of_the_record(lambda path: path.symlink_to(path)),
    "a link to nothing": in_place_of_the_record(lambda path: path.symlink_to("gone")),
    "no record": lambda path: (path / "record.json").unlink(),
    "a file for the run": instead(lambda path: path.write_text("x")),
    "a pipe for the run": instead(os.mkfifo),
    "a link to itself for the run": instead(lambda path: path.symlink_to(path)),
    "a link upward for the run": instead(lambda path: path.symlink_to("..")),
    "a file for the model": lambda path: instead(lambda it: it.write_text("x"))(path.parent),
    "a link to itself for the model": lambda path: instead(lambda it: it.symlink_to(it))(path.parent),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_on_one_line_and_the_table_is_shown(harness, results, fault):
    FAULTS[fault](results / RUN)
    done = harness("table", "--results", str(results), "--metric", "accuracy")
    assert done.returncode == 0, done.stderr
    assert GOOD in done.stdout
    assert "cnn" not in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("skipped: ")
    assert str(results / "QKI" / "cnn") in line
    assert "\x1b" not in line
    shutil.rmtree(results / "QKI/kmer")
    done = harness("table", "--results", str(results))
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: no records in ")


def test_of_many_faults_the_first_are_named_and_all_are_counted(results, capsys):
    for number in range(20):
        folder = results / "QKI" / "odd" / f"seed{number:02}-1"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text("{}")
    assert len(read_all(results)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MAX_FAULTS + 1
    assert lines[0].startswith(f"skipped: {results / 'QKI/odd/seed00-1/record.json'}")
    assert lines[-1] == f"skipped: 15 more of 20 like these in {results}"


def test_a_folder_or_record_that_may_not_be_read_is_named(results, monkeypatch, capsys):
    listdir = os.listdir

    def guarded(path="."):
        if str(path).endswith("cnn"):
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", guarded)
    assert [made.model["name"] for made in read_all(results)] == ["kmer"]
    assert capsys.readouterr().err == f"skipped: {results}/QKI/cnn: cannot be read (Permission denied)\n"
    monkeypatch.undo()
    monkeypatch.setattr(Path, "read_text", lambda path, **_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert read_all(results) == []
    assert capsys.readouterr().err.count("Permission denied") == 2


def test_what_a_user_keeps_in_the_results_folder_is_let_be(results, capsys):
    (results / "README.md").write_text("mine")
    (results / ".DS_Store").write_text("")
    (results / "QKI" / ".DS_Store").write_text("")
    (results / "QKI" / "cnn" / ".tmp-seed1-1-5@elsewhere-0123abcd").mkdir()
    (results / "tables").mkdir()
    (results / "tables" / "notes.txt").write_text("")
    assert len(read_all(results)) == 2
    assert capsys.readouterr().err == ""


def test_fields_of_a_newer_version_are_kept_and_said(harness, results):
    edited(gpu_hours=3.5, energy={"kWh": 2})(results / RUN)
    (made,) = [made for made in read_all(results) if made.model["name"] == "cnn"]
    assert made.unknown == {"gpu_hours": 3.5, "energy": {"kWh": 2}}
    done = harness("table", "--results", str(results))
    assert done.returncode == 0
    assert "cnn" in done.stdout
    assert "2 fields that this version does not know, kept but not used: energy (in 1), gpu_hours (in 1)" in done.stderr
    again = write(made, None, results)
    assert json.loads((again / "record.json").read_text())["gpu_hours"] == 3.5
    assert read(again) == made


def test_a_copied_run_counts_once(results):
    shutil.copytree(results / RUN, results / RUN.with_name("copy of seed0"))
    frame = tables.summary(read_all(results))
    assert frame.counted.sum() == 2
    assert len(frame) == 3


def test_tables_that_cannot_be_written_are_named_after_the_table_was_shown(harness, results):
    (results / "tables").write_text("in the way")
    done = harness("table", "--results", str(results))
    assert done.returncode == 0
    assert GOOD in done.stdout
    assert done.stderr.strip() == f"{results / 'tables'}: the CSV tables were not written (File exists)"
