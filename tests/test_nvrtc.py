"""Every CUDA kernel compiles for every card, from Pascal to Blackwell, without a warning and within what a card has."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import made_nvrtc12
import pytest

from harness.kernels import _cuda, backends

THREADS = 128  # of a block, at most; __launch_bounds__ of the sources say so too
REGISTERS = 65_536  # of a block, at most
STATIC_SHARED = 48 * 1024  # bytes of a block; made_host_cuda.py sees to what is asked for at a launch
OPERATIONS = [
    (name, import_module(f"harness.kernels.{name}.cuda"))
    for name in backends.BACKENDS
    if find_spec(f"harness.kernels.{name}.cuda") is not None
]
NEW = "sm_80", "sm_90", "sm_100", "sm_120"  # by the NVRTC at hand, which is CUDA 13's
OLD = "sm_60", "sm_70"  # by CUDA 12's


def variants(step: int = 1) -> list:
    """Sources with their macros, of each operation every so many, named by the macros that vary."""
    found = []
    for name, module in OPERATIONS:
        every = list(module.variants())
        varying = [macro for macro in every[0] if len({defines[macro] for defines in every}) > 1]
        found += [
            pytest.param(module.SOURCE, defines, id=" ".join([name, *(f"{macro}={defines[macro]}" for macro in varying)]))
            for defines in every[::step]
        ]
    return found


FIRST = variants(1000)


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


def check(file: Path, defines: dict[str, str], arch: str, version: int) -> None:
    """Compile a variant and hold it to what a card has."""
    compile_it = compiler(version)
    if isinstance(compile_it, str):
        pytest.skip(compile_it)
    number = int(arch[3:])
    if number not in made_nvrtc12.architectures() if version == 12 else _cuda.architecture(divmod(number, 10)) != arch:
        pytest.skip(f"this NVRTC {version} does not know {arch}")
    begun = perf_counter()
    text = _cuda.source(file, defines)
    code, log = compile_it(text, file.name, arch)
    took = perf_counter() - begun
    assert code[:4] == b"\x7fELF"
    log = re.sub(r"nvrtc: warning: Architectures prior to .* are deprecated.*", "", log)  # NVRTC 12.8 on, of no source's doing
    if defines["ACC"] == "double":
        log = re.sub(r"ptxas warning : Registers are spilled.*", "", log)  # where speed does not matter
    assert not re.search(r"\bwarning\b|#\d+-D", log, re.IGNORECASE), log
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'(.*?)(?=Compiling entry|\Z)", log, re.DOTALL)
    assert sorted(name for name, _, _ in kernels) == sorted(entries(text))
    for name, target, said in kernels:
        assert target == arch
        used = {what: int(number) for number, what in re.findall(r"(\d+) (registers|bytes spill stores|bytes smem)", said)}
        print(f"{arch} NVRTC {version} {took:.1f} s {name} {used} {defines}")
        assert -(-used["registers"] // 8) * 8 * THREADS <= REGISTERS, f"{name}: a block does not fit"
        assert used.get("bytes smem", 0) <= STATIC_SHARED
        assert defines["ACC"] == "double" or used["bytes spill stores"] == 0, f"{name} spills"


def entries(text: str) -> list[str]:
    """The names of a source's kernels."""
    return re.findall(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\))?\s*(\w+)\(', text)


@pytest.mark.parametrize("arch", [*OLD, *NEW])
@pytest.mark.parametrize(("file", "defines"), FIRST)
def test_kernels_compile_for_every_card(file: Path, defines: dict[str, str], arch: str) -> None:
    check(file, defines, arch, 12 if arch in OLD else 13)


@pytest.mark.parametrize("arch", ["sm_60", "sm_90"])
@pytest.mark.parametrize(("file", "defines"), variants(4))
def test_a_quarter_of_the_variants_compile_for_pascal_and_hopper(file: Path, defines: dict[str, str], arch: str) -> None:
    check(file, defines, arch, 12 if arch in OLD else 13)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [*OLD, *NEW])
@pytest.mark.parametrize(("file", "defines"), variants())
def test_every_variant_compiles_for_every_card(file: Path, defines: dict[str, str], arch: str) -> None:
    check(file, defines, arch, 12 if arch in OLD else 13)


@pytest.mark.slow
@pytest.mark.parametrize("arch", NEW)
@pytest.mark.parametrize(("file", "defines"), variants(4))
def test_cuda_12_compiles_for_the_cards_that_it_shares_with_13(file: Path, defines: dict[str, str], arch: str) -> None:
    check(file, defines, arch, 12)


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
