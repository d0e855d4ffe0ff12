"""A command line that is killed. Before all others, which start servers that leave no memory for these."""

import subprocess

import psutil

from specreason_sgl.runtime.pairs import get_pair
from specreason_sgl.runtime.weights import fetch
from tests.support.runtimes import CLI
from tests.support.waiting import wait_until


def test_kill_of_the_command_line_leaves_no_server():
    for model in (get_pair("nano").draft, get_pair("nano").base):
        fetch(model)
    command = [*CLI, "solve", "Count to 5000.", "--pair", "nano"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # Two supervisors, and for each a server, a scheduler and a detokenizer.
        wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 8, 200)
        tree = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(tree, timeout=15)
    assert alive == []
