"""Batches made ahead of their use, and how long was waited for them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Made = TypeVar("Made")

AHEAD = 2  # batches made while another one is used


class Batches(Generic[Item, Made]):
    """``make`` of each item, in order. Where an accelerator computes, a thread makes the next ones meanwhile.

    A CPU computes with all of its cores, so there they are made when they are asked for. Items are drawn in the caller's thread,
    and ``make`` draws no random numbers (the contract of :meth:`Adapter.collate`), so that either way gives the same bits.
    ``wait`` is the time in seconds that the caller waited for batches so far. What ``make`` raises is raised in its turn.
    """

    def __init__(self, make: Callable[[Item], Made], items: Iterable[Item], device: torch.device) -> None:
        self.make, self.items, self.in_thread = make, items, device.type != "cpu"
        self.wait = 0.0

    def __iter__(self) -> Iterator[Made]:
        made = self._ahead() if self.in_thread else map(self.make, self.items)
        while True:
            begun = time.perf_counter()
            try:
                batch = next(made)
            except StopIteration:
                return
            self.wait += time.perf_counter() - begun
            yield batch

    def _ahead(self) -> Iterator[Made]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="harness-batches")
        waiting: deque[Future[Made]] = deque()
        try:
            for item in self.items:
                waiting.append(pool.submit(self.make, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
