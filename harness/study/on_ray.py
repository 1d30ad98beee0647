"""RayPool: runs on a Ray cluster, one task each. Records and predictions come back as values, so no disk has to be shared."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.engine import keep
from harness.errors import HarnessError, UserError
from harness.evidence import records
from harness.evidence.folders import PREDICTIONS, RECORD, kept_files
from harness.evidence.records import RunRecord
from harness.files.sources import cache_home
from harness.files.workspace import workspace
from harness.progress import Board, Reporter

from .claims import Claim, key_of, state_path, take
from .plan import Run
from .pool import THREADS
from .run import record_failure
from .transport import Parcel, pack, unpack
from .work import MAX_DEATHS, Worker, where_died

RETRIES = 3  # of a run whose process or node dies
AHEAD = 2  # runs that are claimed and handed over before there is room for them
# How a cluster is started on this machine: 256 MB for what is sent. Elsewhere Ray repeats for ever what lacks memory.
OWN: dict[str, Any] = {
    "include_dashboard": False,
    "object_store_memory": 256 << 20,
    "_system_config": {"task_oom_retries": RETRIES},
}
WAIT_SECONDS = 0.5
KNOCK_SECONDS = 10.0
PASSED_ON = ("HARNESS_MIRROR", "HARNESS_OFFLINE", "HF_ENDPOINT")  # if set here, they hold on all nodes


@dataclass
class _Task:
    """A run that was handed over: Ray's reference to its outcome, our claim, and its place on the board."""

    number: int
    run: Run
    reference: Any
    claim: Claim
    place: int


@dataclass
class RayPool:
    """Does submitted runs on the cluster at ``address`` (default: RAY_ADDRESS), or on one that is started on this machine.

    Each run is a task that takes ``cpus`` CPUs, as many threads, and ``gpus`` GPUs; fractions are allowed. A run that is
    planned for cuda takes one if ``gpus`` is 0. It is claimed here, in the results folder, as long as it is under way:
    others may work on the same folder. When its node dies, it is done again from its beginning on another one, RETRIES times at
    most. The interface is that of :class:`.pool.Pool`; leaving the context cancels what is under way, and releases the claims.

    Raises:
        UserError: there is no Ray here, or no cluster at the address.
    """

    worker: Worker
    board: Board
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None
    _queue: deque[tuple[int, Run]] = field(default_factory=deque)
    _tasks: list[_Task] = field(default_factory=list)
    _sent: dict[tuple[str, int, int], Any] = field(default_factory=dict)
    _dead: set[str] = field(default_factory=set)
    _started: bool = False
    _local: bool = False

    def __enter__(self) -> RayPool:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UserError("on ray: needs Ray; `pip install 'gfm-harness[ray]'`") from None
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS")
            self._local = not address
            try:
                _knock(address or "")
                ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **(OWN if self._local else {}))
            except (OSError, RuntimeError, ValueError) as error:
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                raise UserError(f"on ray: no cluster at {address or 'this machine'} ({reason}); check RAY_ADDRESS") from None
            self._started = True
        _quiet(True)
        self._dead = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
        return self

    def __exit__(self, *_: Any) -> None:
        import ray

        for task in self._tasks:
            ray.cancel(task.reference, force=True)
        for task in self._tasks:
            task.claim.__exit__(None, None, None)
        self._tasks.clear()
        self._sent.clear()
        if self._started:
            ray.shutdown()
        _quiet(False)

    def submit(self, number: int, run: Run) -> None:
        """Queue a run; ``number`` is what the caller calls it."""
        self._queue.append((number, run))

    @property
    def under_way(self) -> int:
        """How many runs are queued or being done."""
        return len(self._queue) + len(self._tasks)

    def results(self) -> Iterator[tuple[int, RunRecord | None]]:
        """Numbers and records of runs as they end, until none is under way; None for a run that is another process's.

        Raises:
            UserError: no node of the cluster can do a run, or, if the worker is strict, its model cannot take its task.
            HarnessError: the cluster is gone, or a record cannot be written.
        """
        while self.under_way:
            while self._queue and len(self._tasks) < self._room(self._queue[0][1]):
                yield from self._hand_over(*self._queue.popleft())
            yield from self._collect()

    # --- handing over ------------------------------------------------------------------------------------------------

    def _needs(self, run: Run) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus or float(run.device == "cuda")}

    def _room(self, run: Run) -> int:
        """How many runs like this one may be under way: as many as the cluster can do at once, and a few."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs = {name: count for name, count in self._needs(run).items() if count}
        room = sum(int(min(node.get(name, 0.0) / count + 1e-9 for name, count in needs.items())) for node in nodes)
        if not room and self._local:  # another cluster may still grow
            asked = " and ".join(f"{count:g} {name}" for name, count in needs.items())
            raise UserError(f"on ray: {key_of(run)} needs {asked}, which this machine does not have; ask for less")
        return room + AHEAD

    def _hand_over(self, number: int, run: Run) -> Iterator[tuple[int, RunRecord | None]]:
        """Claim a run and make a task of it; or what there is to say of it already."""
        if (earlier := self.worker.there(run)) is not None:
            yield number, earlier
            return
        claim = take(self.worker.results, run)
        if claim is None:
            yield number, None
            return
        claim.__enter__()
        try:
            if (earlier := self.worker.there(run)) is not None:  # recorded between the look and the claim
                yield number, earlier
            elif claim.deaths > MAX_DEATHS:
                yield number, self._failed(run, f"{claim.deaths} processes in a row died on this run, {where_died(claim)}")
            else:
                self.worker.introduce(run, self.board.describe)
                place = next(place for place in range(len(self._tasks) + 1) if all(task.place != place for task in self._tasks))
                self._tasks.append(_Task(number, run, self._start(run), claim, place))
                self.board.start(place, run)
        except UserError as error:
            if self.worker.strict:
                raise
            yield number, self._failed(run, str(error))
        finally:
            if all(task.claim is not claim for task in self._tasks):
                claim.__exit__(None, None, None)

    def _start(self, run: Run) -> Any:
        parcel, needs = pack(run), self._needs(run)
        contents = [self._put(path) for path in parcel.shipped]
        threads = str(max(int(self.cpus), 1))
        variables = dict.fromkeys(THREADS, threads) | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        options = {"max_retries": RETRIES, "runtime_env": {"env_vars": variables}, "name": key_of(run)}
        return _remote().options(num_cpus=needs["CPU"], num_gpus=needs["GPU"], **options).remote(parcel, *contents)

    def _put(self, path: str) -> Any:
        """A reference to a file's content, which is sent once however many runs read it."""
        import ray

        state = os.stat(path)
        key = (path, state.st_size, state.st_mtime_ns)
        if key not in self._sent:
            self._sent[key] = ray.put(Path(path).read_bytes())
        return self._sent[key]

    # --- getting back ------------------------------------------------------------------------------------------------

    def _collect(self) -> Iterator[tuple[int, RunRecord | None]]:
        import ray

        if not self._tasks:
            return
        self._say_dead()
        ready, _ = ray.wait([task.reference for task in self._tasks], timeout=WAIT_SECONDS)
        for task in [task for task in self._tasks if task.reference in ready]:
            record = self._outcome(task)
            self._tasks.remove(task)
            task.claim.__exit__(None, None, None)
            self.board.end(task.place)
            yield task.number, record

    def _say_dead(self) -> None:
        import ray

        dead = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if not node["Alive"]}
        for name in [dead[node] for node in dead if node not in self._dead]:
            self.board.say(f"a node of the cluster ({name}) has died; what it was doing is done again on another one")
        self._dead |= dead.keys()

    def _outcome(self, task: _Task) -> RunRecord:
        import ray
        from ray import exceptions

        run = task.run
        try:
            outcome: Outcome = ray.get(task.reference)
        except exceptions.RayTaskError as error:
            cause = error.cause
            return self._failed(run, f"{type(cause).__name__}: {cause} (on a node of the cluster)\n{error}")
        except exceptions.RuntimeEnvSetupError as error:
            raise HarnessError(f"on ray: a node cannot start its processes: {error}") from None
        except (exceptions.RaySystemError, exceptions.RpcError) as error:
            raise HarnessError(f"on ray: the cluster is gone ({error}); the same command goes on") from None
        except exceptions.RayError as error:
            lines = str(error).splitlines()
            reason = f"its process or node died {RETRIES + 1} times: {lines[0] if lines else type(error).__name__}"
            return self._failed(run, reason)
        if outcome.refused:
            if self.worker.strict:
                raise UserError(outcome.refused)
            return self._failed(run, f"on {outcome.node}: {outcome.refused}")
        return self._write(run, outcome)

    def _failed(self, run: Run, reason: str) -> RunRecord:
        return record_failure(run, self.worker.results, reason, self.worker.reporter)

    def _write(self, run: Run, outcome: Outcome) -> RunRecord:
        """Write what came back, once it has been read as a record of this run."""
        with tempfile.TemporaryDirectory(prefix="harness-ray-") as name:
            folder = Path(name)
            (folder / RECORD).write_bytes(outcome.record)
            if outcome.predictions is not None:
                (folder / PREDICTIONS).write_bytes(outcome.predictions)
            record = records.read(folder)
            predictions = records.read_predictions(folder) if record.finished and run.part == "test" else None
        if record.folder != Path(records.folder_name(run.label), records.folder_name(run.name), run.id):
            raise HarnessError(f"on ray: {outcome.node} sent the record of {record.folder}, not of {key_of(run)}")
        written = records.write(record, predictions, self.worker.results, lambda folder: _put(outcome.kept, run, folder))
        state_path(self.worker.results, run).unlink(missing_ok=True)
        self.worker.reporter.result(record, str(written))
        return record


def _put(kept: Mapping[str, bytes], run: Run, folder: Path) -> None:
    """Put into a folder what was kept on a node; the paths in it become those that the run has here."""
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    if keep.is_kept(folder):
        keep.moved(folder, run.to_json())


def _knock(address: str) -> None:
    """Ray asks for minutes an address where nobody listens.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.rpartition("//")[2].partition("/")[0].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _quiet(quiet: bool) -> None:
    """Ray prints the log of a node that dies, whatever is asked of it, and has no public switch for that."""
    from ray._private import worker

    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = not quiet


# --- on a node -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a task sends back: the files of a record's folder; or why there is none. ``node`` is the machine's name."""

    node: str
    record: bytes = b""
    predictions: bytes | None = None
    kept: dict[str, bytes] = field(default_factory=dict)
    refused: str = ""


def perform(parcel: Parcel, *contents: bytes) -> Outcome:
    """Execute a run on this machine. What its model cannot do, or this machine does not have, is refused."""
    node, said = socket.gethostname(), Reporter()
    try:
        with workspace(_folder(), "ray") as folder:
            run = unpack(parcel, contents, folder / "files")
            worker = Worker(folder / "results", wait=False, strict=True, reporter=said)
            (record,) = worker.work([run])
            assert record is not None
            made = worker.results / record.folder
            text = (made / RECORD).read_text(encoding="utf-8").replace(f"{folder}/files", "")  # the paths that the user knows
            predictions = made / PREDICTIONS
            kept = {path.name: path.read_bytes() for path in kept_files(made)}
            return Outcome(node, text.encode(), predictions.read_bytes() if predictions.is_file() else None, kept)
    except HarnessError as error:
        return Outcome(node, refused=str(error))


def _folder() -> Path:
    """Where this machine does its runs: in its cache folder or, where that cannot be written, in a temporary one."""
    folder = cache_home() / "ray"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    except OSError:
        return Path(tempfile.gettempdir())


@cache
def _remote() -> Any:
    import ray

    return ray.remote(perform)
