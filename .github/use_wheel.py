"""Use an installed gleam-mri without its sources: train on phantoms in memory, load the run, call the commands."""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import gleam

SCRIPTS = Path(sys.executable).parent


def train(run_dir):
    """A few steps of greedy training, then the run as a stranger finds it."""
    small = {"n_train": 1, "n_val": 1, "n_test": 1, "n_slices": 4, "matrix": (48, 40), "n_coils": 2}
    train, val, test = gleam.phantoms.simulated.knees(acceleration=3, n_calibration=8, n_masks=4, n_jobs=1, **small)
    network = gleam.unrolled.pgd(n_iterations=2, n_features=4)
    gleam.fit(network, train, val, gleam.Greedy(n_modules=2), n_steps=4, batch_size=1, run_dir=run_dir, device="cpu")
    print(gleam.evaluate(network, test, device="cpu").mean(numeric_only=True))
    (run,) = run_dir.iterdir()
    gleam.load(run)


def call(*command):
    """Run a command that must succeed."""
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    package = Path(gleam.__file__).parent
    if "site-packages" not in package.parts:
        sys.exit(f"gleam comes from {package}, expected an installed package")
    for name in ("py.typed", "datasets/lists/mridata_knee.csv", "datasets/lists/fastmri_brain.csv"):
        if not (package / name).is_file():
            sys.exit(f"{name} is missing from the wheel")
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "runs")
        call(SCRIPTS / "gleam", "runs", Path(folder) / "runs")
    call(SCRIPTS / "gleam", "--help")
    call(sys.executable, "-m", "gleam.datasets", "--help")
    print(f"gleam-mri {version('gleam-mri')} works")
