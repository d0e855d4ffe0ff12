"""Each fault at each phase, and what becomes of the run: one table, as Markdown.

    python -m tests.faults > table.md

Needs no model: `solve`, `serve`, `eval` and a program run on scripted servers behind a TCP proxy, with drafts
that are rewritten and drafts that are corrected, in about a minute. A cell has the outcome where one request
is hit, and after a slash the one where all requests of its kind are, from there on, if that is another:

    kept    the answer is there
    saved   one clear error, with the steps so far; resumed after the fault, the run has its answer
    error   one clear error, and what comes after the fault is well; of `eval`, a sample recorded as failed

Anything else is a fault of the package. The table says what was lost or hung, and the exit status is 1.
"""

import argparse
import logging
import sys

from tqdm import tqdm


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    from tests.faults.cells import CELLS, FINE, outcomes, table

    logging.getLogger("specreason_sgl").setLevel(logging.ERROR)
    whole = dict(tqdm(outcomes(), total=len(CELLS), unit="cell", desc="faults"))
    print(table(whole))
    return 0 if set(whole.values()) <= FINE else 1


if __name__ == "__main__":
    sys.exit(main())
