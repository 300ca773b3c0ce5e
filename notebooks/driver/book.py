"""Build the pages with Jupyter Book, always all of them, and put them in place only when there was no warning."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

from driver.files import archived_records, check_writable, digest, write_text


def build(profile, root):
    """Build the book into _build/html unless it is up to date; True on success, else the old pages stay."""
    key = _key(profile, root)
    pages, stamp = root / "_build" / "html", root / "_build" / "book.key"
    index = (pages / "index.html").relative_to(root).as_posix()
    if (root / index).is_file() and stamp.is_file() and stamp.read_text() == key:
        print(f"book: up to date\nOpen {index}", flush=True)
        return True
    check_writable(root / "_build", root)
    print("book: building", flush=True)
    start = time.monotonic()
    fresh = root / "_build" / "next"
    shutil.rmtree(fresh, ignore_errors=True)
    log = _jupyter_book(root, fresh, profile)
    if log:
        write_text(root / "_build" / "book.log", log)
        print("book: FAILED, and the earlier pages stay (all output: _build/book.log)", file=sys.stderr)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", log).splitlines()  # without colours
        complaints = [line for line in lines if re.search(r"WARNING|ERROR|SEVERE|Error:", line)]
        print("\n".join(complaints[:20] or lines[-5:]), file=sys.stderr, flush=True)
        return False
    stamp.unlink(missing_ok=True)
    shutil.rmtree(pages, ignore_errors=True)
    os.replace(fresh / "_build" / "html", pages)
    shutil.rmtree(fresh)
    write_text(stamp, key)
    print(f"book: done in {time.monotonic() - start:.0f} s\nOpen {index}", flush=True)
    return True


def _jupyter_book(root, fresh, profile):
    """Run the build; "" if it went well, else its output."""
    # --all and a fresh folder: an incremental build can leave an old number on another page
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "book", "--all"]
    command += ["--config", "_config.yml", "--path-output", fresh.relative_to(root).as_posix()]
    command += ["-n", "-W", "--keep-going"]
    environment = os.environ | {"GLEAM_PROFILE": profile, "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout if done.returncode else ""


def _key(profile, root):
    """Digest of all that the pages are made from."""
    copied = root / "book" / "chapters" / "figures"  # by the build itself, from the records
    pages = (path for path in sorted((root / "book").rglob("*")) if path.is_file() and path.suffix != ".pyc")
    sources = [path for path in pages if not path.is_relative_to(copied)]
    sources += [path for path in sorted((root / "_work" / profile / "records").rglob("*")) if path.is_file()]
    sources += sorted((root / "data" / "published").glob("*.csv")) + archived_records(root)
    sources += sorted((root / "gleam").rglob("*.py"))
    sources += [path for path in (root / "_config.yml", root / "requirements.lock") if path.is_file()]
    total = hashlib.sha256(profile.encode())
    for path in sources:
        total.update(path.relative_to(root).as_posix().encode() + digest(path).encode())
    return total.hexdigest()
