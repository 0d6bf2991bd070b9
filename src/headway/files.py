"""Files are written whole or not at all, and equal values give equal bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write `data` to a temporary file beside `path`, then rename it, so that no reader sees half a file.

    Raises HeadwayError when the folder is missing, not writable, or the disk is full.

    >>> write_atomic("/tmp/headway-example.txt", "whole")
    """
    target = Path(path)
    raw = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(raw)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise HeadwayError(f"{target}: cannot write: {error.strerror or error}; nothing was changed") from error


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
