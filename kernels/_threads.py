"""How the CPU kernels see torch's memory, and the threads that share their work."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def rows(x: Tensor) -> tuple[np.ndarray, int]:
    """The memory of x (batch, length, channels) as a flat array, and the distance between its rows in elements.

    No copy is made if channels are adjacent and rows evenly spaced, as in one half of a wider projection.
    """
    batch, length, _ = x.shape
    step = x.stride(1) if length > 1 else x.stride(0)
    even = (batch == 1 or length == 1 or x.stride(0) == length * step) and step >= x.shape[2]
    if not (even and x.stride(2) == 1):
        x = x.contiguous()
        step = x.shape[2]
    size = (batch * length - 1) * step + x.shape[2] if x.numel() else 0
    return x.detach().as_strided((size,), (1,)).numpy(), step


def flat(x: Tensor) -> np.ndarray:
    """A contiguous tensor as a flat array."""
    return x.detach().view(-1).numpy()


def ordered_sum(x: Tensor, dim: int) -> Tensor:
    """Sum over `dim` in the order of the index, whatever the number of threads."""
    return x.squeeze(dim) if x.shape[dim] == 1 else torch.from_numpy(np.add.reduce(x.numpy(), axis=dim))


_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = threading.Lock()


def _workers(count: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _pool_lock:
        if _pool is None or _pool_size < count:  # a smaller pool still in use finishes its work and is dropped
            _pool, _pool_size = ThreadPoolExecutor(count, thread_name_prefix="harness-kernels"), count
        return _pool


def _forget_pool() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()  # threads do not survive a fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def share_out(compiled: Callable, items: int, *args: Any) -> None:
    """As :func:`_share_out`, without torch.compile, which would look into Numba's compiler, too.

    torch.compiler.disable imports the compiler, which takes a second, so it is asked only where that has happened.
    """
    work = _out_of_sight() if "torch._dynamo" in sys.modules else _share_out
    work(compiled, items, *args)


share_out._torchdynamo_disable = True  # type: ignore[attr-defined]  # what torch.compiler.disable sets for a single frame


@cache
def _out_of_sight() -> Callable:
    return torch.compiler.disable(_share_out)


def _share_out(compiled: Callable, items: int, *args: Any) -> None:
    """Call compiled(*args, first, last) on ranges that cover range(items), on torch.get_num_threads() threads.

    Items must be independent of each other, because it is left to chance which thread takes which range. Results then do
    not depend on the number of threads.
    """
    threads = min(torch.get_num_threads(), items)
    if threads <= 1:
        compiled(*args, 0, items)
        return
    pieces = min(items, 4 * threads)  # a few per thread, so that one slow thread does not delay the call
    bounds = [items * i // pieces for i in range(pieces + 1)]
    queue = iter(list(itertools.pairwise(bounds)))

    def work() -> None:
        for first, last in queue:  # next() on a list iterator is atomic
            compiled(*args, first, last)

    others = [_workers(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for other in others:
            if not other.cancel():
                other.result()
