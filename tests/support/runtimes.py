"""Asking real SGLang runtimes: the command line, questions, empty caches, and the servers' metrics."""

import sys

import urllib3

from specreason_sgl import Endpoint

QUESTIONS = [
    "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?",
    "What is the capital of France?",
]
CLI = [sys.executable, "-m", "specreason_sgl.cli"]


def flush_caches(*endpoints: Endpoint) -> None:
    """Let runs that are compared begin alike: what is cached decides what is computed together, and so the
    last bits of the logits, which can flip a close decision."""
    for endpoint in endpoints:
        endpoint.flush_cache()


def metric(url: str, name: str) -> float:
    """The sum of a Prometheus metric over its labels."""
    lines = urllib3.request("GET", f"{url}/metrics").data.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + "{", name + " ")))


def running(url: str) -> float:
    """How many requests a runtime has, running or queued."""
    return metric(url, "sglang:num_running_reqs") + metric(url, "sglang:num_queue_reqs")


def urls(pair) -> list[str]:
    """The options of the command line that name a running pair."""
    named = ["--draft-url", pair.draft.url, "--base-url", pair.base.url, "--runtime-key", pair.base.api_key]
    return [*named, "--temperature", "0"]
