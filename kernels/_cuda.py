"""CUDA C++ compiled by NVRTC for the card at hand, kept on disk, and launched on torch's current stream.

Neither nvcc nor a host compiler is needed. NVRTC and the driver are called through NVIDIA's ``cuda-bindings``, on which torch's
own CUDA wheels for Linux depend, as they do on NVRTC: with them the extra ``[gpu]`` downloads nothing. ``cuda-core`` takes 0.17 s
to import in place of 0.05 s, and ``cupy`` brings 150 MB; torch's own interface to NVRTC is private.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import compilation

PRELUDE = Path(__file__).with_name("_device.cuh")
# exp2f in one instruction, and division to the last bit but one. Neither shows beside the rounding of float32 states.
OPTIONS = (
    "--std=c++17",
    "--device-as-default-execution-space",  # of lambdas, which NVRTC 12 refuses otherwise
    "--ftz=true",
    "--prec-div=false",
    "--restrict",
    "--ptxas-options=--verbose",
    "--ptxas-options=--warn-on-spills",
)
LEAST_CAPABILITY = (6, 0)
LARGE_SHARED_MEMORY = 48 * 1024  # bytes per block that must be asked for

TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""The names of torch's types in ``_device.cuh``."""

Value = Tensor | int | None


def launch(
    file: Path,
    kernel: str,
    grid: tuple[int, int, int],
    threads: int,
    values: Sequence[Value],
    defines: Mapping[str, str],
    shared: int = 0,
) -> None:
    """Run a kernel of a .cu file on the device of the tensors among ``values``, on torch's current stream.

    Args:
        file: the source.
        kernel: the name of an ``extern "C" __global__`` function.
        grid: the numbers of blocks in x, y and z.
        threads: the number of threads of a block, along x.
        values: the arguments: tensors go as pointers, None as a null pointer, integers as ``long long``.
        defines: macros of the source.
        shared: bytes of dynamic shared memory of a block.

    Raises:
        RuntimeError: the source does not compile, or the driver refuses.
    """
    if 0 in grid:
        return
    import cuda.bindings.driver as driver

    device = next(value.device for value in values if isinstance(value, Tensor))
    with torch.cuda.device(device):
        if not int(_checked(driver.cuCtxGetCurrent())):  # on a thread that has yet to call CUDA, as autograd's may be
            context = _checked(driver.cuDevicePrimaryCtxRetain(_checked(driver.cuDeviceGet(device.index))))
            _checked(driver.cuCtxSetCurrent(context))
        function = _function(file, kernel, tuple(defines.items()), device.index)
        if shared > LARGE_SHARED_MEMORY:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _checked(driver.cuFuncSetAttribute(function, attribute, shared))
        numbers = tuple(value.data_ptr() if isinstance(value, Tensor) else value or 0 for value in values)
        types = tuple(ctypes.c_longlong if isinstance(value, int) else ctypes.c_void_p for value in values)
        stream = torch.cuda.current_stream(device).cuda_stream
        _checked(driver.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, (numbers, types), 0))


def readable(x: Tensor | None) -> Tensor | None:
    """The tensor in a type that the sources know: others, such as float8, become float32."""
    return x if x is None or x.dtype in TYPES else x.float()


def channel_last(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor (batch, channels, length), channels neighbours in memory; no view, so that it may be changed in place."""
    _, channels, length = shape
    return like.new_empty_strided(shape, (channels * length, 1, channels), dtype=dtype)


def source(file: Path, defines: Mapping[str, str]) -> str:
    """The whole text of a .cu file: macros, what all share, and its own with what it includes of its folder."""
    macros = "".join(f"#define {name} {value}\n" for name, value in sorted(defines.items()))
    text = re.sub('#include "(.+)"', lambda found: file.with_name(found[1]).read_text(), file.read_text())
    return f"{macros}{PRELUDE.read_text()}\n{text}"


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block may have: 48 KiB on Pascal, 64 on Turing, at least 96 on others."""
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", LARGE_SHARED_MEMORY)


def missing(device: torch.device) -> str:
    """Why kernels cannot be compiled for a card; empty if they can."""
    try:
        import cuda.bindings.driver
        import cuda.bindings.nvrtc  # noqa: F401
    except ImportError:
        return "cuda-bindings is not installed: pip install 'gfm-harness[gpu]'"
    return _missing(torch.cuda.get_device_capability(device))


@cache
def _missing(capability: tuple[int, int]) -> str:
    import cuda.bindings.driver as driver

    if capability < LEAST_CAPABILITY:
        return f"the card's compute capability is {capability[0]}.{capability[1]}; the kernels need 6.0"
    try:
        architecture(capability)
        compiler, drivers = nvrtc_version(), divmod(_checked(driver.cuDriverGetVersion()) // 10, 100)
    except RuntimeError as error:
        return _first_line(error)
    if compiler[0] > drivers[0]:
        return (
            f"NVRTC {compiler[0]}.{compiler[1]} writes code that a driver for CUDA {drivers[0]}.{drivers[1]} does not load: "
            f"uninstall nvidia-cuda-nvrtc and install {_package(drivers[0])}"
        )
    return ""


def nvrtc_version() -> tuple[int, int]:
    """Which NVRTC is at hand: CUDA 13's where several are installed.

    Raises:
        RuntimeError: none is.
    """
    import cuda.bindings.nvrtc as nvrtc

    try:
        return _checked(nvrtc.nvrtcVersion())
    except RuntimeError as error:  # what cuda-bindings raises where it finds no library, too
        package = _package(int((torch.version.cuda or "13").partition(".")[0]))
        raise RuntimeError(f"NVRTC cannot be loaded ({_first_line(error)}): install {package}") from None


def architecture(capability: tuple[int, int]) -> str:
    """What NVRTC compiles for a card: machine code (``sm_90``), or PTX (``compute_120``) where it has none for its generation.

    Raises:
        RuntimeError: NVRTC is not there, or no longer knows the card.
    """
    import cuda.bindings.nvrtc as nvrtc

    major, minor = nvrtc_version()
    number = 10 * capability[0] + capability[1]
    known = [other for other in _checked(nvrtc.nvrtcGetSupportedArchs()) if other <= number]
    if known and max(known) // 10 == capability[0]:
        return f"sm_{max(known)}"  # machine code runs on later cards of its generation
    if known:
        return f"compute_{max(known)}"
    raise RuntimeError(
        f"NVRTC {major}.{minor} does not compile for compute capability {capability[0]}.{capability[1]}: use torch's build for "
        "CUDA 12 (envs/p100.yml), without the package nvidia-cuda-nvrtc"
    )


def compile(text: str, name: str, arch: str) -> tuple[bytes, str]:
    """Machine code (cubin, or PTX for a ``compute_…`` architecture) and the compiler's log.

    Raises:
        RuntimeError: the source does not compile; the message ends with the log.
    """
    import cuda.bindings.nvrtc as nvrtc

    program = _checked(nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], []))
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={arch}")]
    try:
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _filled(nvrtc.nvrtcGetProgramLog, program, _checked(nvrtc.nvrtcGetProgramLogSize(program)))
        log = log.rstrip(b"\0").decode(errors="replace")
        if int(result):
            raise RuntimeError(f"{name} does not compile for {arch}:\n{log or result.name}")
        if arch.startswith("sm_"):
            return _filled(nvrtc.nvrtcGetCUBIN, program, _checked(nvrtc.nvrtcGetCUBINSize(program))), log
        return _filled(nvrtc.nvrtcGetPTX, program, _checked(nvrtc.nvrtcGetPTXSize(program))), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def kept_code(text: str, name: str, arch: str) -> bytes:
    """Machine code from the cache on disk, or compiled and kept there."""
    key = hashlib.sha256(repr((text, arch, OPTIONS, nvrtc_version())).encode()).hexdigest()
    path = cache_folder() / f"{Path(name).stem}-{arch}-{key[:32]}.bin"
    with suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[:-32]).digest() == content[-32:]:  # else it is damaged and made again
            return content[:-32]
    with compilation.timed("compiling GPU kernels, once per machine …"):
        code, _ = compile(text, name, arch)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as own:
            part = Path(own) / path.name
            part.write_bytes(code + hashlib.sha256(code).digest())
            part.replace(path)
    except OSError as error:
        warnings.warn(f"GPU kernels cannot be kept on disk ({error}) and are compiled anew in every process", RuntimeWarning, 2)
    return code


def cache_folder() -> Path:
    """``gfm-harness/kernels`` in $XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gfm-harness" / "kernels"


@cache
def _function(file: Path, kernel: str, defines: tuple[tuple[str, str], ...], index: int) -> Any:
    import cuda.bindings.driver as driver

    return _checked(driver.cuModuleGetFunction(_module(file, defines, index), kernel.encode()))


@cache
def _module(file: Path, defines: tuple[tuple[str, str], ...], index: int) -> Any:
    import cuda.bindings.driver as driver

    arch = architecture(torch.cuda.get_device_capability(index))
    return _checked(driver.cuModuleLoadData(kept_code(source(file, dict(defines)), file.name, arch)))


def _checked(answer: tuple) -> Any:
    """The results of a call of cuda-bindings, whose first one is its error code."""
    error, *results = answer
    if int(error):
        raise RuntimeError(f"{type(error).__name__} {error.name}")
    return results[0] if len(results) == 1 else tuple(results)


def _filled(call: Any, program: Any, size: int) -> bytes:
    buffer = bytearray(size)  # not bytes, which Python may share: b" " * 1 is every b" " of the process
    _checked(call(program, buffer))
    return bytes(buffer)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _package(major: int) -> str:
    return "nvidia-cuda-nvrtc" if major > 12 else f"nvidia-cuda-nvrtc-cu{major}"
