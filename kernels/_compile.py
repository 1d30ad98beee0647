"""Compilation of the CPU kernels by Numba, with a cache on disk."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numba
from numba.core import event

from . import _lanes, compilation

# Code outside a kernel's own file that its machine code depends on.
_SHARED_SOURCE = hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in (_lanes.__file__, __file__))).hexdigest()
_kernels: set[Any] = set()


class _CompileClock(event.Listener):
    def __init__(self) -> None:
        self.announced = False
        self.started: float | None = None

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] in _kernels and self.started is None:
            if compilation.on_compile is not None and not self.announced:
                compilation.on_compile("compiling CPU kernels, once per machine …")
            self.announced = True
            self.started = perf_counter()

    def on_end(self, event: Any) -> None:
        if event.data["dispatcher"] in _kernels and self.started is not None:
            compilation.seconds += perf_counter() - self.started
            self.started = None


event.register("numba:compile", _CompileClock())


def kernel(function: Callable) -> Any:
    """Compile `function` on first use, to run without the GIL; machine code is kept in Numba's cache on disk."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        compiled.enable_caching()
    except RuntimeError:  # neither the package folder nor the user's cache folder can be written
        warnings.warn("CPU kernels cannot be cached on disk and are compiled anew in every process", RuntimeWarning, stacklevel=2)
    else:
        # Numba looks for changes in the kernel's own file only.
        file = compiled._cache._cache_file
        file._source_stamp = (file._source_stamp, _SHARED_SOURCE)
    _kernels.add(compiled)
    return compiled
