"""One place for dependencies: pyproject.toml says ranges, requirements.lock pins them, environment.yml defers."""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def named():
    """Every requirement of pyproject.toml, core and extras, but those that never go into .venv."""
    extras = [group for name, group in PROJECT["optional-dependencies"].items() if name != "peers"]
    found = [Requirement(text) for group in (PROJECT["dependencies"], *extras) for text in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def locked():
    """The pins, name to version; each line must be one exact pin without local label, address or option."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [
        re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line) for line in lines if not line.startswith("#")
    ]
    assert all(pins), "a line of requirements.lock is no plain pin"
    return {canonicalize_name(pin[1]): pin[2] for pin in pins}


def test_every_dependency_is_pinned_within_its_range():
    pins = locked()
    for requirement in named():
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} does not allow the pinned {version}"


def test_other_packages_that_are_tested_are_pinned_within_their_range():
    lines = (ROOT / "benchmarks" / "requirements.txt").read_text().splitlines()
    pins = dict(line.partition("#")[0].strip().split("==") for line in lines if not line.startswith("#"))
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["peers"]):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_the_lock_holds_nothing_that_nobody_asked_for():
    todo, reached = [(canonicalize_name(r.name), frozenset(r.extras)) for r in named()], set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in reached:
            continue
        reached.add((name, extras))
        try:
            children = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            continue
        for child in children:
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                todo.append((canonicalize_name(child.name), frozenset(child.extras)))
    assert set(locked()) - {name for name, _ in reached} == set()


def test_environment_yml_defers_to_pyproject_and_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, options = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert options == {"pip": ["-c requirements.lock", "-e .[book,test]"]}


def test_no_machine_path_and_no_registry_host_is_committed():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone")
    paths = [ROOT / name for name in listed.split("\0") if name]
    if not paths:
        pytest.skip("nothing is committed yet")
    bad = re.compile(
        r"""(?:^|[\s"'=(:])/(?:home|Users|root|mnt)/\w|(?:--|\b)(?:extra-)?index-url|find-links|pypi\.org"""
    )
    for path in paths:
        if path.is_file() and path != Path(__file__) and path.suffix not in {".png", ".npy", ".h5", ".woff"}:
            found = bad.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)} contains '{found[0]}'"
