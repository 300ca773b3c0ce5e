"""``python -m gleam.records results``: the measures of the archived full-scale runs, one ``name value`` line each."""

import argparse
import sys

from gleam.records.measures import measure


def main(arguments=None):
    """Print the measures and return the exit status: 2, with one sentence, if a folder or a record is not right."""
    parser = argparse.ArgumentParser(prog="python -m gleam.records", description=__doc__)
    parser.add_argument("folder", help="holds a folder of records for each device, as results/ does")
    try:
        measures = measure(parser.parse_args(arguments).folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for name, value in measures.items():
        print(name, "missing" if value is None else f"{value:#.4g}")  # with #, zeros at the end stay: four digits each
    return 0


if __name__ == "__main__":
    sys.exit(main())
