"""Measurements of a running pair, all parts on the same prompts in one run.

Each part is a file with `run(bench)`, which returns plain data, and `tables(figures)`, which draws them for
the terminal. `parts.py` runs them.
"""

PARTS = ("score", "prefix", "latency", "identity", "overhead", "scale")  # the names of the files, in order
DEFAULT_MODES = ("base", "draft", "sequential", "pipelined", "correct")
MODES = (*DEFAULT_MODES, "rejected")  # of the latency
