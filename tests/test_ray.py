"""Runs on Ray: a real cluster of two nodes on this machine, one of which is killed; without one, what is sent and what comes back."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from harness.errors import UserError
from harness.evidence.records import RunRecord
from harness.inference.trained import load_run
from harness.progress import Board
from harness.study.claims import holders, take
from harness.study.plan import Run, plan
from harness.study.run import recorded
from harness.study.work import Worker

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'gfm-harness[ray]'")

from harness.study import on_ray  # noqa: E402
from harness.study.on_ray import RayPool  # noqa: E402


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without CPUs, and two nodes with one each, with data and cache folders of their own."""
    from ray.cluster_utils import Cluster

    home = tmp_path_factory.mktemp("nodes")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("RAY_USAGE_STATS_ENABLED", "0")
        changed.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        changed.setenv("HARNESS_DATA", str(home / "data"))
        changed.setenv("XDG_CACHE_HOME", str(home / "cache"))
        soon = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}  # a dead node is noticed
        small = {"object_store_memory": 80 << 20, "include_dashboard": False, "_system_config": soon}
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        made.workers = [made.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]  # type: ignore[attr-defined]
        made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


class Listener(Board):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, message: str) -> None:
        self.heard.append(message)

    def start(self, place: int, run: Run) -> None:
        self.heard.append(f"start {place} {run.name}")

    def end(self, place: int) -> None:
        self.heard.append(f"end {place}")


def own_task(folder: Path) -> Path:
    """A file of the user's: windows with and without a motif, enough for a split."""
    folder.mkdir()
    letters = ["ACGT"[(number * 7 + place * place) % 4] for number in range(60) for place in range(20)]
    lines = ["sequence,label"]
    for number in range(60):
        sequence = "".join(letters[number * 20 : number * 20 + 20])
        lines.append(f"{sequence + 'ACGTTT'[: 3 + number % 3] * (1 + number % 2)},{number % 2}")
    path = folder / "mine.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def figures(record: RunRecord) -> list[object]:
    """What a record says of its run but for times and the machine."""
    history = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in record.history]
    return [record.metrics, record.intervals, history, record.task, record.model, record.events, record.leakage]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_no_cluster_is_is_refused_at_once(scheme, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"{scheme}127.0.0.1:{held.getsockname()[1]}"
    with (
        pytest.raises(UserError, match=f"no cluster at {address} .*check RAY_ADDRESS"),
        RayPool(Worker(tmp_path), Board(), address=address),
    ):
        pass


def on_the_node(text: str) -> Callable[..., Any]:
    """A function that Ray sends by its code, as tests cannot be imported on the nodes."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(text, scope)
    return scope["perform"]


def test_what_fails_on_a_node_is_a_failed_record_and_does_not_stop_the_rest(cluster, tmp_path, monkeypatch):
    good, other, elsewhere = plan("gc", "QKI", seed=[0, 1, 2], device="cpu")
    other = Run.from_json(other.to_json() | {"code": "0" * 64})
    held = take(tmp_path, elsewhere)
    assert held is not None
    with held, RayPool(Worker(tmp_path), Listener(), address=cluster.address) as pool:
        for number, run in enumerate((good, other, elsewhere)):
            pool.submit(number, run)
        found = dict(pool.results())
        assert found[0] is not None
        assert found[0].finished
        assert found[1] is not None
        assert "the code changed since the run was planned" in str(found[1].error)
        assert str(found[1].error).startswith(f"on {socket.gethostname()}: ")
        assert found[2] is None  # another process has it
        monkeypatch.setattr(on_ray, "RETRIES", 1)
        for text, said in (
            ("import os\ndef perform(*_): os._exit(1)", "its process or node died 2 times"),
            ("def perform(*_): raise KeyError('lost')", "KeyError: 'lost'"),
        ):
            remote = ray.remote(on_the_node(text))
            monkeypatch.setattr(on_ray, "_remote", lambda remote=remote: remote)
            (run,) = plan("gc", "QKI", seed=[7 + len(said)], device="cpu")
            pool.submit(0, run)
            ((_, record),) = pool.results()
            assert record is not None
            assert said in str(record.error)
            assert recorded(run, tmp_path) == record
    assert list(holders(tmp_path)) == []


def test_leaving_early_cancels_the_tasks_and_releases_the_claims(cluster, tmp_path):
    runs = plan("cnn", "QKI", seed=[0, 1], epochs=500, patience=500, device="cpu")

    def interrupted() -> None:
        with RayPool(Worker(tmp_path), Listener(), address=cluster.address) as pool:
            for number, run in enumerate(runs):
                pool.submit(number, run)
            pool.results = interrupt(pool)  # type: ignore[method-assign]
            for _ in pool.results():
                pass

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(holders(tmp_path)) == []


def interrupt(pool: RayPool) -> Callable[[], Iterator[Any]]:
    """The results of a pool, with Ctrl-C as soon as its tasks are under way."""

    def results() -> Iterator[Any]:
        for number, run in list(pool._queue):
            yield from pool._hand_over(number, run)
        assert len(pool._tasks) == 2
        raise KeyboardInterrupt

    return results


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_run_and_changes_no_number(cluster, one_thread, tmp_path):
    mine = plan("gc", str(own_task(tmp_path / "mine")), device="cpu")
    runs = [*mine, *plan("cnn", "QKI", seed=[0, 1], epochs=4, patience=4, device="cpu")]
    far, near = Worker(tmp_path / "far"), Worker(tmp_path / "near")
    board, ended = Listener(), []
    with RayPool(far, board, cpus=1, address=cluster.address) as pool:
        for number, run in enumerate(runs):
            pool.submit(number, run)
        for number, record in pool.results():
            ended.append(number)
            assert record is not None
            if len(ended) == 1:
                assert len(list(holders(far.results))) == 2  # claimed here as long as they are under way
                cluster.remove_node(cluster.workers[0], allow_graceful=False)  # both are busy
        assert pool.under_way == 0
    assert sorted(ended) == [0, 1, 2]
    assert list(holders(far.results)) == []
    assert sum("has died" in word for word in board.heard) == 1
    assert sum(word.startswith("start") for word in board.heard) == sum(word.startswith("end") for word in board.heard) == 3
    for run, wanted in zip(runs, near.work(runs), strict=True):
        found = recorded(run, far.results)
        assert found is not None
        assert wanted is not None
        assert found.error is None
        assert figures(found) == figures(wanted)
        files = [worker.results / wanted.folder / "predictions.csv" for worker in (far, near)]
        assert files[0].read_bytes() == files[1].read_bytes()
        answers = [load_run(worker.results / wanted.folder, device="cpu").predict(["ACGTTTGA"]) for worker in (far, near)]
        assert (answers[0] == answers[1]).all()
