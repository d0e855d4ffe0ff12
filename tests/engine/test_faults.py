"""Real runtimes stopped and killed in the middle of a run."""

import subprocess

import psutil
import pytest

from specreason_sgl import Endpoint, Rewrite, SpecReasonConfig, Trace, solve
from specreason_sgl.errors import ServerError
from specreason_sgl.runtime.server import wait_healthy
from specreason_sgl.verifiers import UtilityScore
from tests.support.runtimes import CLI, QUESTIONS, running, urls
from tests.support.waiting import wait_until

SETTINGS = {
    "threshold": 0,  # every drafted step is kept
    "token_budget": 72,
    "step_tokens": 12,
    "answer_tokens": 16,
}


def processes(server) -> list[psutil.Process]:
    """What runs under a server's supervisor."""
    return psutil.Process(server.pid).children(recursive=True)


def test_a_draft_runtime_that_is_stopped_is_done_without_until_it_goes_on(pair, draft, base):
    seen, stopped = [], processes(pair.draft)

    def on_step(step):
        seen.append(step)
        if len(seen) == 1:
            for process in stopped:
                process.suspend()
        elif step.undrafted:
            for process in stopped:
                process.resume()

    # Steps so short that there are many before the answer, whichever model writes them.
    config = SpecReasonConfig(
        repair=Rewrite(), temperature=0, draft_timeout=8.0, **{**SETTINGS, "step_tokens": 5}
    )
    try:
        trace = solve(QUESTIONS[0], draft=draft, base=base, config=config, on_step=on_step)
    finally:
        for process in stopped:
            process.resume()
    print([(step.author, step.undrafted_reason) for step in trace.steps])
    failed = next(i for i, step in enumerate(trace.steps) if step.undrafted)
    assert trace.steps[0].author == "draft"
    assert "did not answer within" in trace.steps[failed].undrafted_detail
    assert pair.draft.url in trace.steps[failed].undrafted_detail
    assert trace.steps[failed].author == "base"
    assert "draft" in {step.author for step in trace.steps[failed:]}
    assert trace.answer
    wait_until(lambda: running(pair.draft.url) == 0, 30)


def test_a_run_whose_base_runtime_is_killed_is_gone_on_with_when_it_is_back(pair, draft, tmp_path):
    seen = []

    def on_step(step):
        seen.append(step)
        if len(seen) == 2:
            for process in processes(pair.base):
                process.kill()

    judge = {"repair": Rewrite(), "verifier": UtilityScore()}  # what the command line makes of a threshold
    config = SpecReasonConfig(**judge, temperature=0, **SETTINGS)
    try:
        with Endpoint(pair.base, retry_for=1.0) as base, pytest.raises(ServerError) as raised:
            solve(QUESTIONS[0], draft=draft, base=base, config=config, on_step=on_step)
        wait_until(lambda: running(pair.draft.url) == 0, 30)
    finally:
        pair.base.stop()
        pair.base.start()
        wait_healthy([pair.base], 300)  # the other tests need it, too
    assert pair.base.url in str(raised.value)
    assert "\n" not in str(raised.value)
    saved = raised.value.trace
    assert (saved.stop, saved.steps) == ("failed", tuple(seen))

    file = tmp_path / "saved.json"
    file.write_text(saved.to_json())
    options = [
        part for name, value in SETTINGS.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [*CLI, "solve", "--resume", str(file), *urls(pair), *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    trace = Trace.from_json(done.stdout)
    assert trace.steps[:2] == saved.steps
    assert len(trace.steps) > 2
    assert trace.answer
