"""Runs on Slurm: what sbatch is told, and jobs as real processes through submitit's local executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from harness.errors import UserError
from harness.evidence.records import FAILED, RunRecord
from harness.study import on_slurm
from harness.study.claims import holders
from harness.study.on_slurm import Element, logs, parse_options, submit
from harness.study.plan import Run, plan
from harness.study.run import record_failure, recorded
from harness.study.sweep import note_plan
from harness.study.work import AGAIN, Worker

submitit = pytest.importorskip("submitit", reason="needs submitit: pip install 'gfm-harness[slurm]'")

TIMEOUT = 120  # seconds, on a busy machine


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Jobs import this checkout and compute with one thread, as the cluster would give them one CPU."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    for name in on_slurm.THREADS:
        monkeypatch.setenv(name, "1")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def sbatch(tmp_path, monkeypatch) -> Path:
    """Commands of a cluster that only note what they are asked for; the folder of their notes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, answer in (("sbatch", 'cp "$1" ' + str(folder / "script") + "; echo Submitted batch job 4711"), ("srun", ":")):
        (folder / name).write_text(f"#!/bin/bash\n{answer}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def until(true: Callable[[], object]) -> None:
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < TIMEOUT
        time.sleep(0.1)


# --- what sbatch is told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("--gres=gpu:1 --time=4:00:00", {"gres": "gpu:1", "time": "4:00:00"}),
        ("--gres gpu:1 --exclusive --mem 8G", {"gres": "gpu:1", "exclusive": True, "mem": "8G"}),
        ("-p gpu -t30 -c 4 -H", {"partition": "gpu", "time": "30", "cpus_per_task": "4", "hold": True}),
        ("--comment='two words' --no-requeue", {"comment": "two words", "no_requeue": True}),
        ("--constraint='a100|h100' --mail-type=END", {"constraint": "a100|h100", "mail_type": "END"}),
    ],
)
def test_the_options_of_sbatch_are_read_as_in_a_shell(text, found):
    assert parse_options(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--array=0-9", r"--array: is set by the harness; leave it out: --jobs says how many jobs there are"),
        ("-a 0-9", r"--array: is set"),
        ("--gres=gpu:1 -n 4", r"--ntasks: is set"),
        ("--output=/tmp/x", r"--output: .*the logs lie in the results folder"),
        ("--signal=USR1@5", r"--signal: .*are warned 60 s before"),
        ("gpu", r"'gpu' is no option of sbatch; write it as --name=value"),
        ("--time=5 gpu", r"'gpu' is no option"),
        ("-- x", r"'--' is no option"),
        ("--comment='open", r"no closing quotation; quote it as in a shell"),
    ],
)
def test_options_that_would_contradict_the_array_or_are_none_are_refused(text, said):
    with pytest.raises(UserError, match=said) as refused:
        parse_options(text)
    assert "\n" not in str(refused.value)


def test_the_script_has_the_users_options_and_no_others_of_submitits(sbatch, tmp_path):
    runs = plan("gc", "QKI", seed=[0, 1, 2], device="cpu")
    assert submit(runs, tmp_path / "results", options="--gres=lscratch:1 -J mine -c4", jobs=3) == ["4711_0", "4711_1", "4711_2"]
    script = (sbatch / "script").read_text().splitlines()
    given = {line.removeprefix("#SBATCH ") for line in script if line.startswith("#SBATCH")}
    folder = logs(tmp_path / "results")
    assert given == {
        "--array=0-2%3",
        "--cpus-per-task=4",
        "--error=" + str(folder / "%A_%a_0_log.err"),
        "--gres=lscratch:1",
        "--job-name=mine",
        "--nodes=1",
        "--open-mode=append",
        "--output=" + str(folder / "%A_%a_0_log.out"),
        "--signal=USR2@60",
    }
    setup = "\n".join(line for line in script if line.startswith("export"))
    asked = f"{setup}\necho $SRUN_CPUS_PER_TASK $OMP_NUM_THREADS $NUMBA_NUM_THREADS"
    cluster = {"PATH": os.environ["PATH"], "SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "4"}
    for own, threads in (({}, "4 4 4"), ({"OMP_NUM_THREADS": "2"}, "4 2 4")):
        told = subprocess.run(["bash", "-c", asked], env=cluster | own, capture_output=True, text=True, check=True)
        assert told.stdout.split() == threads.split()


@pytest.mark.parametrize("options", ["--gres=gpu:a100:1", "-G 1", "--gpus-per-node=2"])
def test_gpus_for_runs_that_use_none_are_refused(sbatch, tmp_path, options):
    """A login node has no GPU as a rule, so runs are planned for its CPU unless the user says otherwise."""
    with pytest.raises(UserError, match="asks for GPUs, but the runs are planned for the CPU; add --device cuda"):
        submit(plan("gc", "QKI", device="cpu"), tmp_path / "results", options=options)
    runs = plan("gc,cnn", "QKI", device="cuda", elsewhere=True)
    assert {(run.device, run.precision) for run in runs} == {("cuda", "bf16")}
    assert submit(runs, tmp_path / "results", options=options) == ["4711"]


def test_what_sbatch_says_is_said(sbatch, tmp_path):
    (sbatch / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: gpux' >&2; exit 1\n")
    with pytest.raises(UserError, match=r"slurm '-p gpux': sbatch: error: invalid partition specified: gpux; change --slurm"):
        submit(plan("gc", "QKI", device="cpu"), tmp_path / "results", options="-p gpux")


def test_a_machine_without_slurm_or_submitit_is_told_what_to_do(sbatch, tmp_path, monkeypatch):
    runs = plan("gc", "QKI", device="cpu")
    with monkeypatch.context() as changed:
        changed.setitem(sys.modules, "submitit", None)
        with pytest.raises(UserError, match=r"pip install 'gfm-harness\[slurm\]'"):
            submit(runs, tmp_path / "results")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="no sbatch; use a login node"):
        submit(runs, tmp_path / "results")
    with pytest.raises(UserError, match="jobs 0"):
        submit(runs, tmp_path / "results", jobs=0)
    assert not (tmp_path / "results").exists()


# --- jobs ------------------------------------------------------------------------------------------------------------


def same(run: Run, results: Path, others: Path) -> RunRecord:
    """The record of a run, which has to equal that in another folder."""
    ours, theirs = recorded(run, results), recorded(run, others)
    assert ours is not None
    assert theirs is not None
    assert (ours.error, ours.metrics) == (None, theirs.metrics)
    files = [folder / ours.folder / "predictions.csv" for folder in (results, others)]
    assert files[0].read_bytes() == files[1].read_bytes()
    return ours


@pytest.mark.slow
def test_two_jobs_do_all_runs_once(one_thread, tmp_path):
    runs = plan("gc,kmer", "QKI", seed=[0, 1], device="cpu")
    ids = submit(runs, tmp_path / "results", jobs=2, executor="local")
    assert len(ids) == 2
    until(lambda: all(recorded(run, tmp_path / "results") for run in runs))
    until(lambda: len(list(logs(tmp_path / "results").glob("*_result.pkl"))) == 2)
    Worker(tmp_path / "near").work(runs)
    for run in runs:
        same(run, tmp_path / "results", tmp_path / "near")
    said = "".join(path.read_text() for path in logs(tmp_path / "results").glob("*_log.out"))
    assert said.count(": finished") == 4
    assert list(holders(tmp_path / "results")) == []


def test_a_failed_run_is_tried_once_more_by_all_jobs_together(tmp_path):
    (run,) = plan("gc", "QKI", device="cpu")
    run = Run.from_json(run.to_json() | {"code": "0" * 64})  # fails whenever it is tried
    earlier = record_failure(run, tmp_path, "the disk was full")
    plan_file = str(note_plan([run], tmp_path))
    for since in ("", earlier.created):  # not to be retried, or tried since then by another job
        assert Element(plan_file, str(tmp_path), since)() == 0
    assert submit([run], tmp_path, executor="local") == []
    assert Element(plan_file, str(tmp_path), "9999")() == 1
    found = recorded(run, tmp_path)
    assert found is not None
    assert found.status == FAILED
    assert "the code changed" in str(found.error)


@pytest.mark.slow
def test_a_job_that_is_warned_saves_ends_with_again_and_goes_on_when_it_is_requeued(one_thread, tmp_path, sbatch):
    """As on a cluster: ``squeue`` calls the job running, ``scontrol requeue`` starts it again."""
    results, noted = tmp_path / "results", sbatch / "asked"
    for name, answer in (("squeue", "echo RUNNING"), ("scontrol", "true")):
        (sbatch / name).write_text(f'#!/bin/bash\necho {name} "$@" >>{noted}\n{answer}\n')
        (sbatch / name).chmod(0o755)
    (run,) = plan("cnn", "QKI", epochs=8, patience=8, device="cpu")
    element = Element(str(note_plan([run], results)), str(results))
    code = (
        "import sys; from harness.engine import resume; resume.MIN_SECONDS, resume.MAX_SHARE = 0.1, 1.0\n"
        f"from harness.study.on_slurm import Element; print(Element({element.plan!r}, {element.results!r})())"
    )
    job = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "1", "SUBMITIT_EXECUTOR": "slurm"}
    command = [sys.executable, "-c", code]
    first = subprocess.Popen(command, env=os.environ | job, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    until(lambda: list((results / ".study" / "states").glob("*.safetensors")))
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=TIMEOUT)
    assert first.returncode == AGAIN, said
    assert "SIGTERM: requeued, to go on from the last saved epoch" in said
    assert noted.read_text().splitlines() == ["squeue --noheader --jobs=11_1 --format=%T", "scontrol requeue 11_1"]
    assert list(holders(results)) == []
    assert recorded(run, results) is None
    again = subprocess.run(command, env=os.environ | job, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "1")
    Worker(tmp_path / "near").work([run])
    assert same(run, results, tmp_path / "near").timing["resumed"]


@pytest.mark.parametrize(
    ("number", "state", "progress", "code", "requeued", "said"),
    [
        (signal.SIGTERM, "RUNNING", False, AGAIN, True, "requeued"),  # preempted
        (signal.SIGTERM, "CANCELLED", True, AGAIN, False, "whoever does the run next"),  # scancel
        (signal.SIGTERM, "COMPLETING", True, AGAIN, False, "whoever does the run next"),  # scontrol requeue
        (signal.SIGTERM, "", True, AGAIN, False, "whoever does the run next"),  # no answer
        (signal.SIGUSR2, "RUNNING", True, AGAIN, True, "requeued"),  # the time limit
        (signal.SIGUSR2, "RUNNING", False, 1, False, "longer --time"),  # which would never be enough
    ],
)
def test_a_job_is_requeued_where_slurm_has_not_decided_otherwise_and_it_helps(
    number, state, progress, code, requeued, said, monkeypatch, capsys
):
    asked = []
    monkeypatch.setattr(on_slurm, "_state", lambda: state)
    monkeypatch.setattr(on_slurm, "_requeue", lambda: asked.append("requeue"))
    log = on_slurm.Log()
    log.progress = progress
    with pytest.raises(SystemExit) as ended:
        Element("", "")._stopped(number, log)
    assert (ended.value.code, bool(asked)) == (code, requeued)
    assert said in capsys.readouterr().out


def test_a_job_that_cannot_be_requeued_says_how_to_go_on(sbatch, monkeypatch, capsys):
    (sbatch / "scontrol").write_text("#!/bin/bash\nexit 1\n")
    (sbatch / "scontrol").chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    log = on_slurm.Log()
    log.progress = True
    with pytest.raises(SystemExit) as ended:
        Element("", "")._stopped(signal.SIGUSR2, log)
    assert ended.value.code == AGAIN
    assert "run the same line again" in capsys.readouterr().out


@pytest.mark.slow
def test_the_local_executor_starts_a_requeued_job_again(tmp_path):
    """submitit's own mechanism, with a real signal to a real job."""
    (run,) = plan("cnn", "QKI", epochs=8, patience=8, device="cpu")
    results = tmp_path / "results"
    submit([run], results, executor="local")
    until(lambda: "epoch 2:" in "".join(path.read_text() for path in logs(results).glob("*_log.out")))
    (holder,) = holders(results)
    os.kill(holder.process, signal.SIGUSR2)
    until(lambda: [one.process for one in holders(results)] != [holder.process])
    until(lambda: recorded(run, results))
    (log,) = logs(results).glob("*_log.out")
    assert "SIGUSR2: requeued" in log.read_text()
    found = recorded(run, results)
    assert found is not None
    assert found.finished
