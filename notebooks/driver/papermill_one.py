"""Child process of the driver: run one notebook with papermill, the cells' streams passed on to stdout.

Arguments, all relative to the working directory notebooks/: the notebook, the output file, a JSON file of parameters.
"""

import json
import sys

import papermill
from papermill.exceptions import PapermillExecutionError

if __name__ == "__main__":
    source, output, order = sys.argv[1:]
    with open(order) as text:
        parameters = json.load(text)
    streams = {"stdout_file": sys.stdout, "stderr_file": sys.stdout}
    try:
        papermill.execute_notebook(source, output, parameters, kernel_name="python3", progress_bar=False, **streams)
    except PapermillExecutionError:
        sys.exit(1)
