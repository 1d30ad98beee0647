"""How CUDA kernels are chosen for a card, kept on disk and launched, with stand-ins for the driver, NVRTC and torch's view of the card.

The stand-ins check what they are given as cuda-bindings 12.9 and 13.5 do: their sources say what may come as what.
"""

from __future__ import annotations

import ctypes
import enum
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from harness.kernels import _cuda

ROOT = Path(__file__).parents[1]
GPU = torch.device("cuda", 1)
Result = enum.IntEnum("Result", {"SUCCESS": 0, "INVALID_VALUE": 1, "COMPILATION": 6})
OK = Result.SUCCESS


class Nvrtc(ModuleType):
    """NVRTC whose machine code says what it was made from."""

    def __init__(self) -> None:
        super().__init__("cuda.bindings.nvrtc")
        self.version, self.known, self.compiled, self.alive, self.log = (13, 5), [75, 80, 86, 90, 100, 120], 0, 0, b""

    def nvrtcVersion(self):
        return OK, *self.version

    def nvrtcGetSupportedArchs(self):
        return OK, list(self.known)

    def nvrtcCreateProgram(self, text, name, count, headers, names):
        assert isinstance(text, bytes)
        assert isinstance(name, bytes)
        assert (count, headers, names) == (0, [], [])
        self.alive += 1
        return OK, SimpleNamespace(text=text)

    def nvrtcCompileProgram(self, program, count, options):
        assert isinstance(options, list)
        assert count == len(options)
        assert all(isinstance(option, bytes) for option in options)
        self.compiled += 1
        program.code = b"\x7fELF" + b"|".join([program.text, *options])
        return ((Result.COMPILATION if b"wrong" in program.text else OK),)

    def nvrtcGetProgramLogSize(self, program):
        return OK, len(self.log) + 1

    def nvrtcGetProgramLog(self, program, buffer):
        return self._write(self.log + b"\0", buffer)

    def nvrtcGetCUBINSize(self, program):
        return OK, len(program.code)

    def nvrtcGetCUBIN(self, program, buffer):
        return self._write(program.code, buffer)

    def nvrtcGetPTXSize(self, program):
        return OK, len(b".version 9.0\0")

    def nvrtcGetPTX(self, program, buffer):
        return self._write(b".version 9.0\0", buffer)

    def nvrtcDestroyProgram(self, program):
        self.alive -= 1
        return (OK,)

    def _write(self, content, buffer):
        assert isinstance(buffer, bytearray), "bytes may be shared: what is written into them changes them everywhere"
        assert len(buffer) == len(content)
        buffer[:] = content
        return (OK,)


class Driver(ModuleType):
    """A driver that notes what it is asked."""

    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="shared")

    def __init__(self) -> None:
        super().__init__("cuda.bindings.driver")
        self.context, self.calls, self.version, self.answer = 7, [], 13_000, OK

    def cuDriverGetVersion(self):
        return OK, self.version

    def cuCtxGetCurrent(self):
        return OK, self.context

    def cuDeviceGet(self, ordinal):
        assert type(ordinal) is int
        return OK, ("device", ordinal)

    def cuDevicePrimaryCtxRetain(self, device):
        self.calls.append(("retain", device))
        return OK, 8

    def cuCtxSetCurrent(self, context):
        self.context = context
        return (OK,)

    def cuModuleLoadData(self, image):
        assert type(image) is bytes
        self.calls.append(("load", image))
        return OK, ("module", len(self.calls))

    def cuModuleGetFunction(self, module, name):
        assert type(name) is bytes
        return OK, (module, name)

    def cuFuncSetAttribute(self, function, attribute, value):
        assert type(value) is int
        self.calls.append((attribute, value))
        return (OK,)

    def cuLaunchKernel(self, function, *given):
        *sizes, stream, parameters, extra = given
        assert len(sizes) == 7
        assert all(type(size) is int and 0 <= size < 2**32 for size in (*sizes, stream, extra))
        assert self.context
        values, types = parameters
        assert type(values) is tuple
        assert type(types) is tuple
        assert len(values) == len(types)
        for value, kind in zip(values, types, strict=True):
            assert type(value) is int
            assert kind in (ctypes.c_longlong, ctypes.c_void_p)
            assert (kind(value).value or 0) == value
        self.calls.append(("launch", function[1], tuple(sizes), stream, values, types))
        return (self.answer,)


class OnGpu(torch.Tensor):
    """A tensor of a GPU that is not there."""

    device = GPU  # type: ignore

    @staticmethod
    def __new__(cls, address: int):
        tensor = torch.empty(3).as_subclass(cls)
        tensor.data_ptr = lambda: address
        return tensor


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch, own_cache):
    """Stand-ins for cuda-bindings and for what torch says of the card, which is number 1 and of compute capability 9.0."""
    package = SimpleNamespace(driver=Driver(), nvrtc=Nvrtc(), capability=(9, 0), guarded=[])
    cuda, middle = ModuleType("cuda"), ModuleType("cuda.bindings")
    cuda.bindings, middle.driver, middle.nvrtc = middle, package.driver, package.nvrtc  # type: ignore
    for module in (cuda, middle, package.driver, package.nvrtc):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    @contextmanager
    def guard(device):
        package.guarded.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=11 if device == GPU else 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: package.capability)
    for remembered in (_cuda._missing, _cuda._function, _cuda._module):
        remembered.cache_clear()
    yield package
    for remembered in (_cuda._missing, _cuda._function, _cuda._module):
        remembered.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "some.cu"
    path.write_text('extern "C" __global__ void work(float* x, index_t n) {}\n')
    return path


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*"))[2:]  # below gfm-harness/kernels


# --- which cards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "known", "arch"),
    [
        ((9, 0), [75, 80, 90, 100], "sm_90"),
        ((8, 9), [75, 80, 86, 90], "sm_86"),  # machine code runs on later cards of its generation
        ((12, 1), [75, 90, 100, 120], "sm_120"),
        ((13, 0), [75, 90, 100, 120], "compute_120"),
        ((11, 0), [75, 90, 100, 120], "compute_100"),  # a generation between those that NVRTC knows
        ((6, 0), [50, 52, 53, 60, 61, 62, 70], "sm_60"),
    ],
)
def test_what_is_compiled_for_a_card(capability, known, arch, bindings) -> None:
    bindings.nvrtc.known = known
    assert _cuda.architecture(capability) == arch


def test_the_card_can_be_served(bindings) -> None:
    assert _cuda.missing(GPU) == ""


def test_cards_that_are_too_old(bindings) -> None:
    bindings.capability = (5, 2)
    assert _cuda.missing(GPU) == "the card's compute capability is 5.2; the kernels need 6.0"
    bindings.capability = (6, 0)
    assert "NVRTC 13.5 does not compile for compute capability 6.0: use torch's build for CUDA 12" in _cuda.missing(GPU)


def test_code_of_a_newer_cuda_than_the_drivers_is_not_made(bindings) -> None:
    bindings.driver.version = 12_040
    assert "NVRTC 13.5 writes code that a driver for CUDA 12.4 does not load" in _cuda.missing(GPU)
    assert _cuda.missing(GPU).endswith("uninstall nvidia-cuda-nvrtc and install nvidia-cuda-nvrtc-cu12")
    _cuda._missing.cache_clear()
    bindings.nvrtc.version = (12, 9)  # minor versions may differ
    assert _cuda.missing(GPU) == ""


@pytest.mark.parametrize("absent", ["cuda", "cuda.bindings", "cuda.bindings.nvrtc"])
def test_without_cuda_bindings(absent: str, bindings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    for name in ("cuda.bindings", "cuda.bindings.driver", "cuda.bindings.nvrtc"):
        if name.startswith(f"{absent}."):
            monkeypatch.delitem(sys.modules, name)
    assert _cuda.missing(GPU) == "cuda-bindings is not installed: pip install 'gfm-harness[gpu]'"


def test_without_nvrtc(bindings, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere():
        raise RuntimeError("Failure finding 'libnvrtc.so.13'\nmany more lines")

    monkeypatch.setattr(bindings.nvrtc, "nvrtcVersion", nowhere)
    for version, package in ("12.6", "nvidia-cuda-nvrtc-cu12"), ("13.0", "nvidia-cuda-nvrtc"), (None, "nvidia-cuda-nvrtc"):
        monkeypatch.setattr(torch.version, "cuda", version)
        _cuda._missing.cache_clear()
        assert _cuda.missing(GPU) == f"NVRTC cannot be loaded (Failure finding 'libnvrtc.so.13'): install {package}"


# --- compiled and kept on disk ---------------------------------------------------------------------------------------------


def test_ptx_and_an_empty_log(bindings) -> None:
    code, log = _cuda.compile("text", "some.cu", "compute_120")
    assert (code, log, bindings.nvrtc.alive) == (b".version 9.0\0", "", 0)


def test_a_source_that_does_not_compile(bindings) -> None:
    bindings.nvrtc.log = 'some.cu(3): error: identifier "π" is undefined'.encode()
    with pytest.raises(RuntimeError, match=r'some.cu does not compile for sm_90:\nsome.cu\(3\): error: identifier "π"'):
        _cuda.compile("wrong", "some.cu", "sm_90")
    assert bindings.nvrtc.alive == 0


def test_code_is_compiled_once(bindings, tmp_path: Path) -> None:
    first, second = (_cuda.kept_code("text", "some.cu", "sm_90") for _ in range(2))
    assert first == second
    assert first.startswith(b"\x7fELFtext|")
    assert bindings.nvrtc.compiled == 1
    assert [path.name[:11] for path in kept(tmp_path)] == ["some-sm_90-"]


def test_the_key_is_all_that_code_depends_on(bindings, monkeypatch: pytest.MonkeyPatch) -> None:
    _cuda.kept_code("text", "some.cu", "sm_90")
    _cuda.kept_code("other text", "some.cu", "sm_90")
    _cuda.kept_code("text", "some.cu", "sm_80")
    bindings.nvrtc.version = (13, 6)
    _cuda.kept_code("text", "some.cu", "sm_90")
    monkeypatch.setattr(_cuda, "OPTIONS", (*_cuda.OPTIONS, "--fmad=false"))
    _cuda.kept_code("text", "some.cu", "sm_90")
    assert bindings.nvrtc.compiled == 5
    _cuda.kept_code("text", "some.cu", "sm_90")
    assert bindings.nvrtc.compiled == 5


@pytest.mark.parametrize("damage", ["empty", "half", "one bit", "rubbish", "end"])
def test_damaged_code_is_made_again(damage: str, bindings, tmp_path: Path) -> None:
    code = _cuda.kept_code("text", "some.cu", "sm_90")
    (path,) = kept(tmp_path)
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "one bit": bytes([content[0] ^ 1]) + content[1:],
        "rubbish": b"rubbish" * 20,
        "end": content[:-1],
    }[damage]
    path.write_bytes(changed)
    assert _cuda.kept_code("text", "some.cu", "sm_90") == code
    assert path.read_bytes() == content
    assert bindings.nvrtc.compiled == 2


@pytest.mark.parametrize("obstacle", ["a file for the folder", "a folder for the file"])
def test_code_that_cannot_be_kept(obstacle: str, bindings, tmp_path: Path) -> None:
    if obstacle == "a file for the folder":
        (tmp_path / "cache").write_text("in the way")
    else:
        _cuda.kept_code("text", "some.cu", "sm_90")
        (path,) = kept(tmp_path)
        path.unlink()
        (path / "in the way").mkdir(parents=True)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match=r"GPU kernels cannot be kept on disk \(.*\) and are compiled anew"):
            assert _cuda.kept_code("text", "some.cu", "sm_90").startswith(b"\x7fELFtext|")
    assert not [path for path in (tmp_path / "cache").rglob("*.bin") if path.is_file()]
    assert len(kept(tmp_path)) == (0 if obstacle == "a file for the folder" else 2)  # nothing half-written is left


def test_threads_at_once_keep_one_file(bindings, tmp_path: Path) -> None:
    together, found = threading.Barrier(8), []

    def work() -> None:
        together.wait()
        found.append(_cuda.kept_code("text", "some.cu", "sm_90"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == len(kept(tmp_path)) == 1


@pytest.mark.slow
def test_processes_at_once_keep_one_file(own_cache, tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings")
    code = (
        "from harness.kernels import _cuda; import hashlib\n"
        """text = 'extern "C" __global__ void f(int* x) { *x = 1; }'\n"""
        "print(hashlib.sha256(_cuda.kept_code(text, 'some.cu', 'sm_90')).hexdigest())"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(said) == len(kept(tmp_path)) == 1


# --- launched --------------------------------------------------------------------------------------------------------------


def launch(source: Path, values, grid=(5, 2, 3), defines=(("ACC", "float"),), shared=0) -> None:
    _cuda.launch(source, "work", grid, 96, values, dict(defines), shared)


def test_what_the_driver_is_given(bindings, source: Path) -> None:
    launch(source, (OnGpu(0x7F00_0000_1000), 2**40, None, 0, -3, OnGpu(0x7F00_0000_2000)), shared=1024)
    load, given = bindings.driver.calls
    assert load[0] == "load"
    assert b"#define ACC float\n" in load[1]
    assert b"typedef long long index_t;" in load[1]
    assert b"--gpu-architecture=sm_90" in load[1]
    pointer, number = ctypes.c_void_p, ctypes.c_longlong
    values = (0x7F00_0000_1000, 2**40, 0, 0, -3, 0x7F00_0000_2000)
    types = (pointer, number, pointer, number, number, pointer)
    assert given == ("launch", b"work", (5, 2, 3, 96, 1, 1, 1024), 11, values, types)
    assert bindings.guarded == [GPU]


def test_a_function_is_loaded_once_for_its_macros(bindings, source: Path) -> None:
    for defines in ((("ACC", "float"),), (("ACC", "float"),), (("ACC", "double"),)):
        launch(source, (OnGpu(1),), defines=defines)
    assert [call[0] for call in bindings.driver.calls] == ["load", "launch", "launch", "load", "launch"]


def test_much_shared_memory_is_asked_for_first(bindings, source: Path) -> None:
    launch(source, (OnGpu(1),), shared=48 * 1024)
    launch(source, (OnGpu(1),), shared=48 * 1024 + 1)
    assert [call[0] for call in bindings.driver.calls] == ["load", "launch", "shared", "launch"]
    assert bindings.driver.calls[2] == ("shared", 48 * 1024 + 1)


def test_a_thread_without_a_context_takes_the_cards(bindings, source: Path) -> None:
    bindings.driver.context = 0  # torch sets its device only if it is not the thread's already, and that makes no context
    launch(source, (OnGpu(1),))
    launch(source, (OnGpu(1),))
    assert [call[:2] for call in bindings.driver.calls if call[0] == "retain"] == [("retain", ("device", 1))]
    assert bindings.driver.context == 8


def test_nothing_is_launched_for_an_empty_grid(bindings, source: Path) -> None:
    launch(source, (OnGpu(1),), grid=(0, 1, 1))
    assert bindings.driver.calls == []


def test_the_drivers_error_is_named(bindings, source: Path) -> None:
    bindings.driver.answer = Result.INVALID_VALUE
    with pytest.raises(RuntimeError, match="Result INVALID_VALUE"):
        launch(source, (OnGpu(1),))
