"""Child process of the driver: run one notebook with papermill, the cells' streams passed on to stdout.

Arguments, all relative to the working directory notebooks/: the notebook, the output file, a JSON file of parameters.
"""

import json
import os
import signal
import sys
import threading
import time

import papermill
from papermill.exceptions import PapermillExecutionError


def end_with(parent):
    """Stop this process, and with it the kernel, when the driver is gone, even if it was killed without a word."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    source, output, order = sys.argv[1:]
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    with open(order) as text:
        parameters = json.load(text)
    os.environ["GLEAM_STATIC"] = "1"  # widgets show what works on a page without a kernel
    streams = {"stdout_file": sys.stdout, "stderr_file": sys.stdout}
    try:
        papermill.execute_notebook(source, output, parameters, kernel_name="python3", progress_bar=False, **streams)
    except PapermillExecutionError:
        sys.exit(1)
