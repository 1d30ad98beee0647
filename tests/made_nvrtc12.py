"""NVRTC of CUDA 12, which still compiles for Pascal and Volta, beside the one that cuda-bindings takes: CUDA 13's where it finds both."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from harness.kernels import _cuda

PACKAGE = "nvidia-cuda-nvrtc-cu12"


@cache
def library() -> ctypes.CDLL | None:
    """The library of PyPI's wheel, or None where it is not installed."""
    try:
        found = [str(file.locate()) for file in files(PACKAGE) or () if file.name in ("libnvrtc.so.12", "nvrtc64_120_0.dll")]
    except PackageNotFoundError:
        return None
    return ctypes.CDLL(found[0]) if found and Path(found[0]).exists() else None


def architectures() -> list[int]:
    """The cards that it compiles for: 60 is compute capability 6.0."""
    count = ctypes.c_int()
    _checked("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    _checked("nvrtcGetSupportedArchs", numbers)
    return list(numbers)


def compile(text: str, name: str, arch: str) -> tuple[bytes, str]:
    """As :func:`harness.kernels._cuda.compile`."""
    program = ctypes.c_void_p()
    _checked("nvrtcCreateProgram", ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    try:
        options = [option.encode() for option in (*_cuda.OPTIONS, f"--gpu-architecture={arch}")]
        result = library().nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _filled("nvrtcGetProgramLog", program).rstrip(b"\0").decode()
        if result:
            raise RuntimeError(f"{name} does not compile for {arch}:\n{log}")
        return _filled("nvrtcGetCUBIN", program), log
    finally:
        _checked("nvrtcDestroyProgram", ctypes.byref(program))


def _filled(call: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _checked(f"{call}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _checked(call, program, buffer)
    return buffer.raw


def _checked(function: str, *arguments: object) -> None:
    result = getattr(library(), function)(*arguments)
    assert result == 0, f"{function} answers {result}"
