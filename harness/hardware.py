"""What this machine can do: devices, precisions, accelerations, peak memory."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from harness.errors import UserError

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
)


def pick_device(name: str) -> torch.device:
    """``auto`` is the first of cuda, mps and cpu that is there.

    Raises:
        UserError: a device that is unknown or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: choose auto, cpu, cuda, cuda:N or mps") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise UserError(f"device {name!r}: not on this machine; `harness doctor` lists what is, or leave --device out")
    return device


def has_native_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself, rather than emulating it in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pick_precision(name: str, device: torch.device) -> str:
    """``float32`` or ``bf16``; ``auto`` is bf16 exactly where the hardware computes it natively."""
    if name != "auto":
        return name
    return "bf16" if has_native_bf16(device) else "float32"


def describe_device(device: torch.device) -> str:
    """The device's own name, e.g. ``NVIDIA H100`` or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
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


def peak_memory(device: torch.device) -> int:
    """Largest memory in use since the process began, in bytes: of the GPU where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> None:
    """For the whole process, have glibc keep freed memory for the next tensors, where it would return all large ones.

    Getting them anew, a page fault every 4 KiB, was a tenth of a training step of a BERT on a CPU, and a quarter of one of
    MSAMamba on 90 rows. Does nothing on other systems.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4  # as numbered in malloc.h
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


def doctor() -> list[tuple[str, bool, str]]:
    """What was looked for, whether it is there, and what it means or what to install: one row each."""
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
    for package, module, use in (
        ("numba", "numba", "selective scan and convolution on the CPU"),
        ("mamba-ssm", "mamba_ssm", "selective scan on a GPU: pip install 'gfm-harness[cuda]' (needs nvcc)"),
        ("causal-conv1d", "causal_conv1d", "convolution on a GPU: pip install 'gfm-harness[cuda]' (needs nvcc)"),
    ):
        rows.append((package, importlib.util.find_spec(module) is not None, use))
    return rows
