"""The time spent on compiling kernels, and a hook to announce it. Imports nothing heavy, so that anyone may ask."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

on_compile: Callable[[str], None] | None = None
"""Called at most once per process and message, before a kernel is compiled rather than read from the cache."""

seconds = 0.0
"""Seconds that this process has spent on compiling kernels; 0.0 if all of them came from the cache."""

_announced: set[str] = set()


def announce(message: str) -> None:
    """Pass a message on to :data:`on_compile`, the first time."""
    if message not in _announced and on_compile is not None:
        on_compile(message)
    _announced.add(message)


@contextmanager
def timed(message: str) -> Iterator[None]:
    """Announce a compilation and add its time to :data:`seconds`."""
    global seconds
    announce(message)
    begun = perf_counter()
    try:
        yield
    finally:
        seconds += perf_counter() - begun
