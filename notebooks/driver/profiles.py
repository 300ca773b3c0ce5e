"""Profiles: the parameters that notebooks/<profile>.yaml gives to the chapters."""

import json

import yaml

from driver import data
from driver.chapters import discover

KINDS = {float: float | int}  # what may be given where a chapter has a literal of a type
MAX_VALUES = 10_000  # of a profile, which has some hundred


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
