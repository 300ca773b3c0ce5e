"""Do networks work on what they were not trained for? Archived networks on other data, beside compressed sensing.

`python benchmarks/generalisation.py DATA` evaluates what results/generalisation lacks; nothing is trained. Networks
come from results/: trained on real knees (simulated coils and noise) and on phantoms. They are tested on both, on two
measured brains in DATA (data/README.md), and with one thing at a time that training did not have: another acceleration,
more or less noise, fewer coils, other sensitivity maps, lesions. Compressed sensing keeps the weight that was chosen on
the validation data of training, as networks keep theirs. The script can be killed and goes on where it was. `--list`
prints what is missing with its minutes; `--only NAME` restricts it to experiments whose name begins so.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lesions import lesion_scores, lesioned
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

import gleam
from gleam import baselines, calibration, figures, masks, records
from gleam.datasets import fastmri, prepare
from gleam.phantoms import magnitudes, simulated
from gleam.physics.fourier import ifft2c

ROOT = Path(__file__).resolve().parent.parent
RESULTS, FOLDER, WORK = ROOT / "results", ROOT / "results" / "generalisation", ROOT / "_work" / "generalisation"
TRAININGS = {  # what networks were trained on, to their records: the folder, and the name of GLEAM in it
    "knees": ("real-anatomy/real_knees_pgd_fold1", "gleam-m-8"),
    "phantoms": ("cpu-standard/mridata_pgd_R12", "gleam"),
    "phantom brains": ("real-anatomy/real_brains", "gleam"),
}
TESTED = {  # data of a test, to the trainings whose networks are tested on it
    "knees": ("knees", "phantoms"),
    "phantoms": ("phantoms", "knees"),
    "brains": ("phantom brains",),
    "phantom brains": ("phantom brains",),
}
PICTURED = ("knees_as_trained", "knees_maps_turned", "phantoms_as_trained", "brains_R_4", "brains_R_8")
MATRIX, NOISE, PHANTOM_NOISE, CENTER = [128, 104], 0.03, (0.025, 0.04), 0.08  # those of the trainings
jsense = partial(calibration.jsense, kernel_width=8, calibration_width=20)
espirit = partial(calibration.espirit, calibration_width=24)


def turned(kspace):
    """Maps of JSENSE, turned by 90 degrees: they explain the samples as well, and the image has another phase."""
    return 1j * jsense(kspace)


def espirit_with_phase(kspace):
    """Maps of ESPIRiT that take in the phase of the image, as JSENSE's do: that of its central 24 x 24 samples."""
    maps, window = espirit(kspace), [np.pad(np.hanning(24), (n - 24) // 2) for n in kspace.shape[1:]]
    image = np.sum(np.conj(maps) * ifft2c(kspace * np.outer(*window)), axis=0)
    return maps * np.exp(1j * np.angle(image))


MAPS = {"jsense": jsense, "espirit": espirit, "turned": turned, "espirit_with_phase": espirit_with_phase}
N_DRAWS = 4  # of lesions, for each knee


@dataclass(frozen=True)
class Acquisition:
    """How the test data are acquired; the defaults are those of training on knees.

    Attributes
    ----------
    acceleration, n_coils : int
        R, and receive coils.
    noise : float
        Over that of training.
    maps : str
        How sensitivity maps are estimated, a key of `MAPS`.
    """

    acceleration: int = 12
    noise: float = 1.0
    n_coils: int = 8
    maps: str = "jsense"


SHIFTS = {
    "as_trained": Acquisition(),
    "R_4": Acquisition(acceleration=4),
    "R_8": Acquisition(acceleration=8),
    "R_16": Acquisition(acceleration=16),
    "noise_half": Acquisition(noise=0.5),
    "noise_twice": Acquisition(noise=2.0),
    "coils_4": Acquisition(n_coils=4),
    "maps_espirit": Acquisition(maps="espirit"),
    "maps_turned": Acquisition(maps="turned"),
    "maps_espirit_with_phase": Acquisition(maps="espirit_with_phase"),
}
BRAINS = {f"R_{R}": Acquisition(acceleration=R, maps="espirit") for R in (4, 8)}
PLAN = {  # experiment to (data, acquisition, minutes)
    **{f"generalisation_knees_{shift}": ("knees", how, 0.5) for shift, how in SHIFTS.items()},
    "generalisation_knees_lesions": ("knees", Acquisition(), 2),
    **{f"generalisation_brains_{shift}": ("brains", how, 0.5) for shift, how in BRAINS.items()},
    **{f"generalisation_phantom_brains_{shift}": ("phantom brains", how, 0.5) for shift, how in BRAINS.items()},
    **{f"generalisation_phantoms_{shift}": ("phantoms", how, 1.5) for shift, how in SHIFTS.items()},
}


def data_of(kind, how, source):
    """The test data, as slices; those of `kind` "knees" are the test subjects of the first fold."""
    if kind == "knees":
        return knees(source / "knees" / "magnitude_14x320x256.npy", how)
    calibrate, common = MAPS[how.maps], {"n_train": 0, "n_val": 0, "n_jobs": 1}
    if kind == "phantoms":
        return simulated.knees(
            acceleration=how.acceleration, n_calibration=10, calibrate=calibrate, n_test=8, n_slices=4,
            matrix=(160, 128), n_coils=how.n_coils, noise=tuple(how.noise * level for level in PHANTOM_NOISE), **common,
        )[-1]  # fmt: skip
    if kind == "phantom brains":
        return simulated.brains(
            acceleration=how.acceleration, center_fraction=CENTER, calibrate=calibrate, n_test=4, n_slices=6,
            matrix=(80, 80), n_coils=(4, 8), **common,
        )[-1]  # fmt: skip
    make_mask = partial(masks.random_columns, acceleration=how.acceleration, center_fraction=CENTER)
    return slices(fastmri.find(source), calibrate, make_mask, seed=0)


def knees(images, how, name="plain"):
    """The knees of a file of magnitudes that test in the first fold, under the masks of that test."""
    folder = WORK / f"{name}_noise_{how.noise:g}_coils_{how.n_coils}"
    paths = magnitudes.write(
        images, folder, matrix=MATRIX, noise=how.noise * NOISE, n_coils=how.n_coils, name="knee", seed=0, progress=False
    )
    test = gleam.datasets.folds(len(paths), 5, n_val=2, seed=0)[0]["test"]
    make_mask = partial(masks.poisson_disc, acceleration=how.acceleration, n_calibration=10)
    return slices([paths[i][0] for i in test], MAPS[how.maps], make_mask, seed=5)


def slices(paths, calibrate, make_mask, *, seed):
    """Raw files as slices that test."""
    cache = WORK / "cache"
    prepared = prepare.prepare(paths, read=fastmri.read, calibrate=calibrate, cache_dir=cache, n_jobs=1, progress=False)
    return gleam.datasets.Slices("test", tuple(prepared), make_mask, seed=seed, cache_dir=cache)


def methods_for(kind):
    """Method to (network or function, settings for its record)."""
    found = {"Zero-filled": (baselines.zero_filled, {})}
    for trained_on in TESTED[kind]:
        folder, greedy = TRAININGS[trained_on]
        lamda = records.load(RESULTS / folder / "cs.json").settings["lamda"]
        if found.get("CS", (None, {"lamda": None}))[1]["lamda"] != lamda:  # both trainings on knees have one weight
            name = f"CS, from {trained_on}" if "CS" in found else "CS"
            found[name] = baselines.wavelet(lamda), {"lamda": lamda}
        for method, file in (("End-to-end", "end-to-end"), ("GLEAM", greedy)):
            settings = {"weights": f"results/{folder}/{file}", "trained_on": trained_on}
            found[f"{method}, from {trained_on}"] = gleam.load(RESULTS / folder / file), settings
    return found


def with_lesions(source, how):
    """For each draw of lesions: slices of the test knees with them, and the lesions of each knee."""
    images = np.load(source).astype(np.float32)
    test = gleam.datasets.folds(len(images), 5, n_val=2, seed=0)[0]["test"]
    for draw in range(N_DRAWS):
        changed, discs = images.copy(), []
        for knee in test:
            changed[knee], own = lesioned(images[knee], [knee, draw])
            discs.append(own)
        path = WORK / f"lesions_{draw}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, changed)
        yield knees(path, how, f"lesions_{draw}"), discs


def magnitude(method, batch):
    """Magnitude of a reconstruction, in units of the file."""
    return (gleam.reconstruct(method, batch)[0].abs() * batch.scale).numpy()


def lesion_table(method, plain, draws):
    """A row per knee and draw of lesions (as `slice`): scores of the image, and of the lesions in it."""
    # reconstructed once, for all draws
    before = [magnitude(method, plain[i]) for i in range(len(plain))]
    rows = []
    for draw, (data, discs) in enumerate(draws):
        for i, row in enumerate(gleam.evaluate(method, data).to_dict("records")):
            images = magnitude(method, data[i]), before[i]
            targets = [(one[i].target[0].abs() * one[i].scale).numpy() for one in (data, plain)]
            rows.append(row | {"slice": draw} | lesion_scores(images, targets, discs[i]))
    return pd.DataFrame(rows)


def picture(methods, data, acceleration):
    """One slice by all methods, with error maps on one scale."""
    index = len(data) // 2 if data.is_phantom else 0
    named = {name: method for name, (method, _) in methods.items()}
    return figures.compare_methods(named, data, index, label=f"R = {acceleration}")


def picture_of_change(methods, plain, changed):
    """The knee with lesions, and what they change in the reference and in every reconstruction."""
    before, after = plain[0], changed[0]
    changes = {name: np.abs(magnitude(m, after) - magnitude(m, before)) for name, (m, _) in methods.items()}
    with_lesions, without = ((one.target[0].abs() * one.scale).numpy() for one in (after, before))
    change = np.abs(with_lesions - without)
    scale = np.percentile(change, 99.8) / np.percentile(with_lesions, 99)  # so that both are seen in one window
    shown = {"The knee": scale * with_lesions, "Its lesions": change} | changes
    return figures.panels(shown, window=np.percentile(change, 99.8), aspect=plain.aspect, label=figures.source(plain))


def run(name, source):
    """Evaluate all methods of an experiment; records come last and in order, so the last says that all is there."""
    kind, how, _ = PLAN[name]
    methods, data = methods_for(kind), data_of(kind, how, source)
    draws = list(with_lesions(source / "knees" / "magnitude_14x320x256.npy", how)) if name.endswith("lesions") else []
    if draws:
        save_picture(picture_of_change(methods, data, draws[0][0]), name)
    elif name.removeprefix("generalisation_") in PICTURED:
        save_picture(picture(methods, data, how.acceleration), name)
    for label, (method, settings) in tqdm(methods.items(), desc=name):
        table = lesion_table(method, data, draws) if draws else gleam.evaluate(method, data)
        network = method if isinstance(method, nn.Module) else None
        record = records.record(
            name, label, table, (data,), profile="generalisation", network=network, settings=vars(how) | settings
        )
        records.save(record, FOLDER)


def save_picture(figure, name):
    """Write a figure as compare.png beside the records, in 256 colours: a third of the bytes."""
    path = FOLDER / name / "compare.png"
    figure.save(path, dpi=110)
    Image.open(path).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def missing(only=""):
    """Experiments without their last record, in order."""
    # records are written in the order of `methods_for`
    last = {kind: records.slug(f"GLEAM, from {trainings[-1]}") for kind, trainings in TESTED.items()}
    return [
        name
        for name, (kind, *_) in PLAN.items()
        if name.startswith(only) and not (FOLDER / name / f"{last[kind]}.json").is_file()
    ]


def main() -> int:
    """Evaluate what is missing and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the knees and brains of data/README.md")
    parser.add_argument("--list", action="store_true", help="print what is missing and its minutes, and stop")
    parser.add_argument("--only", default="", help="experiments whose name begins so")
    given = parser.parse_args()
    todo = missing(given.only)
    if given.list:
        for name in todo:
            print(f"{PLAN[name][2]:4.1f} min  {name}")
        print(f"{sum(PLAN[name][2] for name in todo):.0f} minutes on one core for {len(todo)} experiments")
        return 0
    knee_file = given.data / "knees" / "magnitude_14x320x256.npy"
    if not knee_file.is_file() or not any((given.data / fastmri.FOLDER).glob("*.h5")):
        lacking = fastmri.FOLDER if knee_file.is_file() else knee_file.relative_to(given.data)
        print(f"{given.data / lacking} does not exist; expected the data of data/README.md", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    for name in todo:
        run(name, given.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
