"""``python -m gleam.datasets check FILE...``: what the loaders make of raw files, with a picture of each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the files; returns 1 if training would refuse one of them."""
    parser = argparse.ArgumentParser(prog="python -m gleam.datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{check}")
    one = commands.add_parser("check", help="read raw files and say what was read")
    one.add_argument("files", metavar="FILE", nargs="+", type=Path)
    one.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="folder of the pictures; default: here")
    given = parser.parse_args(arguments)
    return max([_report(path, given.out) for path in given.files])


def _report(path, out):
    from matplotlib.image import imsave

    from gleam.datasets.check import check, picture
    from gleam.files import written_whole

    facts, volume, refused = check(path)
    print(path)
    for what, how in facts.items():
        print(f"  {what + ':':24}{how}")
    if volume is not None:
        try:
            with written_whole(out / f"{path.stem}.png") as temporary:
                imsave(temporary, picture(volume), cmap="gray", vmin=0, vmax=1, format="png")
            print(f"  {'picture:':24}{out / f'{path.stem}.png'}, the middle slice")
        except OSError as error:
            print(f"  {'picture:':24}could not be written: {error}")
    usable = "yes" if refused is None else f"no: {refused}"
    print(f"  {'training takes it:':24}{usable}")
    return int(refused is not None)


if __name__ == "__main__":
    sys.exit(main())
