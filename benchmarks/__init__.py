"""Speed and memory: each module is a command, `python -m benchmarks.NAME`; see benchmarks/README.md."""

import os

os.environ.setdefault("NPROC", "4")  # read when JAX starts; with fewer threads its CPU runtime can hang
