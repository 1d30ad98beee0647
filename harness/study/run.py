"""execute(): one planned run, fitted, scored on the test split, and written as a record."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING

from harness.engine import hardware, keep
from harness.errors import HarnessError, UserError
from harness.evidence import records
from harness.evidence.groups import judged_groups
from harness.evidence.leakage import find_leaks, judged
from harness.evidence.records import RunRecord
from harness.evidence.sensitivity import insensitive
from harness.progress import Reporter

from . import describe
from .claims import state_path
from .plan import Run, check_unchanged, open_task

if TYPE_CHECKING:
    from harness.task import Splits, Task

    from .trial import Trial

UNUSED_ALIGNMENT = "the model does not use its alignment: its predictions are the same without it"


def finished(run: Run, results: Path) -> RunRecord | None:
    """The record of this very run, if it is there, has scores, and has kept what the run is to keep. Imports no torch."""
    earlier = recorded(run, results)
    if earlier is None or not earlier.finished or (run.keep and not keep.has_weights(results / earlier.folder)):
        return None
    return earlier


def recorded(run: Run, results: Path) -> RunRecord | None:
    """The record of this very run, finished or failed, if it is there."""
    return records.find(results, run.label, run.name, run.id)


def execute(
    run: Run,
    results: Path = Path("results"),
    *,
    device: str | None = None,
    force: bool = False,
    opened: tuple[Task, Splits] | None = None,
    reporter: Reporter | None = None,
) -> RunRecord:
    """Fit, score the test split once, and write the record; or return the record of this very run if there is one.

    ``device`` picks one of several of the planned type (``cuda:1``). ``opened`` are the run's task and examples, where they
    are at hand. What breaks down on the way is a failed record. A run that was killed goes on from its last saved epoch.

    Raises:
        UserError: the model cannot take this task, or the data is not what was planned; nothing was written.
    """
    reporter = reporter or Reporter()
    if not force and (earlier := finished(run, results)) is not None:
        return earlier
    import torch

    from harness.engine.resume import StateFile
    from harness.kernels import backends, compilation

    from .trial import Trial

    begun = time.perf_counter()
    try:
        task, splits = opened or open_task(run)
        check_unchanged(run, task, splits)
        leaks = find_leaks(splits)  # before the hours, for nobody would want to lose them
    except HarnessError:
        raise
    except Exception as error:  # of the task's code
        return record_failure(run, results, _reason(error), reporter)
    compilation.on_compile = reporter.say
    backends.forget()
    state = StateFile(state_path(results, run), run.id)
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        try:
            trial = Trial.prepare(run, task, splits, device or run.device)
        except HarnessError:
            raise
        except Exception as error:  # of the model's code
            return record_failure(run, results, _reason(error), reporter)
        main = trial.accelerator.is_main_process
        reporter = reporter if main else Reporter()
        record, predictions = describe.begun(trial), None
        reporter.say(describe.of_run(run, record))
        try:
            fitted = trial.fit(reporter, state)
            record |= {"history": fitted.history, "events": list(fitted.events)}
            record["timing"] |= {"examples_per_second": fitted.examples_per_second}
            record["timing"] |= {"wait": fitted.wait, "wait_share": fitted.wait_share}
            record["timing"] |= {"resumed": fitted.resumed} if fitted.resumed else {}
            if run.part == "test":
                scored = trial.score()
                predictions = scored.predictions
                for name in ("metrics", "intervals", "without_interval", "alignment", "collapsed"):
                    record[name] = getattr(scored, name)
                record["events"] += scored.events
                record["leakage"] = judged(predictions, leaks)
                record["groups"] = judged_groups(predictions)
                predictions = replace(predictions, leaks=tuple((leak, source) for leak, source in leaks["leaks"]))
                record["events"] += [UNUSED_ALIGNMENT] if insensitive(scored.alignment) else []
        except UserError:
            raise
        except HarnessError as error:
            record |= {"status": records.FAILED, "error": str(error)}
        except Exception as error:
            record |= {"status": records.FAILED, "error": _reason(error)}
    record["timing"]["seconds"] = trial.seconds | {"total": time.perf_counter() - begun}
    record["environment"]["kernels"] = backends.used()
    record["timing"]["peak_memory_bytes"] = hardware.peak_memory(trial.accelerator.device)
    if not main:
        return RunRecord(**record)
    done = RunRecord(**record)
    trained = trial if done.finished and run.part == "test" else None
    return _written(done, predictions, results, reporter, run, trained)


def record_failure(run: Run, results: Path, reason: str, reporter: Reporter | None = None) -> RunRecord:
    """Write the record of a run that did not come to be: its model cannot take the task, its data is gone, or it kills
    whatever process does it."""
    try:
        opened = open_task(run)
    except Exception:  # its data may be the reason
        opened = None
    record = RunRecord(**describe.asked(run, opened), status=records.FAILED, error=reason)
    return _written(record, None, results, reporter or Reporter(), run)


def _reason(error: Exception) -> str:
    """What a record says of an error that nobody expected, which is being handled."""
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'the system gave none'}): use a smaller --batch-size, --context or model"
    return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


def _written(
    record: RunRecord,
    predictions: records.Predictions | None,
    results: Path,
    reporter: Reporter,
    run: Run,
    trained: Trial | None = None,
) -> RunRecord:
    def put(folder: Path) -> None:
        if trained is not None and not trained.keep(folder):
            reporter.say("the trained weights are not kept, because there are too many: --keep keeps them")

    try:
        with undisturbed():
            folder = records.write(record, predictions, results, put)
    except HarnessError:  # a full disk, after hours: the scores at least are shown
        reporter.result(record, "not written")
        raise
    state_path(results, run).unlink(missing_ok=True)
    reporter.result(record, str(folder))
    return record


@contextmanager
def undisturbed() -> Iterator[None]:
    """While it lasts, SIGINT and SIGTERM wait, so that what is being written is finished. Other threads cannot do that."""
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)


def alone() -> bool:
    """Whether no other processes share this run (those of `accelerate launch` do)."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1
