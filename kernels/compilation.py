"""What compiling the CPU kernels costs, and a hook to announce it. Imports nothing, so that anyone may ask."""

from collections.abc import Callable

on_compile: Callable[[str], None] | None = None
"""Called once per process with a one-line message, before the first kernel is really compiled (not read from the cache)."""

seconds = 0.0
"""What this process has spent on compiling kernels: 0.0 when all of them came from the cache."""
