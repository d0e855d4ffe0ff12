"""What the terminal shows of a calibration."""

import io

from rich.console import Console

from specreason_sgl.display.calibration import print_calibration
from specreason_sgl.verifiers import get_calibration


def test_the_terminal_shows_every_verifier_and_marks_the_chosen_one():
    calibration = get_calibration("mini")
    console = Console(file=io.StringIO(), width=120)
    print_calibration(console, calibration)
    lines = console.file.getvalue().splitlines()
    rows = {line.lstrip("→ ").split()[0]: line for line in lines if " to " in line and "(" in line}
    assert list(rows) == [row["verifier"] for row in calibration.table]
    assert [name for name, line in rows.items() if line.startswith("→")] == [calibration.verifier]
    for row in calibration.table:
        value, low, high = (row["solutions"][bound] for bound in ("value", "low", "high"))
        assert f"{value:.2f} ({low:.2f} to {high:.2f})" in rows[row["verifier"]]
    assert lines[-1].startswith(f"{calibration.verifier}: a threshold of {calibration.threshold:.4g} keeps")
