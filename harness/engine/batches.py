"""Batches made ahead of their use, and how long the device waited for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 2  # batches made while another one is used
_END: Any = object()


class Batches(Generic[Item, Made]):
    """``make`` of each item, in order. Where an accelerator computes, a thread draws and makes the next ones meanwhile.

    A CPU computes with all of its cores, so there they are made when they are asked for. ``make`` draws no random numbers (the
    contract of :meth:`Adapter.collate`), and one thread draws the items in their order, so that either way gives the same bits.
    What drawing or making raises is raised in its turn, and no thread is left when the caller stops early.

    One thread is enough, and threads will do: to make 64 windows of 101 nt a batch takes every model about a millisecond or less
    (``benchmarks/collate.py``), most of it outside Python's lock. For CUDA the thread also copies batches to pinned memory, from
    where they are copied to the device while the host goes on. These copies take their turn among the kernels: they are
    microseconds long, and a stream of their own would gain nothing.
    """

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item], device: torch.device) -> None:
        self.make, self.items, self.device, self.in_thread = make, items, device, device.type != "cpu"
        self._clock = _DeviceClock(device) if device.type == "cuda" else _HostClock()

    @property
    def wait(self) -> float:
        """The time in seconds that the device had nothing to do so far because a batch was not ready.

        On CUDA the device's own clock measures it, from the end of all work that was queued when a batch was asked for to the
        arrival of the batch: while the device still works, it costs nothing that the host waits. Elsewhere it is the host's time.
        """
        return self._clock.seconds()

    def __iter__(self) -> Iterator[Made]:
        made = self._ahead() if self.in_thread else map(self.make, self.items)
        while True:
            self._clock.begin()
            try:
                batch = next(made)
            except StopIteration:
                return
            self._clock.end()
            yield batch

    def _ahead(self) -> Iterator[Made]:
        items, pin, index = iter(self.items), self.device.type == "cuda", self.device.index

        def one() -> Made:
            item = next(items, _END)
            if item is _END:
                return _END
            made = self.make(item)
            return pinned(made) if pin else made

        # A new thread begins on the first GPU, where pinning would give this process a second context.
        place = partial(torch.cuda.set_device, torch.cuda.current_device() if index is None else index) if pin else None
        pool = ThreadPoolExecutor(1, thread_name_prefix="harness-batches", initializer=place)
        waiting: deque[Future[Made]] = deque()
        try:
            waiting.extend(pool.submit(one) for _ in range(AHEAD + 1))
            while (made := waiting.popleft().result()) is not _END:
                yield made
                waiting.append(pool.submit(one))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def pinned(made: Any) -> Any:
    """The same with all tensors in pinned memory, in dicts, lists and tuples."""
    if isinstance(made, Tensor):
        return made.pin_memory()
    if isinstance(made, dict):
        return {name: pinned(value) for name, value in made.items()}
    return type(made)(map(pinned, made)) if isinstance(made, list | tuple) else made


class _HostClock:
    def __init__(self) -> None:
        self.total = self.begun = 0.0

    def begin(self) -> None:
        self.begun = time.perf_counter()

    def end(self) -> None:
        self.total += time.perf_counter() - self.begun

    def seconds(self) -> float:
        return self.total


class _DeviceClock:
    """Marks in the device's current stream, which it stamps when it reaches them; read later, so that nobody waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.total, self.last = device, 0.0, None
        self.pairs = deque[tuple[torch.cuda.Event, torch.cuda.Event]]()

    def begin(self) -> None:
        self.last = self._mark()

    def end(self) -> None:
        assert self.last is not None
        self.pairs.append((self.last, self._mark()))
        while self.pairs and self.pairs[0][1].query():
            self._read()

    def seconds(self) -> float:
        while self.pairs:
            self.pairs[0][1].synchronize()
            self._read()
        return self.total

    def _mark(self) -> torch.cuda.Event:
        mark = torch.cuda.Event(enable_timing=True)
        mark.record(torch.cuda.current_stream(self.device))  # the process may have another current device
        return mark

    def _read(self) -> None:
        begun, ended = self.pairs.popleft()
        self.total += begun.elapsed_time(ended) / 1000  # from milliseconds
