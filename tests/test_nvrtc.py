"""Every CUDA kernel compiles for every card, from Pascal to Blackwell, without a warning and within what a card has."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import made_nvrtc12
import pytest

from harness.kernels import _cuda, backends

REGISTERS = 65_536  # of a multiprocessor, and of a block at most
STATIC_SHARED = 48 * 1024
SHARED = 96 * 1024  # of a block, on cards of compute capability 7.0; 6.0 has 48 KiB
OPERATIONS = {
    name: module
    for name in backends.BACKENDS
    if find_spec(f"harness.kernels.{name}.cuda") and hasattr(module := import_module(f"harness.kernels.{name}.cuda"), "variants")
}
VARIANTS = {
    f"{name}: {variant[0]}": (module.SOURCE, *variant[1:]) for name, module in OPERATIONS.items() for variant in module.variants()
}
FIRST = [f"{name}: {next(iter(module.variants()))[0]}" for name, module in OPERATIONS.items()]  # of each operation

NEW = "sm_80", "sm_90", "sm_100", "sm_120"  # by the NVRTC at hand, which is CUDA 13's
OLD = "sm_60", "sm_70"  # by CUDA 12's


@cache
def compiler(version: int):
    """The compile function of NVRTC 12 or of cuda-bindings, or why there is none."""
    if version == 12:
        return made_nvrtc12.compile if made_nvrtc12.library() else f"{made_nvrtc12.PACKAGE} is not installed"
    try:
        _cuda.nvrtc_version()
    except ImportError:
        return "cuda-bindings is not installed"
    except RuntimeError as error:
        return str(error)
    return _cuda.compile


def check(variant: str, arch: str, version: int) -> dict[str, int]:
    """Compile a variant and hold it to the limits; the registers of each kernel."""
    file, defines, threads, shared = VARIANTS[variant]
    compile_it = compiler(version)
    if isinstance(compile_it, str):
        pytest.skip(compile_it)
    code, log = compile_it(_cuda.source(file, defines), file.name, arch)
    assert code[:4] == b"\x7fELF"
    log = re.sub(r"nvrtc: warning: Architectures prior to .* are deprecated.*", "", log)  # NVRTC 12.9, of no source's doing
    assert not re.search(r"\bwarning\b|#\d+-D", log, re.IGNORECASE), log
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'(.*?)(?=Compiling entry|\Z)", log, re.DOTALL)
    assert sorted(name for name, _, _ in kernels) == sorted(re.findall(r"\b(\w+)\(", entries(file.read_text())))
    found = {}
    for name, target, said in kernels:
        assert target == arch
        used = {what: int(number) for number, what in re.findall(r"(\d+) (registers|bytes spill stores|bytes smem)", said)}
        assert used["registers"] <= 255
        assert -(-used["registers"] // 8) * 8 * threads <= REGISTERS, f"{name}: a block of {threads} threads does not fit"
        assert used.get("bytes smem", 0) <= STATIC_SHARED
        assert used.get("bytes smem", 0) + shared <= (SHARED if arch != "sm_60" else STATIC_SHARED)
        assert defines["ACC"] == "double" or used["bytes spill stores"] == 0, f"{name} spills"
        found[name] = used["registers"]
    print(arch, version, variant, found)
    return found


def entries(text: str) -> str:
    """The heads of a source's kernels."""
    return " ".join(re.findall(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\))?\s*(\w+\()', text))


@pytest.mark.parametrize("arch", [*OLD, *NEW])
@pytest.mark.parametrize("variant", FIRST)
def test_the_first_variant_compiles_for_every_card(variant: str, arch: str) -> None:
    check(variant, arch, 12 if arch in OLD else 13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_compiles_for_pascal(variant: str) -> None:
    check(variant, "sm_60", 12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_compiles_for_hopper(variant: str) -> None:
    check(variant, "sm_90", 13)


@pytest.mark.slow
@pytest.mark.parametrize("version", [12, 13])
@pytest.mark.parametrize("arch", [*OLD, *NEW])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_compiles_for_every_card(variant: str, arch: str, version: int) -> None:
    if version == 13 and arch in OLD:
        pytest.skip("NVRTC 13 compiles for compute capability 7.5 and later")
    check(variant, arch, version)


def test_nvrtc_12_knows_pascal() -> None:
    if not made_nvrtc12.library():
        pytest.skip(f"{made_nvrtc12.PACKAGE} is not installed")
    assert {60, 70, 80, 90} <= set(made_nvrtc12.architectures())


def test_an_error_shows_the_compilers_words() -> None:
    for version in (12, 13):
        compile_it = compiler(version)
        if isinstance(compile_it, str):
            pytest.skip(compile_it)
        with pytest.raises(RuntimeError, match=r'wrong.cu does not compile for sm_80:\n(.|\n)*identifier "unheard" is undefined'):
            compile_it('extern "C" __global__ void wrong() { unheard = 1; }', "wrong.cu", "sm_80")


def test_a_warning_is_seen() -> None:
    compile_it = compiler(13)
    if isinstance(compile_it, str):
        pytest.skip(compile_it)
    _, log = compile_it('extern "C" __global__ void odd() { int unused; }', "odd.cu", "sm_80")
    assert re.search(r"\bwarning\b", log)
