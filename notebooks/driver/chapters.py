"""Chapters: which there are, what parameters they take, whether they are stale, and what of them is published."""

import ast
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from driver import data
from driver.files import archived_records, digest, write_text

KINDS = {float: float | int}  # what may be given where a chapter has a literal of a type
MAX_VALUES = 10_000  # of a profile, which has some hundred
NOT_SHOWN = {"remove-cell", "remove-output", "remove-outputs", "remove-stderr"}  # tags of cells without it on the page
UNGUARDED = ("cost", "records")  # rooms of gleam that measure and draw: no golden number guards them


@dataclass(frozen=True)
class Chapter:
    """A clean notebook, and where its executed copy goes."""

    name: str
    source: Path
    published: Path
    declared: dict  # names assigned in its cell tagged `parameters`, with their values where these are literals


def discover(root):
    """All chapters, notebooks/[0-9][0-9]_*.ipynb, in order."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [Chapter(p.stem, p, root / "book" / "chapters" / p.name, _declared(p)) for p in found]


def read_notebook(path):
    """A notebook in the current format. Raises OSError, with a sentence, if the file is damaged or something else."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        return notebook
    except (AttributeError, KeyError, TypeError, ValueError, nbformat.ValidationError) as error:
        raise OSError(f"{path.parent.name}/{path.name} is not a whole notebook: restore it.") from error


def _declared(path):
    declared = {}
    for cell in read_notebook(path).cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                tree = ast.parse(cell.source)
            except SyntaxError as error:
                raise OSError(f"notebooks/{path.name}: the parameters cell is not Python ({error.msg}).") from error
            for node in ast.walk(tree):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    declared.setdefault(node.id, None)
                elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                    declared |= {target.id: node.value.value for target in node.targets if hasattr(target, "id")}
    return declared


def select(chapters, wanted):
    """Chapters named by text such as "01 04_mridata": numbers or beginnings of names, or all if the text is empty."""
    words = re.split(r"[\s,]+", wanted.strip()) if wanted.strip() else []
    names = set()
    for word in words:
        prefix = word.removesuffix(".ipynb")
        prefix = f"{int(prefix):02d}_" if prefix.isdecimal() else prefix
        matches = [chapter.name for chapter in chapters if chapter.name.startswith(prefix)]
        if not matches:
            known = ", ".join(chapter.name for chapter in chapters) or "none yet"
            raise ValueError(f"Unknown chapter '{word}': the chapters are {known}.")
        names.update(matches)
    return [chapter for chapter in chapters if not words or chapter.name in names]


def read_settings(root, profile):
    """The profile's YAML with its sections `common`, `phantoms` and one per chapter; unknown sections are errors."""
    path = root / "notebooks" / f"{profile}.yaml"
    settings = _read_yaml(path)
    known = {"common", "phantoms"} | {chapter.name for chapter in discover(root)}
    unknown = sorted(map(str, set(settings) - known))
    if unknown:
        raise ValueError(f"notebooks/{profile}.yaml has a section '{unknown[0]}' that is no chapter.")
    return {"common": {}, "phantoms": {}} | {name: section or {} for name, section in settings.items()}


def with_seed(settings, seed):
    """The settings with ``seed`` (a text, empty: as they are) for weights, order and masks, and for the phantoms."""
    if not seed:
        return settings
    phantoms = {name: section | {"seed": int(seed)} for name, section in settings["phantoms"].items()}
    return settings | {"common": settings["common"] | {"seed": int(seed)}, "phantoms": phantoms}


def _read_yaml(path):
    """Sections of a YAML file; ValueError with one sentence if they are not mappings of plain values."""
    name = f"notebooks/{path.name}"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if _n_values(settings, {}) > MAX_VALUES:
            raise ValueError(f"{name} holds more than {MAX_VALUES} values: aliases in it repeat each other.")
        json.dumps(settings)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{name}{line} is not valid YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is not valid YAML: it holds characters that text does not have.") from error
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply.") from error
    except TypeError as error:
        raise ValueError(f"{name} holds a value that is no number, text, list or mapping, such as a date.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{name} must hold sections, 'name: {{...}}', not a {type(settings).__name__}.")
    for section, content in settings.items():
        if content is not None and not isinstance(content, dict):
            raise ValueError(f"{name}: the section '{section}' must hold 'name: value', not {content!r}.")
    return settings


def _n_values(value, known):
    """How many values a nested one holds once its aliases are written out; `known` counts those that were met."""
    if id(value) not in known and isinstance(value, dict | list):
        known[id(value)] = MAX_VALUES  # what holds itself has no end
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(part, known) for part in parts)
    return known.get(id(value), 1)


def check_parameters(chapter, settings):
    """The parameters a chapter gets: its own section over those of `common` that it declares."""
    own = settings.get(chapter.name, {})
    for name in own:
        if name not in chapter.declared:
            raise ValueError(
                f"{chapter.name} is given the parameter '{name}' in the YAML file, but its parameters cell declares "
                f"{', '.join(chapter.declared) or 'nothing'}."
            )
    given = {name: value for name, value in (settings["common"] | own).items() if name in chapter.declared}
    for name, value in given.items():
        literal = chapter.declared[name]
        if literal is not None and value is not None and not isinstance(value, KINDS.get(type(literal), type(literal))):
            raise ValueError(
                f"{chapter.name} is given {name}={value!r} in the YAML file, a {type(value).__name__}, and its cell "
                f"has {literal!r}, a {type(literal).__name__} (YAML takes 3e-3 for text: write 3.0e-3)."
            )
    return given


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
    shows_archive = any(re.search(r"records\.archived|build\.report", source) for _, source, _ in cells)
    files += archived_records(root) if shows_archive else []
    files += _named_results(root, [source for _, source, _ in cells])
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


def _named_results(root, sources):
    """The files of results/ that a cell names, and those of folders, such as "../results/real-anatomy"."""
    named = {name for source in sources for name in re.findall(r"""["']\.\./results/([\w.-]+)["']""", source)}
    found = [root / "results" / name for name in sorted(named)]
    return [path for one in found for path in ([one] if one.is_file() else sorted(one.rglob("*.*")))]


def parameters_for(chapter, given, supplied, jobs):
    """Return (parameters, n_jobs): what results depend on, and, apart, what they do not; each only if declared.

    The number format "auto" is decided here, for all processes of the build.
    """
    parameters = given | {name: value for name, value in supplied.items() if name in chapter.declared}
    device = given.get("device", chapter.declared.get("device", "cpu"))
    if parameters.get("precision") == "auto":
        parameters["precision"] = data.fast_precision(device)
    n_jobs = jobs if device == "cpu" else 1  # networks trained at the same time would share one card
    return parameters, {"n_jobs": n_jobs} if "n_jobs" in chapter.declared else {}


def published_profiles(chapters):
    """Names of the profiles that the published chapters were made with, sorted."""
    return sorted({key["profile"] for key in map(_published_key, chapters) if key})


def lacks_records(chapter, profile, root):
    """Whether a record that the chapter saved is gone, so that prose and tables would not find their numbers."""
    saved = (_published_key(chapter) or {}).get("records", [])
    return any(not (root / "_work" / profile / "records" / name).is_file() for name in saved)


def _records(chapter, profile, root):
    """Records of the chapter: names of its experiments begin with the first word of its own, as mridata_pgd_R12."""
    folder = root / "_work" / profile / "records"
    word = chapter.name.split("_")[1]
    return [path.relative_to(folder).as_posix() for path in sorted(folder.glob(f"{word}_*/*.json"))]


def why_stale(chapter, key):
    """What differs from the key that the published chapter was made from, in words; an empty text if nothing does."""
    old = _published_key(chapter)
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


def _published_key(chapter):
    try:
        key = json.loads(chapter.published.read_text(encoding="utf-8"))["metadata"]["made_from"]
        return key if {"profile", "notebook", "parameters", "files", "data"} <= set(key) else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def publish(executed, chapter, key, root):
    """Clean an executed notebook and move it into the book, together with the key it was made from."""
    notebook = read_notebook(executed)
    fill_in_time(notebook, notebook.metadata.pop("papermill", {}).get("duration"))
    notebook.metadata["made_from"] = key | {"records": _records(chapter, key["profile"], root)}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = [*cell.metadata["tags"], "hide-cell"]
            title = f"parameters of this build (profile {key['profile']})"
            cell.metadata["mystnb"] = {"code_prompt_show": f"Show {title}", "code_prompt_hide": f"Hide {title}"}
        if cell.cell_type == "code":
            label_caption(cell, key["parameters"])
            cell.outputs = [output for output in map(without_progress, cell.outputs) if output]
    write_text(chapter.published, nbformat.writes(notebook).replace(f"{root}/", ""))


def fill_in_time(notebook, seconds):
    """Replace ``{time}`` in the box that opens a chapter: minutes to read, and to run if it has been run."""
    opening = notebook.cells[0]
    n_words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    ran = "not run in this build" if seconds is None else f"{max(1, round(seconds / 60))} min to run (this build)"
    opening.source = opening.source.replace("{time}", f"{max(1, round(n_words / 180))} min to read, {ran}")


def label_caption(cell, parameters=None):
    """Replace ``{knee}``, ``{brain}``, ... in a figure's caption by what those data were; drop them without."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    for dataset in data.sets():
        folder = (parameters or {}).get(dataset.parameter, "")
        found = "" if not folder else "Numerical phantom." if "data/phantoms/" in folder else "Measured data."
        label = dataset.label or found
        if "caption" in figure:
            figure["caption"] = figure["caption"].replace(f"{{{dataset.name}}}", label).strip()


# a tqdm bar ("train:  40%|####  | 4/10 [00:01<00:02, 3.1it/s]") or its form without a total ("4it [00:01, 3.1it/s]")
PROGRESS = re.compile(r"(^|\s)\d+%\|.*\[.*\]|^.*\d+\w* \[[\d:?]+, .*\]")


def without_progress(output):
    """The output without progress bars on stderr, None if nothing is left; real warnings stay, and fail the build."""
    if output.output_type != "stream" or output.name != "stderr":
        return output
    pieces = (re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", piece) for piece in re.split(r"[\r\n]+", output.text))
    kept = [piece for piece in pieces if piece.strip() and not PROGRESS.search(piece)]
    if not kept:
        return None
    output.text = "\n".join(kept) + "\n"
    return output


def complaint_in(executed):
    """What an executed notebook says on stderr and the book's build would reject, in one line; "" if nothing."""
    for cell in read_notebook(executed).cells:
        if NOT_SHOWN.isdisjoint(cell.metadata.get("tags", [])):
            for output in filter(None, map(without_progress, cell.get("outputs", []))):
                if output.output_type == "stream" and output.name == "stderr":
                    begins = cell.source.strip().splitlines()[0]
                    said = " ".join(output.text.split())
                    return f"stderr, which the book does not take: {said} [in the cell that begins: {begins}]"
    return ""


def fill_in_missing(chapters):
    """Give every chapter that has no results a page that says so: its text and code, with stand-ins for its figures."""
    for chapter in chapters:
        if _published_key(chapter) is not None:
            continue
        notebook = read_notebook(chapter.source)
        note = (
            "\n:::{admonition} This chapter has not been run in this build\n:class: warning\n"
            f'To run it: `make reproduce CHAPTERS="{chapter.name}"`\n:::\n'
        )
        fill_in_time(notebook, None)
        cells, composed = [], _composed_labels(notebook)
        for cell in notebook.cells:
            cells.append(cell)
            cells += [_markdown(t, f"stand-in-{len(cells)}-{k}") for k, t in enumerate(_stand_ins(cell, composed))]
        title = next(cell for cell in cells if cell.cell_type == "markdown")
        heading, _, rest = title.source.partition("\n")
        title.source = "\n".join([heading, note, rest])
        notebook.cells = cells
        notebook.metadata["language_info"] = {"name": "python"}  # stripped from clean notebooks; colours the code
        write_text(chapter.published, nbformat.writes(notebook))


def _markdown(text, cell_id):
    return nbformat.v4.new_markdown_cell(text, id=cell_id)  # a fixed id: the same page each time


def _composed_labels(notebook):
    """Labels of tables that the text refers to and no cell spells out: an f-string may make them."""
    text = "\n".join(cell.source for cell in notebook.cells)
    return set(re.findall(r"`(tab-[\w-]+)`", text)) - set(re.findall(r"""["'](tab-[\w-]+)["']""", text))


def _stand_ins(cell, composed):
    """Markdown with the labels that a cell's outputs would have defined, so that references to them still resolve."""
    label_caption(cell)
    settings = cell.metadata.get("mystnb", {})
    figure = settings.get("figure", {})
    if "name" in figure:
        caption = figure.get("caption", "").strip() or "Not run in this build."
        yield (
            f":::{{figure}} ../_assets/not-run.svg\n:name: {figure['name']}\n"
            f":alt: This figure has not been made in this build.\n\n{caption}\n:::"
        )
    if settings.get("markdown_format") == "myst":
        for name in re.findall(r"""["'](tab-[^"'\s]+)["']""", cell.source):
            pattern = re.sub(r"\{[^}]*\}", r"\\w+", name)
            for label in sorted(label for label in {name, *composed} if re.fullmatch(pattern, label)):
                yield f":::{{table}} Not run in this build.\n:name: {label}\n\n| Method |\n|---|\n| – |\n:::"
