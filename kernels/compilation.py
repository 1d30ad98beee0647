"""The time spent on compiling CPU kernels, and a hook to announce it. Imports nothing heavy, so that anyone may ask."""

from collections.abc import Callable

on_compile: Callable[[str], None] | None = None
"""Called at most once per process with a one-line message, before a kernel is compiled rather than read from the cache."""

seconds = 0.0
"""Seconds that this process has spent on compiling kernels; 0.0 if all of them came from the cache."""
