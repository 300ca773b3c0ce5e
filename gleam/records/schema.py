"""The form of a record's JSON, with error messages that name the wrong field."""

from __future__ import annotations

import math
from typing import Any

SCHEMA = 1
FULL_SCALE = "paper"  # the profile with the paper's sizes
LATER = ("n_steps_done", "measures", "results_version", "network")  # fields that older records of this schema lack


def check(content: Any, types: dict[str, Any]) -> None:
    """Check that a record has exactly the known fields, of the right types.

    Parameters
    ----------
    content : object
        The parsed JSON.
    types : dict
        Of a field's name to its type. Scores, measures and seconds must be finite numbers.

    Raises
    ------
    ValueError
        Naming the field that is wrong.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected a dict with the fields of a record")
    if content.get("schema", SCHEMA) != SCHEMA:  # first, since another schema has other fields
        raise ValueError(f"its schema is {content['schema']!r}, this program reads {SCHEMA}")
    for name in types:
        if name not in content and name not in LATER:
            raise ValueError(f"its field '{name}' is missing")
    for name in content:
        if name not in types:
            raise ValueError(f"its field '{name}' is unknown; expected only {', '.join(types)}")
        _check_type(content[name], types[name], name)
    _check_scores(content["scores"])
    _check_numbers(content.get("measures", {}), "measures")
    _check_cost(content["cost"] or {})
    steps = {"n_steps_done": content.get("n_steps_done"), "settings.n_steps": content["settings"].get("n_steps", 0)}
    for name, n in steps.items():
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
            raise ValueError(f"its field '{name}' is {n!r:.80}, expected a whole number of steps")
    for name in ("device", "date"):
        _check_type(content["environment"].get(name, ""), str, f"environment.{name}")


def _check_type(value, expected, name):
    if not isinstance(value, expected) or isinstance(value, bool):  # in Python True is an int
        raise ValueError(f"its field '{name}' is {value!r:.80}, expected {getattr(expected, '__name__', expected)}")


def _check_scores(scores):
    for i, row in enumerate(scores):
        if not (isinstance(row, dict) and {"subject", "slice"} <= set(row)):
            raise ValueError(f"its field 'scores[{i}]' is {row!r:.80}, expected a dict with subject, slice and numbers")
        _check_numbers({name: row[name] for name in row if name not in ("subject", "slice")}, f"scores[{i}]")


def _check_cost(cost):
    _check_numbers({name: cost[name] for name in ("seconds_per_step", "peak_bytes") if name in cost}, "cost")
    seconds = cost.get("step_seconds", ())
    _check_type(seconds, list | tuple, "cost.step_seconds")
    _check_numbers(dict(enumerate(seconds)), "cost.step_seconds")
    times = {f"step_seconds.{i}": time for i, time in enumerate(seconds)}
    for name, time in (times | {"seconds_per_step": cost.get("seconds_per_step", 1)}).items():
        if time <= 0:  # ratios divide by them
            raise ValueError(f"its field 'cost.{name}' is {time!r}, expected seconds greater than 0")


def _check_numbers(values, where):
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"its field '{where}.{name}' is {value!r:.80}, expected a finite number")
