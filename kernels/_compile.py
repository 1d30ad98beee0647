"""Compilation of the CPU kernels by Numba, with a cache on disk that heals and is done without where it cannot be written."""

from __future__ import annotations

import glob
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import numba
from numba.core import event
from numba.core.caching import IndexDataCacheFile

from . import _lanes, compilation

# Code outside a kernel's own file that its machine code depends on.
_SHARED_SOURCE = hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in (_lanes.__file__, __file__))).hexdigest()
_kernels: set[Any] = set()


class _CompileClock(event.Listener):
    def __init__(self) -> None:
        self.started: float | None = None

    def on_start(self, event: Any) -> None:
        if event.data["dispatcher"] in _kernels and self.started is None:
            compilation.announce("compiling CPU kernels, once per machine …")
            self.started = perf_counter()

    def on_end(self, event: Any) -> None:
        if event.data["dispatcher"] in _kernels and self.started is not None:
            compilation.seconds += perf_counter() - self.started
            self.started = None


event.register("numba:compile", _CompileClock())


class _CheckedFiles(IndexDataCacheFile):
    """The files of Numba's cache, each with the sha256 of the rest at its end, which unpickling does not read."""

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        buffer = io.BytesIO()
        yield buffer
        with super()._open_for_write(filepath) as file:
            file.write(buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())

    def _load_index(self) -> Any:
        self._check(self._index_path)
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        self._check(self._data_path(name))
        return super()._load_data(name)

    def _check(self, path: str) -> None:
        if Path(path).exists():
            content = Path(path).read_bytes()
            if hashlib.sha256(content[:-32]).digest() != content[-32:]:
                raise ValueError(f"{path} is damaged")


class _HealingCache:
    """Numba's cache of one function (``inner``); damaged files, which Numba itself stops at for ever, are made again."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return self.inner.load_overload(sig, target_context)
        except Exception:  # damaged files, or what unpickling raises for those of another Numba
            file = self.inner._cache_file
            for path in Path(file._cache_path).glob(f"{glob.escape(Path(file._index_path).stem)}.*"):
                with suppress(OSError):
                    path.unlink()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            self.inner.save_overload(sig, data)
        except Exception as error:  # a full disk, or an index that cannot be read
            _warn(str(error))


def _warn(reason: str) -> None:
    message = f"CPU kernels cannot be cached on disk ({reason}) and are compiled anew in every process"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def kernel(function: Callable) -> Any:
    """Compile `function` on first use, to run without the GIL; machine code is kept in Numba's cache on disk."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        compiled.enable_caching()
    except (RuntimeError, OSError) as error:  # neither the package folder nor the user's cache folder can be written
        _warn(str(error))
    else:
        # Numba looks for changes in the kernel's own file only.
        file = compiled._cache._cache_file
        base, stamp = Path(file._index_path).stem, (file._source_stamp, _SHARED_SOURCE)
        compiled._cache._cache_file = _CheckedFiles(file._cache_path, base, stamp)
        compiled._cache = _HealingCache(compiled._cache)
    _kernels.add(compiled)
    return compiled
