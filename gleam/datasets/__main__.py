"""What is there of each data set in a folder, what is missing, how large it is, and what to do next.

``python -m gleam.datasets [DIR]``; ``python -m gleam.datasets check FILE...`` says what the loaders make of raw files,
with a picture of each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what is in a data folder, or check files.

    Returns 1 if training would refuse one of the files, 2 if a split list cannot be read.
    """
    from gleam.datasets.sets import report

    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["check"]:
        checker = argparse.ArgumentParser(prog="python -m gleam.datasets check", description=_report.__doc__)
        checker.add_argument("files", metavar="FILE", nargs="+", type=Path)
        checker.add_argument(
            "--out", metavar="DIR", type=Path, default=Path(), help="folder of the pictures; default: here"
        )
        given = checker.parse_args(words[1:])
        return max([_report(path, given.out) for path in given.files])
    parser = argparse.ArgumentParser(
        prog="python -m gleam.datasets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path("data"), help="default: data")
    try:
        print(report(parser.parse_args(words).folder))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _report(path, out):
    """Read raw files and say what was read."""
    from gleam.datasets.check import check, picture
    from gleam.files import written_whole

    facts, volume, refused = check(path)
    print(path)
    for what, how in facts.items():
        print(f"  {what + ':':24}{how}")
    if volume is not None:
        try:
            from matplotlib.image import imsave  # of the extra [mri]

            with written_whole(out / f"{path.stem}.png") as temporary:
                imsave(temporary, picture(volume), cmap="gray", vmin=0, vmax=1, format="png")
            print(f"  {'picture:':24}{out / f'{path.stem}.png'}, the middle slice")
        except (ImportError, OSError) as error:
            print(f"  {'picture:':24}could not be written: {error}")
    usable = "yes" if refused is None else f"no: {refused}"
    print(f"  {'training takes it:':24}{usable}")
    return int(refused is not None)


if __name__ == "__main__":
    sys.exit(main())
