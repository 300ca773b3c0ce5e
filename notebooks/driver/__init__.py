"""The parts of the driver: which data, which chapters are stale, how one is run, and the build of the pages."""
