"""What the results of a chapter depend on, and whether its published page is stale."""

import hashlib
import json
import re

from driver import data
from driver.chapters import read_notebook
from driver.files import archived_records, digest

UNGUARDED = ("cost", "records")  # rooms of gleam that measure and draw: no golden number guards them


def current_key(chapter, parameters, profile, folders, root):
    """Everything a chapter's results depend on, item by item, so that a difference can be named.

    What the library computes is represented by the results version, which a test of golden numbers guards; what it
    measures and draws, by its code.
    """
    from gleam.training.identity import RESULTS_VERSION  # here and not above: it brings torch along

    cells = [(c.cell_type, c.source, c.metadata) for c in read_notebook(chapter.source).cells]
    files = sorted((root / "gleam" / "datasets" / "lists").glob("*.csv"))
    files += sorted((root / "data" / "published").glob("*.csv"))
    files += [path for path in [root / "requirements.lock"] if path.is_file()]
    shows_archive = any(re.search(r"records\.(archived|seeds_text)|build\.report", source) for _, source, _ in cells)
    files += archived_records(root) if shows_archive else []
    quoted = re.findall(r"""["']\.\./results/([\w.-]+)["']""", "\n".join(source for _, source, _ in cells))
    for named in (root / "results" / name for name in sorted(set(quoted))):  # files, or folders of records
        paths = [named] if named.is_file() else sorted(named.rglob("*.*"))
        files += [path for path in paths if path.is_file()]  # a folder may have a dot in its name, as noise_0.015
    return {
        "profile": profile,
        "notebook": hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest(),
        "parameters": dict(parameters),
        "results_version": RESULTS_VERSION,
        "files": _code(root) | {path.relative_to(root).as_posix(): digest(path) for path in files},
        "data": {n: data.identity(n, folder, root) for n, folder in folders.items() if n in chapter.declared},
    }


def _code(root):
    """Digests of the modules that no golden number guards, blind to comments, docstrings and names of variables."""
    from gleam.training.identity import normalised

    modules = [path for room in UNGUARDED for path in sorted((root / "gleam" / room).glob("*.py"))]
    texts = {path.relative_to(root).as_posix(): normalised(path.read_text(encoding="utf-8")) for path in modules}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def published_key(chapter):
    """The key that the published chapter was made from; None if it was never run or is damaged."""
    try:
        key = json.loads(chapter.published.read_text(encoding="utf-8"))["metadata"]["made_from"]
        return key if {"profile", "notebook", "parameters", "files", "data"} <= set(key) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def published_profiles(chapters):
    """Names of the profiles that the published chapters were made with, sorted."""
    return sorted({key["profile"] for key in map(published_key, chapters) if key})


def lacks_records(chapter, profile, root):
    """Whether a record that the chapter saved is gone, so that prose and tables would not find their numbers."""
    saved = (published_key(chapter) or {}).get("records", [])
    return any(not (root / "_work" / profile / "records" / name).is_file() for name in saved)


def why_stale(chapter, key):
    """What differs from the key that the published chapter was made from, in words; an empty text if nothing does."""
    old = published_key(chapter)
    if old is None:
        return "never run"
    old = {name: value for name, value in old.items() if name != "records"}
    if old == json.loads(json.dumps(key)):
        return ""
    if old["profile"] != key["profile"]:
        return f"stale (made with the profile {old['profile']})"
    changes = ["the notebook changed"] if old["notebook"] != key["notebook"] else []
    changes += ["the results version changed"] if old.get("results_version") != key["results_version"] else []
    changes += [f"parameter {name} changed" for name in _differing(old["parameters"], key["parameters"])]
    changes += [f"{name} changed" for name in _differing(old["files"], key["files"])]
    changes += [f"{name.removesuffix('_dir')} data changed" for name in _differing(old["data"], key["data"])]
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    return f"stale ({', '.join(changes[:3])}{more})"


def _differing(old, new):
    new = json.loads(json.dumps(new))
    return [name for name in sorted({*old, *new}) if name not in old or name not in new or old[name] != new[name]]
