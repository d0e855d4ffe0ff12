"""One model alone, step by step: the draft model without a judge. The steps are those of
programs/specreason.py when every drafted step is kept.

    python programs/draft_only.py http://127.0.0.1:30001 "What is 17 * 23?"

Each step is a request. Most of the chain of thought before it is in the radix cache, so this costs little
more than a single request (programs/base_only.py), and the program can look at each step.
"""

import sys

import sglang as sgl

from specreason_sgl import Endpoint

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)


@sgl.function
def draft_only(s, question, token_budget=1024, step_tokens=256, answer_tokens=512):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    steps, cached, ended, lead = [], [], False, ""
    while not ended and token_budget > 0:
        s += lead
        s += sgl.gen("step", max_tokens=min(step_tokens, token_budget), stop=["\n\n"], temperature=0)
        step, meta = s["step"], s.get_meta_info("step")
        matched = meta["finish_reason"].get("matched")
        lead = "\n\n" if matched == "\n\n" else ""  # a step that was cut goes on
        repeats = bool(steps) and step.strip() == steps[-1].strip() != ""
        ended = matched not in (None, "\n\n") or repeats or "\\boxed{" in step.replace("\\boxed{}", "")
        token_budget -= meta["completion_tokens"]
        steps.append(step)
        cached.append((meta["cached_tokens"], meta["prompt_tokens"]))
    s += "\n\nFinal answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()
    s["steps"], s["cached"] = steps, cached


if __name__ == "__main__":
    url, question = sys.argv[1:]
    state = draft_only.run(question=question, backend=Endpoint(url))
    for step, (cached, prompt) in zip(state["steps"], state["cached"], strict=True):
        print(f"{step}\n  {cached} of the {prompt} tokens before it came from the cache\n")
    print("Final answer:", state["answer"])
