"""Records of a finished build, copied to where the book's tables find archived runs."""

from pathlib import Path

from gleam.files import written_whole
from gleam.records.record import load, slug
from gleam.training.identity import RESULTS_VERSION


def archive(source, results, *, profile, seed=0):
    """Copy all records under ``source`` to ``results``/<device>-<profile>[-seed<n>]; returns (folder, how many).

    ``source`` holds <experiment>/<method>.json and maybe pictures beside them. What the folder holds already is
    replaced or kept. A run of the paper's profile has the device's name alone, as those of ``make records``. Raises
    FileNotFoundError if there is no record, ValueError if they do not belong together: another profile, seed, results
    version or device, or methods of one experiment that saw different data.
    """
    paths = sorted(Path(source).glob("*/*.json"))
    if not paths:
        raise FileNotFoundError(f"{source}: holds no record; expected those of a build of the profile {profile}")
    found = {path: load(path) for path in paths}
    devices = {_device_name(record) for record in found.values()}
    if len(devices) > 1:
        raise ValueError(f"{source}: its records are of {' and '.join(sorted(devices))}; expected one device")
    name = devices.pop() + ("" if profile == "paper" else f"-{profile}") + (f"-seed{seed}" if seed else "")
    folder = Path(results) / name
    kept = [path for path in sorted(folder.glob("*/*.json")) if Path(source) / path.relative_to(folder) not in found]
    _check_together({**found, **{path: load(path) for path in kept}}, profile, seed)
    for path in [*paths, *sorted(Path(source).glob("*/*.png"))]:
        with written_whole(folder / path.relative_to(source)) as temporary:
            temporary.write_bytes(path.read_bytes())
    return folder, len(paths)


def _device_name(record):
    device = record.environment.get("device", "")
    return "cpu" if device.startswith("CPU") else slug(device)


def _check_together(found, profile, seed):
    """Raise ValueError, naming the first record that does not belong to the others."""
    data = {}
    for path, record in found.items():
        theirs = record.profile, record.settings.get("seed", seed), record.results_version
        for what, value, expected in zip(
            ("profile", "seed", "results version"), theirs, (profile, seed, RESULTS_VERSION), strict=True
        ):
            if value != expected:
                raise ValueError(f"{path}: is of {what} {value}, not {expected}; move it away, then archive again")
        test = record.data.get("test", {}).get("fingerprint")
        if data.setdefault(record.experiment, test) != test:
            raise ValueError(
                f"{path}: was tested on other data than the records of {record.experiment} before it (sizes, subjects "
                "or masks); move the older ones away, then archive again"
            )
