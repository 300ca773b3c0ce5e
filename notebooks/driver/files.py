"""Small helpers for files: digests, writing a file whole or not at all, and whether a folder can be written."""

import hashlib
import os
from pathlib import Path


def digest(*paths):
    """SHA-256 of the names and contents of files, as hexadecimal text."""
    total = hashlib.sha256()
    for path in paths:
        total.update(Path(path).name.encode() + b"\0")
        total.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return total.hexdigest()


def archived_records(root):
    """Records of archived runs under results/, which tables show beside this build's own."""
    from gleam.records.archive import ARCHIVED_PROFILES  # here and not above: it brings torch along

    wanted = [f'"profile": "{profile}"' for profile in ARCHIVED_PROFILES]
    texts = {path: path.read_text() for path in sorted((root / "results").glob("*/*/*.json"))}
    return [path for path, text in texts.items() if any(profile in text for profile in wanted)]


def write_text(path, text):
    """Write UTF-8 text whole or not at all."""
    from gleam.files import (
        written_whole,  # here and not above: it brings torch along, seconds that --help need not wait
    )

    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(folder, root):
    """Raise OSError, with a sentence, unless the folder, or the nearest one above that exists, can be written."""
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise OSError(f"{shown(nearest, root)} is a file, but must be a folder to write in: move it away.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OSError(f"The folder {shown(nearest, root)} cannot be written: change its permissions.")


def shown(path, root):
    """A path as messages show it: from the project's root if it is inside."""
    path = Path(path)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
