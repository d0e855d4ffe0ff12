"""Measurements of a running pair, all parts on the same prompts in one run.

Each part is a file with `run(bench)`, which returns plain data, and `tables(figures)`, which draws them for
the terminal. `parts.py` runs them.
"""
