"""Who does which run: claims in the results folder, so that any number of processes and machines share one without a server.

``results/.study/`` holds ``claims/`` (a file for each run under way), ``states/`` (trainings to go on with, see
:mod:`harness.engine.resume`) and ``plans/`` (what was asked for, for `harness status`). A claim is a file that is created
exclusively, which works on NFS, too; nothing is locked. Its name ends in a number: who takes over from a dead process creates the
next one, so of several only one succeeds. Nothing depends on a claim but time: two processes that did the same run would write
the same record.
"""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import HarnessError
from harness.evidence.records import folder_name
from harness.files.workspace import ended, host

from .plan import Run

STUDY = ".study"
BEAT_SECONDS = 10.0  # between two signs of life
STALE_SECONDS = 180.0  # without one: as long as NFS may show an old time (60 s), with room
_SAID = {"machine": str, "where": str, "process": int, "begun": str, "epoch": int, "share": float, "deaths": int, "reached": int}
_NAME = re.compile(r"(?P<key>.+)\.(?P<turn>\d+)")


def key_of(run: Run) -> str:
    """The name of a run's files in the study's folder."""
    return key(run.label, run.name, run.id)


def key(task: str, model: str, run_id: str) -> str:
    """The same from the names that a record has, too; ``task`` is the task's label."""
    return f"{folder_name(task)}.{folder_name(model)}.{run_id}"


def state_path(results: Path, run: Run) -> Path:
    """Where the state of a run's training is kept until it has a record."""
    return Path(results) / STUDY / "states" / f"{key_of(run)}.safetensors"


@dataclass(frozen=True)
class Holder:
    """Who has a run, as its claim says: ``deaths`` is how many processes in a row died on it and came no further than epoch
    ``reached``, the furthest before.

    ``epoch`` is the last one that ended, ``share`` how much of all steps is done, ``heard`` the seconds since the last sign of
    life.
    """

    key: str
    turn: int
    machine: str = "unknown"
    where: str = ""
    process: int = 0
    begun: str = ""
    epoch: int = 0
    share: float = 0.0
    deaths: int = 0
    reached: int = 0
    heard: float = 0.0

    @property
    def dead(self) -> bool:
        """Whether the process has ended or, where that cannot be seen from here, has given no sign of life for long."""
        return bool(self.process and ended(self.process, self.where)) or self.heard > STALE_SECONDS


@dataclass
class Claim:
    """This process's hold of a run, as a context manager; a thread keeps it alive."""

    folder: Path
    key: str
    turn: int
    deaths: int = 0
    reached: int = 0
    news: dict[str, Any] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> Path:
        """The claim's file."""
        return self.folder / f"{self.key}.{self.turn}"

    def tell(self, **news: Any) -> None:
        """Change what the claim says of the run, from the next sign of life on."""
        self.news |= news

    def __enter__(self) -> Claim:
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        self.news |= {"begun": begun, "deaths": self.deaths, "reached": self.reached}
        self._write()
        threading.Thread(target=self._beat, name="harness-claim", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._writing, suppress(OSError):
            self._over.set()
            self.path.unlink(missing_ok=True)
            for folder in (self.folder, *self.folder.parents[:2]):  # up to the results folder, as far as they are empty
                folder.rmdir()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        own = {"machine": socket.gethostname(), "where": host(), "process": os.getpid()}
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with self._writing, suppress(OSError):  # a full disk must not end the run
            if not self._over.is_set():
                temporary.write_text(json.dumps(own | self.news), encoding="utf-8")
                os.replace(temporary, self.path)


def take(results: Path, run: Run) -> Claim | None:
    """Claim a run; None if another process has it. Take over from one that has died.

    Raises:
        HarnessError: the claim cannot be written.
    """
    folder, own = Path(results) / STUDY / "claims", key_of(run)
    held = list(holders(results, own))
    last = max(held, key=lambda holder: holder.turn, default=None)
    if last and not last.dead:
        return None
    turn = last.turn + 1 if last else 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.close(os.open(folder / f"{own}.{turn}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError as error:
            if folder.is_dir() or not os.path.lexists(folder):
                return None
            raise _unwritable(folder, error) from None
        except FileNotFoundError:  # another process has tidied up meanwhile
            continue
        except OSError as error:
            raise _unwritable(folder, error) from None
    if any(holder.turn > turn for holder in holders(results, own)):
        # While we looked, another process took over, and removed the dead one's claim before we had read it.
        (folder / f"{own}.{turn}").unlink(missing_ok=True)
        return None
    for holder in held:
        (folder / f"{own}.{holder.turn}").unlink(missing_ok=True)
    if last is None:
        return Claim(folder, own, turn)
    # A run that always dies in the same place, such as the scoring of the test split, must end some day.
    deaths = 0 if last.epoch > last.reached else last.deaths + 1
    return Claim(folder, own, turn, deaths, max(last.epoch, last.reached))


def _unwritable(folder: Path, error: OSError) -> HarnessError:
    reason = error.strerror or error
    return HarnessError(f"{folder}: cannot be written ({reason}); make room or choose another folder with --results")


def holders(results: Path, key: str = "") -> Iterator[Holder]:
    """What the claims of a results folder say, or those of the run with this key. One that is being written says nothing yet."""
    folder = Path(results) / STUDY / "claims"
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and name.startswith(key))
    except OSError:
        return
    now = _now(folder) if names else 0.0
    for name in names:
        if not (found := _NAME.fullmatch(name)) or key not in ("", found["key"]):
            continue
        try:
            heard = abs(now - (folder / name).stat().st_mtime)  # a time far ahead is that of a clock that was wrong
            said = _said((folder / name).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # released meanwhile
        yield Holder(**(said | {"key": found["key"], "turn": int(found["turn"]), "heard": heard}))


def _said(text: str) -> dict[str, Any]:
    """What a claim's text says; nothing where it is damaged, or being written."""
    try:
        content = json.loads(text)
        return {name: kind(content[name]) for name, kind in _SAID.items() if name in content}
    except (ValueError, TypeError, OverflowError):
        return {}


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
