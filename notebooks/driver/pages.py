"""Executed notebooks as pages of the book, and pages for chapters that have not been run."""

import re

import nbformat

from driver import data
from driver.chapters import TABLE, label_pattern, read_notebook
from driver.files import write_text
from driver.staleness import published_key

NOT_SHOWN = {"remove-cell", "remove-output", "remove-outputs", "remove-stderr"}  # tags of cells without it on the page


def publish(executed, chapter, key, root):
    """Clean an executed notebook and move it into the book, together with the key it was made from."""
    notebook = read_notebook(executed)
    fill_in_time(notebook, notebook.metadata.pop("papermill", {}).get("duration"))
    notebook.metadata["made_from"] = key | {"records": _records(chapter, notebook, key["profile"], root)}
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


def _records(chapter, notebook, profile, root):
    """Records of the chapter; when one is gone, the chapter is stale.

    The first word of an experiment's name tells whose it is: the chapter's whose name has that word too, such as
    mridata_pgd_R12 of 04_mridata, or else the one whose code quotes it, such as parallel_modl_R4.
    """
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    others = {path.stem.split("_")[1] for path in chapter.source.parent.glob("[0-9][0-9]_*.ipynb")}
    words = {chapter.name.split("_")[1]} | set(re.findall(r"""["']([a-z]+)_""", code)) - others
    folder = root / "_work" / profile / "records"
    found = (path.relative_to(folder) for path in sorted(folder.glob("*_*/*.json")))
    return [path.as_posix() for path in found if path.parts[0].split("_")[0] in words]


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
        if published_key(chapter) is not None:
            continue
        notebook = read_notebook(chapter.source)
        note = (
            "\n:::{admonition} This chapter has not been run in this build\n:class: warning\n"
            f'To run it: `make reproduce CHAPTERS="{chapter.name}"`\n:::\n'
        )
        fill_in_time(notebook, None)
        cells, text = [], "\n".join(cell.source for cell in notebook.cells)
        # labels of tables that the text refers to and no cell spells out: an f-string may make them
        composed = set(re.findall(r"`(tab-[\w-]+)`", text)) - set(re.findall(r"""["'](tab-[\w-]+)["']""", text))
        for cell in notebook.cells:
            cells.append(cell)
            cells += [  # with fixed ids: the same page each time
                nbformat.v4.new_markdown_cell(stand_in, id=f"stand-in-{len(cells)}-{k}")
                for k, stand_in in enumerate(_stand_ins(cell, composed))
            ]
        title = next(cell for cell in cells if cell.cell_type == "markdown")
        heading, _, rest = title.source.partition("\n")
        title.source = "\n".join([heading, note, rest])
        notebook.cells = cells
        notebook.metadata["language_info"] = {"name": "python"}  # stripped from clean notebooks; colours the code
        write_text(chapter.published, nbformat.writes(notebook))


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
        for name in TABLE.findall(cell.source):
            for label in sorted(label for label in {name, *composed} if re.fullmatch(label_pattern(name), label)):
                yield f":::{{table}} Not run in this build.\n:name: {label}\n\n| Method |\n|---|\n| – |\n:::"
