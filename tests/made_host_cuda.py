"""The launcher of the CUDA kernels for machines without a GPU: it compiles their sources as C++ and runs them on CPU tensors."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from torch import Tensor

from harness.kernels import _cuda

SHIM = Path(__file__).parent / "host_cuda" / "shim.h"
COMPILER = shutil.which("g++") or shutil.which("clang++")
descending = False
"""Whether blocks, and the threads of a block, take their turns from the last to the first. Whatever depends on it is a race on a GPU."""
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (g++ or clang++) to run the CUDA sources with")


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the GPU's launcher, for a test marked ``needs_compiler``."""
    monkeypatch.setattr(_cuda, "launch", launch)


def launch(
    file: Path,
    kernel: str,
    grid: tuple[int, int, int],
    threads: int,
    values: Sequence[_cuda.Value],
    defines: Mapping[str, str],
    shared: int = 0,
) -> None:
    """As :func:`harness.kernels._cuda.launch`, with the same checks that the driver would make."""
    assert threads <= 1024
    assert shared <= 96 * 1024, "more shared memory than a block may have on a card of compute capability 7.0"
    assert max(grid[1:]) <= 65_535
    if 0 in grid:
        return
    assert all(value.is_cpu for value in values if isinstance(value, Tensor))
    arguments = [
        ctypes.c_longlong(value)
        if isinstance(value, int)
        else ctypes.c_void_p(value.data_ptr() if isinstance(value, Tensor) else None)
        for value in values
    ]
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
    kinds = "".join("i" if isinstance(value, int) else "p" for value in values)
    library = _library(_cuda.source(file, defines))
    ctypes.c_bool.in_dll(library, "host_descending").value = descending
    function = getattr(library, f"host_{kernel}")
    function((ctypes.c_uint * 3)(*grid), ctypes.c_uint(threads), ctypes.c_size_t(shared), pointers, kinds.encode())


@cache
def _library(text: str) -> ctypes.CDLL:
    assert COMPILER
    kernels = re.findall(r'extern "C" __global__[^{;]*?\b(\w+)\s*\((?!\d)', re.sub(r"__launch_bounds__\([^)]*\)", "", text))
    entries = "".join(
        f'extern "C" void host_{name}(const unsigned* grid, unsigned threads, size_t shared, void** values, const char* kinds) '
        f"{{ host::launch({name}, grid, threads, shared, values, kinds); }}\n"
        for name in kernels
    )
    folder = Path(tempfile.gettempdir()) / "gfm-harness-host-cuda"
    folder.mkdir(exist_ok=True)
    whole = f'#include "{SHIM}"\n{text}\n{entries}'
    built = folder / f"{hashlib.sha256((whole + SHIM.read_text()).encode()).hexdigest()[:32]}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            source, part = Path(own) / "kernel.cpp", Path(own) / "kernel.so"
            source.write_text(whole)
            command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-w", "-o", part, source]
            subprocess.run(command, check=True)
            part.replace(built)
    return ctypes.CDLL(str(built))
