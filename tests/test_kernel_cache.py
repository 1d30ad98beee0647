"""Numba's cache on disk: damaged files are made again, and a disk that is full is done without."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numba
import pytest
from numba.core.caching import CompileResultCacheImpl

from harness.kernels import _compile

CODE = "def triple(x):\n    return 3 * x\n"


@pytest.fixture
def compile_it(tmp_path, monkeypatch):
    """Compiles a function as a new process would; the result says whether it came from the cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_compile, "_kernels", set())
    path = tmp_path / "kernels_of_a_test.py"
    path.write_text(CODE)

    def compiled() -> bool:
        spec = importlib.util.spec_from_file_location("kernels_of_a_test", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        triple = _compile.kernel(module.triple)
        assert triple(14) == 42
        return bool(triple.stats.cache_hits)

    return compiled


def files(tmp_path: Path, kind: str) -> list[Path]:
    return sorted((tmp_path / "cache").rglob(f"*.{kind}"))


def test_a_function_is_compiled_once(compile_it, tmp_path):
    assert [compile_it(), compile_it()] == [False, True]
    assert len(files(tmp_path, "nbi")) == len(files(tmp_path, "nbc")) == 1


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["empty", "half", "one bit", "rubbish", "end"])
def test_damaged_files_are_made_again(compile_it, tmp_path, kind, damage):
    compile_it()
    (path,) = files(tmp_path, kind)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "empty": b"",
            "half": content[:middle],
            "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "rubbish": b"\x80\x05rubbish" * 10,
            "end": content[:-1],
        }[damage]
    )
    assert [compile_it(), compile_it()] == [False, True]


def test_a_missing_half_is_made_again(compile_it, tmp_path):
    compile_it()
    files(tmp_path, "nbc")[0].unlink()
    assert [compile_it(), compile_it()] == [False, True]


def test_a_full_disk_is_said_and_done_without(compile_it, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_compile._CheckedFiles, "_save_data", full)
    with pytest.warns(RuntimeWarning, match=r"No space left on device.*compiled anew"):
        assert compile_it() is False


def test_without_a_folder_that_can_be_written_kernels_work(compile_it, monkeypatch):
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])  # neither the package's folder nor the user's
    with pytest.warns(RuntimeWarning, match="CPU kernels cannot be cached on disk"):
        assert compile_it() is False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert compile_it() is False
