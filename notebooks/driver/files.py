"""Small helpers for files: digests, and writing a file whole or not at all."""

import hashlib
import os
import tempfile
from pathlib import Path


def digest(*paths):
    """SHA-256 of the names and contents of files, as hexadecimal text."""
    total = hashlib.sha256()
    for path in paths:
        total.update(Path(path).name.encode() + b"\0")
        total.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return total.hexdigest()


def write_text(path, text):
    """Write UTF-8 text to a temporary neighbour, then move it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
