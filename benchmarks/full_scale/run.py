"""The full-scale run, in calls of a few minutes: correctness, cost, training, scores. ``make records`` calls it.

README.md in the folder above says what it does, in which order, and how to go on on another day. Nothing has to be
installed but torch and the libraries that gleam itself imports.
"""

import signal
import sys
import time
from pathlib import Path

STARTED = time.monotonic()  # what imports take counts as well

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root), str(root / "benchmarks")]
    # a call that is stopped from outside still packs what it has
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    from tqdm import tqdm

    begin = tqdm.__init__  # one line per job says more in a log than progress bars
    tqdm.__init__ = lambda bar, *arguments, **options: begin(bar, *arguments, **options | {"disable": True})
    from full_scale import program

    sys.exit(program.main(started=STARTED))
