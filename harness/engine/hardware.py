"""What this machine can do: devices, precisions, accelerations, peak memory."""

from __future__ import annotations

import atexit
import os
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.errors import UserError
from harness.files.fingerprint import remembered
from harness.kernels import backends

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

# Packages whose versions a record keeps, because each can change a number.
VERSIONED = (
    "torch",
    "transformers",
    "accelerate",
    "numpy",
    "numba",
    "pandas",
    "scikit-learn",
    "biopython",
    "mamba-ssm",
    "causal-conv1d",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-nvrtc-cu12",
)


def pick_device(name: str) -> torch.device:
    """The device that a name means; ``auto`` is the first that this machine has of cuda, mps and cpu.

    Raises:
        UserError: no such device, this machine has none, or HARNESS_KERNELS asks for kernels that it cannot have.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: choose auto, cpu, cuda, cuda:N or mps") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False):
        raise UserError(f"device {name!r}: not on this machine; `harness doctor` lists what is, or leave --device out")
    try:
        backends.check(device)
    except ValueError as error:
        raise UserError(str(error)) from None
    return device


def accelerator(name: str) -> Accelerator:
    """What puts a model and its batches on the device that a name means.

    Raises:
        UserError: as :func:`pick_device`.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    device = pick_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    # A model may hold weights that fine-tuning does not reach (an unused pooler): several processes must not wait for them.
    found = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    if found.num_processes > 1:
        atexit.register(_leave_group)
    return found


def _leave_group() -> None:
    """Leave the other processes before the interpreter ends, after which threads that still serve them abort this one."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def has_native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself, without emulation in float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pick_precision(name: str, device: torch.device) -> str:
    """``float32`` or ``bf16``; ``auto`` means bf16 where the hardware computes it natively, and float32 elsewhere."""
    if name != "auto":
        return name
    return "bf16" if has_native_bf16(device) else "float32"


def resolve(device: str, precision: str, elsewhere: bool = False) -> tuple[str, str]:
    """The type of device (``cpu``, ``cuda``, ``mps``) and the precision that these words mean on this machine.

    The answer is remembered, so that torch need not be imported for it again on the same machine. With ``elsewhere``, the device
    is one of another machine, and ``cuda`` is taken to compute bfloat16, as all GPUs since Ampere do.

    Raises:
        UserError: as :func:`pick_device`.
    """

    if elsewhere and device.partition(":")[0] == "cuda":
        return "cuda", "bf16" if precision == "auto" else precision

    def compute() -> list[str]:
        found = pick_device(device)
        return [found.type, pick_precision(precision, found)]

    if os.environ.get(backends.VARIABLE):
        pick_device(device)  # what is remembered does not say which kernels there are
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = sorted(path.name for path in Path("/dev").glob("nvidia*"))
    machine = [versions().get("torch"), sys.platform, platform.machine(), _processor(), cards, visible]
    kind, found = remembered("device", [], [device, precision, *machine], compute)
    return kind, found


def describe_device(device: torch.device) -> str:
    """The name of the GPU, such as ``NVIDIA H100``, or of the processor."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor()


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of every installed package that can change a number."""
    found = {"python": platform.python_version()}
    for package in ("gfm-harness", *VERSIONED):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """While it lasts, if ``on``: torch's kernels give the same bits every time on the same card, with the same versions.

    An operation that has no such kernel on a GPU raises a RuntimeError. cuBLAS also needs CUBLAS_WORKSPACE_CONFIG, which it
    reads once, before its first product; importing :mod:`harness.engine` sets it. Settings are left as they were found.
    """
    if not on:
        yield
        return
    import torch

    cudnn, utils = cast(Any, torch.backends.cudnn), cast(Any, torch.utils.deterministic)
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    chosen, filled = (cudnn.deterministic, cudnn.benchmark), utils.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)  # not to warn only: attention would keep a kernel that adds in any order
        cudnn.deterministic, cudnn.benchmark = True, False
        utils.fill_uninitialized_memory = False  # nothing reads it
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)
        cudnn.deterministic, cudnn.benchmark = chosen
        utils.fill_uninitialized_memory = filled


def reset_peak_memory(device: torch.device) -> None:
    """Let :func:`peak_memory` of a GPU begin anew, as a run does; that of a process cannot."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: on cuda that of tensors since :func:`reset_peak_memory`, else that of the process since it began."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def doctor() -> list[tuple[str, bool, str]]:
    """Rows of (what was looked for, whether it was found, what that means or what to install)."""
    import torch

    cuda = torch.cuda.is_available()
    device = pick_device("auto")
    rows = [
        (
            "device",
            True,
            f"{device} ({describe_device(device)}), {os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads",
        ),
        ("GPU", cuda, "used by default" if cuda else "none found; see envs/README.md for the CUDA environment"),
        (
            "native bf16",
            has_native_bf16(device),
            "--precision auto trains in bf16" if has_native_bf16(device) else "--precision auto trains in float32",
        ),
    ]
    chosen = backends.described(device)
    rows.append(("fused kernels", "plain torch" not in chosen, chosen))
    return rows
