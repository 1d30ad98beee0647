"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; what was written there takes its place when the block ends without an error.

    Whoever reads ``path`` meanwhile sees the old content, and so does everybody after a kill. Written to disk before it is
    renamed. The folder must exist.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path, option: str) -> None:
    """Make sure that files can be written in a folder, or in the one where it would be created. Creates nothing.

    Raises:
        UserError: they cannot; the message names ``option``, which chose the folder.
    """
    absolute = folder.absolute()
    existing = next(parent for parent in (absolute, *absolute.parents) if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except (OSError, ValueError) as error:
        raise UserError(
            f"{option} {folder}: cannot be written ({getattr(error, 'strerror', error)}); choose another folder with --{option}"
        ) from None
