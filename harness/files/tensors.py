"""Reads the tensors of weight files: safetensors, and torch's pickles without torch's unpickler.

Nothing in a file is run and nothing is allocated that the file does not hold. torch's own ``weights_only`` reader is not
used, because versions before 2.10 can be made to write outside their memory (CVE-2026-24747).
"""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from harness.errors import BadData

from .containers import Ignored, Refused, is_inert, model_of
from .weight_files import INDEX, shards

MAX_PICKLE = 1 << 26  # bytes of a pickle besides its tensors
MAX_EXPANDED = 1 << 20  # numbers that a tensor may have beyond those stored for it
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch before 1.6
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_NO_PICKLE = "save its state_dict, best as safetensors"


def read_tensors(file: Path, notes: list[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU; floating-point numbers of any width as float32.

    ``file`` is a safetensors file, a torch pickle of any version, or the index of a model in several files (INDEX). In a
    training loop's checkpoint the model's tensors are found by what they are (``state_dict``, ``model``, …); the prefixes
    of wrappers (``module.``, ``_orig_mod.``, Lightning's ``model.``) are taken off where every name has them. What was
    chosen or taken off is added to ``notes``.

    Raises:
        BadData: the file is damaged, holds something else, or is a pickle with more than tensors in it, which is not run.
        DataMissing: a file that an index names is not there.
    """
    notes = [] if notes is None else notes
    if file.name.endswith(INDEX):
        return _read_shards(file, notes)
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size:
            from safetensors.torch import load_file

            state: Any = load_file(file)
        elif zipfile.is_zipfile(file):
            state = _read_zip(file)
        elif head.lstrip()[:1] == b"<" or head.startswith(b"version https://git-lfs"):
            what = "a web page" if head.lstrip()[:1] == b"<" else "a Git LFS pointer"
            raise BadData(f"{what} instead of the file")
        elif file.suffix == ".safetensors" or not head:
            raise BadData("it is cut or empty")
        else:
            state = _read_legacy(file)
        state = model_of(state, notes)
        return {name: _checked(name, tensor) for name, tensor in state.items()}
    except Refused as error:
        raise BadData(f"checkpoint {file}: {error}") from None
    except MemoryError:
        size = file.stat().st_size
        raise BadData(f"checkpoint {file}: {size:,} bytes do not fit into memory; use a machine with more") from None
    except Exception as error:  # safetensors, zipfile and pickle each raise their own kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise BadData(f"checkpoint {file}: cannot be read as weights ({reason}); fetch it again") from None


def _read_shards(index: Path, notes: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for shard in shards(index):
        part = read_tensors(shard, notes)
        if twice := found.keys() & part.keys():
            raise BadData(f"checkpoint {index}: {min(twice)} is in two of its files; fetch them again")
        found |= part
    promised = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    if lacking := sorted(model_of(dict.fromkeys(promised, torch.empty(0)), []).keys() - found.keys()):
        raise BadData(f"checkpoint {index}: {lacking[0]} is in none of its files; fetch them again")
    return found


def _checked(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        raise Refused(f"{name} holds complex numbers, which no model here reads")
    if tensor.ndim > 1 and tensor.numel() == 0:
        raise Refused(f"{name} has the shape {tuple(tensor.shape)} and so no values; fetch it again")
    return tensor.float() if tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class _Storage:
    dtype: torch.dtype
    key: str
    count: int


_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]  # the one in Python, which allocates only what it reads


class _Reader(_Unpickler):
    """Reads a pickle of tensors; ``fetch`` gives the values of a storage. Whatever else a pickle may ask for is refused."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, stream: BinaryIO, fetch: Callable[[_Storage], Any]) -> None:
        super().__init__(stream, encoding="utf-8")
        self.fetch = fetch

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _plain,
            ("argparse", "Namespace"): Ignored,
            ("torch", "Size"): Ignored,
            ("torch", "device"): Ignored,
            ("torch._utils", "_rebuild_tensor"): self.tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if is_inert(module, name) or (module == "torch" and isinstance(vars(torch).get(name), torch.dtype)):
            return Ignored
        if module.startswith("torch._utils") and name.startswith("_rebuild_"):
            kind = name.removeprefix("_rebuild_").replace("_", " ")
            raise Refused(f"holds a {kind}, which is not read here (sparse, quantised or without values); {_NO_PICKLE}")
        called = f"{module}.{name}"[:80]
        raise Refused(f"a pickle with more than tensors in it ({called}) was refused, not run; {_NO_PICKLE}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str) or any(view):
            raise ValueError("unknown kind of storage")
        return _Storage(dtype, key, _natural(count))

    def tensor(self, storage: _Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> Tensor:
        shape, stride = tuple(map(_natural, shape)), tuple(map(_natural, stride))
        numbers = math.prod(shape)
        last = _natural(offset) + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if (numbers and last >= storage.count) or numbers > max(storage.count, MAX_EXPANDED):
            raise ValueError(f"a tensor of shape {shape} is larger than what is stored for it")
        values = self.fetch(storage)
        return values.as_strided(shape, stride, offset) if numbers else values.new_empty(shape)

    def parameter(self, tensor: Tensor, *_: Any) -> Tensor:
        return tensor

    def load_build(self) -> None:
        self.stack.pop()  # what an object is to be filled with; only names and tensors count

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].update(_plain([(key, value)]))

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(_plain(zip(items[::2], items[1::2], strict=True)))

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_plain(zip(items[::2], items[1::2], strict=True)))

    dispatch[pickle.DICT[0]] = load_dict
    for set_of_anything in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        del dispatch[set_of_anything[0]]


def _plain(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """A dict whose keys are text and numbers: tuples in tuples can take for ever to hash."""
    pairs = [(key, value) for key, value in pairs if key is not Ignored and not isinstance(key, Ignored)]
    if not all(isinstance(key, str | int | float) for key, _ in pairs):
        raise ValueError("a key that is neither text nor a number")
    return dict(pairs)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError(f"{type(value).__name__} where a size is expected")
    return value


def _read_zip(file: Path) -> Any:
    """torch's format since 1.6: an archive, uncompressed, of a pickle and one file for each storage."""
    left, kept = file.stat().st_size, {}
    with zipfile.ZipFile(file) as archive:

        def read(name: str) -> bytearray:
            nonlocal left
            entry = archive.getinfo(name)
            left -= entry.file_size
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or left < 0:
                raise ValueError(f"{name} is compressed or larger than the file, which torch never writes")
            if unchecked:
                entry.CRC = None  # type: ignore[assignment]
            return bytearray(archive.read(entry))  # compares its CRC-32

        def fetch(storage: _Storage) -> Tensor:
            if storage.key not in kept:
                kept[storage.key] = read(f"{root}data/{storage.key}")
            return _values(kept[storage.key], storage)

        unchecked = not any(entry.CRC for entry in archive.infolist())  # torch can be told to write none
        (root,) = {name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")}
        if f"{root}byteorder" in archive.namelist() and read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian numbers")
        if archive.getinfo(f"{root}data.pkl").file_size > MAX_PICKLE:
            raise Refused(f"its pickle is larger than {MAX_PICKLE:,} bytes without the tensors; {_NO_PICKLE}")
        return _Reader(io.BytesIO(read(f"{root}data.pkl")), fetch).load()


def _read_legacy(file: Path) -> Any:
    """torch's format before 1.6: five pickles, the fourth the state, and the storages one after the other."""
    wanted: dict[str, Tensor] = {}
    left = file.stat().st_size

    def promise(storage: _Storage) -> Tensor:
        nonlocal left
        if storage.key not in wanted:
            left -= storage.count * storage.dtype.itemsize
            if left < 0:
                raise ValueError(f"a storage of {storage.count} numbers is larger than the file")
            wanted[storage.key] = torch.empty(storage.count, dtype=storage.dtype)
        if (found := wanted[storage.key]).dtype != storage.dtype or len(found) != storage.count:
            raise ValueError("one storage of two kinds")
        return found

    def none(storage: _Storage) -> Any:
        raise ValueError("a tensor out of its place")

    with file.open("rb") as stream:
        if _Reader(stream, none).load() != _LEGACY_MAGIC or _Reader(stream, none).load() != _LEGACY_PROTOCOL:
            raise ValueError("not a file of torch")
        system = _Reader(stream, none).load()
        if not system["little_endian"]:
            raise ValueError("big-endian numbers")
        state, keys = _Reader(stream, promise).load(), _Reader(stream, none).load()
        if not all(isinstance(key, str) for key in keys) or set(wanted) - set(keys):
            raise ValueError("a storage is missing")
        for key in keys:
            if key not in wanted:
                raise ValueError(f"storage {key!r:.20} belongs to no tensor")
            count = int.from_bytes(stream.read(8), "little")
            values = stream.read(count * wanted[key].itemsize) if count == len(wanted[key]) else b""
            if len(values) != wanted[key].nbytes:
                raise ValueError("it is cut")
            if count:
                wanted[key].copy_(torch.frombuffer(bytearray(values), dtype=wanted[key].dtype))
    return state


def _values(content: bytearray, storage: _Storage) -> Tensor:
    if len(content) < storage.count * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} is cut")
    if not storage.count:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(content, dtype=storage.dtype, count=storage.count)
