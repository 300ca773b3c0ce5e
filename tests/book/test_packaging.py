"""One place for each fact: dependencies and version in pyproject.toml, pins in the lock, the address in _config.yml."""

import fnmatch
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PUBLISHER = "pypa/gh-action-pypi-publish"


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
    pythons = [f"3.{minor}" for minor in range(11, newest() + 1)]  # the lock is for all of them
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
            if child.marker is None or any(
                child.marker.evaluate(
                    {"extra": extra, "python_version": version, "python_full_version": f"{version}.0"}
                )
                for extra in extras | {""}
                for version in pythons
            ):
                todo.append((canonicalize_name(child.name), frozenset(child.extras)))
    assert set(locked()) - {name for name, _ in reached} == set()


def newest():
    """Minor version of the newest Python for which requirements.lock is tested."""
    tested = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    return max(int(version.partition(".")[2]) for version in tested["jobs"]["fast"]["strategy"]["matrix"]["python"])


def test_the_makefile_takes_the_pythons_that_are_tested():
    oldest = int(PROJECT["requires-python"].removeprefix(">=3."))
    makefile = (ROOT / "Makefile").read_text()
    assert f"(3, {oldest}) <= sys.version_info < (3, {newest() + 1})" in makefile
    for text in (makefile, *((ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md"))):
        assert f"Python 3.{oldest} to 3.{newest()}" in text


def test_environment_yml_defers_to_pyproject_and_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, options = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']},<3.{newest() + 1}"
    assert pip == "pip"
    assert options == {"pip": ["-c requirements.lock", "-e .[book,test]"]}


def committed():
    """Paths of the committed text files; skips where there are none."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git clone")
    paths = [ROOT / name for name in listed.split("\0") if name]
    if not paths:
        pytest.skip("nothing is committed yet")
    binary = {".png", ".npy", ".h5", ".woff", ".safetensors"}
    return [path for path in paths if path.is_file() and path.suffix not in binary]


def test_no_machine_path_and_no_registry_host_is_committed():
    bad = re.compile(
        r"""(?:^|[\s"'=(:])/(?:home|Users|root|mnt)/\w|(?:--|\b)(?:extra-)?index-url|find-links|pypi\.org"""
    )
    for path in committed():
        if path != Path(__file__):
            found = bad.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)} contains '{found[0]}'"


def test_the_address_of_the_repository_stands_in_one_place():
    """The repository's in _config.yml (for the package index in pyproject.toml too)."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8", errors="replace") for path in committed()}
    if ADDRESS:
        named = {name for name, text in texts.items() if ADDRESS in text}
        assert named <= {"_config.yml", "pyproject.toml"}
    links = PROJECT.get("urls", {}).values()
    assert all(ADDRESS and link.startswith(ADDRESS) for link in links), "_config.yml says another address, or none"


def test_the_version_is_that_of_pyproject_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    version = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert version in (PROJECT["version"], "Unreleased")


def test_the_wheel_holds_what_the_package_reads():
    patterns = SETTINGS["tool"]["setuptools"]["package-data"]
    kept = [f"{package.replace('.', '/')}/{p}" for package, names in patterns.items() for p in names]
    package = [path.relative_to(ROOT).as_posix() for path in committed() if ROOT / "gleam" in path.parents]
    data = [name for name in package if not name.endswith(".py")]
    assert data
    assert [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in kept)] == []


def jobs():
    """(name of workflow and job, workflow, job) of all."""
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        for name, job in workflow["jobs"].items():
            yield f"{path.stem}/{name}", workflow, job


@pytest.mark.parametrize(("workflow", "job"), [pytest.param(*rest, id=name) for name, *rest in jobs()])
def test_a_job_has_few_rights_and_an_end(workflow, job):
    assert workflow["permissions"] == {"contents": "read"}
    assert set(job.get("permissions", {})) <= {"pages", "id-token"}
    assert "environment" in job or "permissions" not in job, "rights to publish belong to an environment"
    assert "group" in workflow["concurrency"]
    assert job["timeout-minutes"] <= 180


@pytest.mark.parametrize("job", [pytest.param(job, id=name) for name, _, job in jobs()])
def test_actions_are_official_and_pinned_to_a_major_version(job):
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            official = re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])
            assert official or step["uses"] == f"{PUBLISHER}@release/v1", step["uses"]


def commands():
    """Each line that a job or Binder runs."""
    for _, _, job in jobs():
        for step in job["steps"]:
            yield from step.get("run", "").splitlines()
    yield from (ROOT / "binder" / "postBuild").read_text().splitlines()


def test_workflows_name_what_is_there():
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    variables = set(re.findall(r"\$[({](?:or \$\()?([A-Z]+)", (ROOT / "Makefile").read_text()))
    made = [shlex.split(line)[1:] for line in commands() if line.startswith("make ")]
    assert made
    for target, *settings in made:
        assert target in rules
        assert {setting.partition("=")[0] for setting in settings} <= variables
    texts = [path.read_text() for path in (*WORKFLOWS, ROOT / "binder" / "postBuild")]
    named = set(re.findall(r"(?:\.github|notebooks|benchmarks)/[\w./-]+\w|requirements\.lock", "\n".join(texts)))
    assert {".github/use_wheel.py", "notebooks/run.py"} <= named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_workflows_test_the_oldest_python_and_run_what_continuous_integration_runs():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    by_name = {name: job for name, _, job in jobs()}
    assert by_name["tests/fast"]["strategy"]["matrix"]["python"][0] == oldest
    assert (ROOT / "binder" / "runtime.txt").read_text().startswith("python-3.")
    if (ROOT / ".ci" / "run").is_file():
        script = (ROOT / ".ci" / "run").read_text()
        wanted = re.findall(r"^(?:make|\.venv/bin/python) [^|\n]*", re.sub(r" 2>&1", "", script), re.MULTILINE)
        assert len(wanted) >= 6
        assert [line for line in wanted if not any(done.startswith(line.strip()) for done in commands())] == []


def test_only_a_release_may_publish():
    name, workflow, job = next(found for found in jobs() if PUBLISHER in str(found[2]))
    assert name == "release/publish"
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
    assert job["permissions"] == {"id-token": "write"} and "password" not in str(job)


def test_binder_can_run_its_script():
    script = ROOT / "binder" / "postBuild"
    assert script.read_text().startswith("#!") and script.stat().st_mode & 0o111
