"""Files are written whole or not at all, and equal values give equal bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError

PathLike = str | os.PathLike[str]


def write_atomic(path: PathLike, data: str | bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it, so that no reader sees half a file.

    Raises HeadwayError when the folder is missing, not writable, or the disk is full.

    >>> write_atomic("/tmp/headway-example.txt", "whole")
    """
    write_together({path: data})


def write_together(files: Mapping[PathLike, str | bytes]) -> None:
    """Write files that belong together: all are complete on the disk before the first takes its name.

    A link stays one, and its file is written; a pipe or a device is written to, as there is nothing to rename. Raises
    HeadwayError as `write_atomic` does; whatever goes wrong, no temporary file is left.

    >>> write_together({"/tmp/headway-example.csv": "a,b", "/tmp/headway-example.json": "{}"})
    """
    prepared: list[tuple[str, Path]] = []
    target = Path()
    try:
        for path, data in files.items():
            target = Path(path)
            if _takes_bytes(target):
                target.write_bytes(data.encode() if isinstance(data, str) else data)
                continue
            if target.is_symlink():
                target = Path(os.path.realpath(target))
            descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            prepared.append((temporary, target))
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data.encode() if isinstance(data, str) else data)
            os.chmod(temporary, 0o666 & ~_umask())
        while prepared:
            temporary, target = prepared[0]
            os.replace(temporary, target)
            del prepared[0]
    except OSError as error:
        raise HeadwayError(f"{target}: cannot write: {error.strerror or error}; nothing was changed") from error
    finally:
        for temporary, _ in prepared:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _takes_bytes(path: Path) -> bool:
    """Whether a path is a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with a fixed layout: two-space indent, insertion order, newline at the end.

    Not-a-number and infinity are refused (ValueError): JSON has no word for them.

    >>> canonical_json({"a": 1})
    '{\\n  "a": 1\\n}\\n'
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def content_hash(value: Any) -> str:
    """Return a short stable hash (16 hex digits) of a JSON value or of bytes.

    >>> content_hash({"a": 1}) == content_hash({"a": 1})
    True
    """
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    return hashlib.sha256(raw).hexdigest()[:16]
