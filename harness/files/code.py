"""code_digest(): the code that can change a number, as a sha256 that comments and layout do not change."""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

import harness
from harness.errors import UserError

from .fingerprint import digest

# Modules that no number depends on: they say, store, fetch or look up. What they fetch is compared by its checksum.
INERT = (
    "harness",
    "harness.card",
    "harness.errors",
    "harness.facts",
    "harness.progress",
    "harness.registry",
    "harness.cli",
    "harness.evidence.folders",
    "harness.evidence.records",
    "harness.evidence.schema",
    "harness.files.atomic",
    "harness.files.code",
    "harness.files.download",
    "harness.files.fingerprint",
    "harness.files.formats",
    "harness.files.hub",
    "harness.files.sources",
    "harness.kernels.backends",  # a record says which one served it
    "harness.kernels.compilation",
)


def code_digest(*files: Path, follow: bool = True) -> str:
    """sha256 over Python files and, with ``follow``, over what they import of this project and of their own folder.

    With a kernel's module goes the CUDA source beside it. Comments, docstrings and layout do not count, nor do the INERT modules.
    The same in a checkout and in a wheel, and in every version of Python.

    Raises:
        UserError: a file cannot be read as Python.
    """
    return digest(code_modules(*files, follow=follow))


def code_modules(*files: Path, follow: bool = True) -> dict[str, str]:
    """The modules that :func:`code_digest` is about: their names and statements."""
    found: dict[str, str] = {}
    waiting = [(_module_name(file), file) for file in files]
    while waiting:
        name, file = waiting.pop()
        if name in found or _inert(name):
            continue
        status = file.stat()
        found[name], imports = _read_module(name, file, status.st_mtime_ns, status.st_size)
        if name.startswith("harness.kernels."):
            found |= {f"{name} {source.name}": _cuda_statements(source) for source in sorted(file.parent.glob("*.cu*"))}
        if follow:
            waiting += imports
    return found


def _cuda_statements(file: Path) -> str:
    return " ".join(re.sub(r"//.*", "", _source(file)).split())


@lru_cache(maxsize=1024)
def _read_module(name: str, file: Path, changed: int, size: int) -> tuple[str, tuple[tuple[str, Path], ...]]:
    """A file's statements, and the modules that it imports; read again when it was changed."""
    imports = tuple(_imports(name, file))  # first: it says what is no Python
    return _statements(file), imports


def _imports(name: str, file: Path) -> Iterator[tuple[str, Path]]:
    """The modules, as name and file, that a file imports wherever it does, of this project or beside the file itself."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module or "") if part)
            wanted = [base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)]
        else:
            continue
        for module in wanted:
            found = _find(module, file, name)
            if found is not None:
                yield module, found


_read: set[Path] | None = None  # the files that are being noted


@contextmanager
def watch_reading() -> Iterator[set[Path]]:
    """While it lasts, the files that Python opens for reading are noted; not those of the project or of installed packages."""
    global _read
    _install_watch()
    _read, before = set(), _read
    try:
        yield _read
    finally:
        _read = before


@cache
def _install_watch() -> None:
    """Once per process, since an audit hook cannot be taken out again."""
    roots = [Path(root).resolve() for root in harness.__path__]
    project = [roots[0], *(root / room for root in roots for room in ("adapters", "tasks", "kernels"))]
    elsewhere = [*project, *map(Path, ("/proc", "/sys", "/dev", "/etc"))]

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event != "open" or _read is None or not isinstance(arguments[0], str):
            return
        path, mode = Path(arguments[0]), str(arguments[1] or "r")
        if "r" not in mode or path.suffix == ".pyc" or not path.is_file():
            return
        path = path.resolve()
        if not _installed(path.parent) and not any(path.is_relative_to(folder) for folder in elsewhere):
            _read.add(path)

    sys.addaudithook(note)


def beside(file: Path, read: Iterable[Path]) -> list[Path]:
    """Of files that were read, those that are no code that :func:`code_digest` of ``file`` is about."""
    known = code_modules(file)
    return sorted(path for path in read if path != file.resolve() and (path.suffix != ".py" or _module_name(path) not in known))


def _inert(name: str) -> bool:
    return name in INERT or name.startswith("harness.cli.")


def _find(module: str, importer: Path, importer_name: str) -> Path | None:
    """The file of a module of this project, of the importer's own package, or beside a file outside installed packages."""
    parts, own = module.split("."), importer_name.split(".")
    if parts[0] == "harness":
        roots = [Path(root, *parts[1:]) for root in harness.__path__] if len(parts) > 1 else [Path(harness.__path__[0])]
    elif own[0] == "harness":
        return None  # what the project leans on is known by its version
    else:
        levels = len(own) - (importer.name != "__init__.py")
        home = importer.resolve().parent.parents[levels - 1] if levels else importer.resolve().parent
        homes = [home] if parts[0] == own[0] or not _installed(home) else []
        roots = [Path(root, *parts) for root in dict.fromkeys([*homes, *_own_paths()])]
    for root in roots:
        for candidate in (root.with_suffix(".py"), root / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@cache
def _own_paths() -> tuple[Path, ...]:
    """The entries of Python's search path that hold neither the standard library nor installed packages."""
    entries = [Path(entry or os.curdir).resolve() for entry in sys.path]
    return tuple(entry for entry in entries if entry.is_dir() and not _installed(entry))


def _installed(folder: Path) -> bool:
    """Whether a folder is one of the standard library, or of installed packages, the user's own included."""
    known = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    places = (folder, *folder.parents)
    return any(place in known or place.name in ("site-packages", "dist-packages") for place in places)


def _module_name(file: Path) -> str:
    """The dotted name that a file of the project or of a package is imported by; the stem of any other."""
    file = file.resolve()
    for root in map(Path, reversed(harness.__path__)):
        if file.is_relative_to(root.resolve()) and (parts := file.relative_to(root.resolve()).with_suffix("").parts):
            if root != Path(harness.__path__[0]) and parts[0] not in ("adapters", "tasks", "kernels"):
                continue
            return ".".join(["harness", *parts]).removesuffix(".__init__")
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts).removesuffix(".__init__")


def _source(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as Python ({error})") from None


def _tree(file: Path) -> ast.Module:
    try:
        return ast.parse(_source(file), str(file))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{file}: not Python that can be read ({error})") from None


def _statements(file: Path) -> str:
    """A file's code without comments, blank lines, docstrings and line breaks inside statements."""
    source = _source(file)
    lines = source.splitlines(keepends=True)
    words, statement, opened = [], [], None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        # Since Python 3.12 an f-string comes in pieces; its text is the same in every version.
        if kind in ("FSTRING_START", "TSTRING_START"):
            opened = (token.start, 1) if opened is None else (opened[0], opened[1] + 1)
        if opened is not None:
            if kind in ("FSTRING_END", "TSTRING_END"):
                opened = (opened[0], opened[1] - 1)
                if opened[1] == 0:
                    statement.append(_between(lines, opened[0], token.end))
                    opened = None
            continue
        if kind in ("COMMENT", "NL", "ENCODING"):
            continue
        if kind in ("INDENT", "DEDENT"):
            words.append(kind)
        elif kind in ("NEWLINE", "ENDMARKER"):
            if not (len(statement) == 1 and statement[0].lstrip("rRuUbB")[:1] in ("'", '"')):
                words.append(" ".join(statement))
            statement = []
        else:
            statement.append(token.string)
    return "\n".join(words)


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text of a source from one (line, column) to another; lines count from 1."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]]
    return "".join([lines[start[0] - 1][start[1] :], *lines[start[0] : end[0] - 1], lines[end[0] - 1][: end[1]]])
