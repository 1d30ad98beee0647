"""new_adapter(): a small adapter file to start from."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from harness import registry
from harness.errors import UserError


def new_adapter(name: str, folder: Path) -> Path:
    """Write ``<name>.py``, a small adapter that runs as it is and says what to replace: a copy of ``template.py``.

    Raises:
        UserError: the name is malformed or taken, there is no such folder, or the file exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(f"name {name!r}: use lower-case letters, digits and underscores, as in my_model")
    if name in registry.model_files() or name == registry.FLOORS:
        raise UserError(f"name {name!r}: there is a model of that name; choose another")
    path = folder / f"{name}.py"
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r}: no such folder; create it first")
    if path.exists():
        raise UserError(f"{path}: exists, and was not touched; choose another name or --folder")
    if (module := find_spec(name)) is not None and module.origin is not None:
        raise UserError(f"name {name!r}: there is a Python module of that name, which {path.name} would hide; choose another")
    text = Path(__file__).with_name("template.py").read_text(encoding="utf-8")
    names = {"template": name, "Template": "".join(word.capitalize() for word in name.split("_"))}
    path.write_text(re.sub("template|Template", lambda found: names[found[0]], text), encoding="utf-8")
    return path
