"""A task for inspect_ai; docs/guides/clients.md has the command."""

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def sums() -> Task:
    dataset = json_dataset("sums.jsonl", FieldSpec(input="question", target="answer"))
    return Task(dataset=dataset, solver=generate(), scorer=includes())
