"""What a thing is: code without comments and layout, files by content, values that are remembered until a file changes."""

from __future__ import annotations

import os

import pytest

from harness.errors import UserError
from harness.files.atomic import atomic
from harness.files.code import code_digest
from harness.files.fingerprint import digest, file_digest, file_states, plain, remembered

CODE = '''"""Docstring."""

import math


def area(radius: float, unit="m") -> str:
    """Another."""
    # a comment
    return f"{math.pi * radius ** 2:.{2}f} {unit}" + """kept
text"""
'''


class TestCode:
    def of(self, tmp_path, text: str) -> str:
        path = tmp_path / "model.py"
        path.write_text(text)
        return code_digest(path)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"""Docstring."""', '"""Another docstring."""'),
            ('    """Another."""\n', ""),
            ("# a comment", "# another comment"),
            ("import math\n\n\n", "import math  # why\n\n"),
            ("(radius: float, unit", "(\n    radius: float,  # in metres\n    unit"),
            ("\n", "\r\n"),
        ],
    )
    def test_comments_docstrings_and_layout_do_not_count(self, tmp_path, old, new):
        assert old in CODE
        assert self.of(tmp_path, CODE) == self.of(tmp_path, CODE.replace(old, new))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("** 2", "** 3"),
            ("{2}f}", "{3}f}"),
            ("kept", "changed"),
            ('"m"', '"cm"'),
            ("    return", "    if radius:\n        return"),
            ("import math", "import cmath as math"),
        ],
    )
    def test_statements_count(self, tmp_path, old, new):
        assert old in CODE
        assert self.of(tmp_path, CODE) != self.of(tmp_path, CODE.replace(old, new))

    @pytest.mark.parametrize("statement", ["import helper", "from helper import x", "def f():\n    from helper import x"])
    def test_a_module_beside_the_file_counts(self, tmp_path, statement):
        (tmp_path / "helper.py").write_text("x = 1\n")
        before = self.of(tmp_path, statement)
        (tmp_path / "helper.py").write_text("x = 2\n")
        assert self.of(tmp_path, statement) != before

    def test_so_do_the_modules_of_its_package_whatever_imports_them(self, tmp_path):
        package = tmp_path / "package"
        (package / "inner").mkdir(parents=True)
        for path, text in (
            ("__init__.py", ""),
            ("model.py", "from .inner import a\n"),
            ("inner/__init__.py", "from ..common import b as a\n"),
            ("common.py", "b = 1\n"),
            ("unrelated.py", "c = 1\n"),
        ):
            (package / path).write_text(text)
        before = code_digest(package / "model.py")
        (package / "unrelated.py").write_text("c = 2\n")
        assert code_digest(package / "model.py") == before
        (package / "common.py").write_text("b = 2\n")
        assert code_digest(package / "model.py") != before

    def test_what_is_no_python_is_refused(self, tmp_path):
        for content in (b"def f(:\n", b"\xff\xfe\x00"):
            (tmp_path / "model.py").write_bytes(content)
            with pytest.raises(UserError, match=r"model\.py: "):
                code_digest(tmp_path / "model.py")


@pytest.mark.usefixtures("own_cache")
class TestRemembered:
    def test_until_a_file_changes(self, tmp_path):
        path, calls = tmp_path / "file", []

        def compute() -> dict:
            calls.append(path.read_text())
            return {"content": calls[-1]}

        for text in ("one", "one", "two"):
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
            assert remembered("content", [path], [1], compute) == {"content": text}
        assert calls == ["one", "two"]
        remembered("content", [path], [2], compute)
        remembered("other content", [path], [1], compute)
        assert calls == ["one", "two", "two", "two"]

    def test_a_file_anywhere_in_a_folder_counts(self, tmp_path):
        folder = tmp_path / "folder/inner"
        folder.mkdir(parents=True)
        states = []
        for name, text in (("a", "1"), ("b", "1"), ("a", "22")):
            (folder / name).write_text(text)
            states.append(file_states([tmp_path / "folder"]))
        assert len({digest(state) for state in states}) == 3
        assert file_states([tmp_path / "none"])[0][1] is None

    def test_a_damaged_memory_heals(self, tmp_path):
        assert remembered("number", [], 0, lambda: 1) == 1
        (kept,) = (tmp_path / "cache").rglob("*.json")
        for damage in ("", "{", "[]", '{"what": 1}', kept.read_text().replace('"value": 1', '"value": 7'), "[" * 100_000):
            kept.write_text(damage)
            assert remembered("number", [], 0, lambda: 2) == 2
            assert remembered("number", [], 0, lambda: 3) == 2

    def test_a_cache_that_cannot_be_written_is_done_without(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert remembered("number", [], 0, lambda: 1) == 1
        assert remembered("number", [], 0, lambda: 2) == 2

    def test_the_digest_of_a_large_file_is_its_own(self, tmp_path):
        path = tmp_path / "large"
        path.write_bytes(bytes(1 << 23))
        first = file_digest(path)
        assert first == file_digest(path)
        path.write_bytes(b"1" + bytes((1 << 23) - 1))
        os.utime(path, (0, 0))
        assert file_digest(path) != first


class TestAtomic:
    def test_all_or_nothing(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        with pytest.raises(UnicodeEncodeError), atomic(path) as temporary:
            temporary.write_text("half a line, then \ud800", encoding="utf-8")
        assert path.read_text() == "old"
        with atomic(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_plain_values_are_those_of_json(tmp_path):
    assert plain({1: (1.5, float("nan"), tmp_path, None, True)}) == {"1": [1.5, None, str(tmp_path), None, True]}
    assert digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1})
    with pytest.raises(TypeError, match="has no place in a record"):
        plain({"a": object()})
