"""The full-scale run of `make records`: jobs that measure, train and score on a GPU, and write records."""
