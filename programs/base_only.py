"""One model alone, with its whole chain of thought in one request: the baseline for speculative programs.

    python programs/base_only.py http://127.0.0.1:30000 "What is 17 * 23?"

The prompt and the final answer are as in programs/specreason.py. Nothing is judged, so the chain of thought
need not be cut into steps; programs/draft_only.py does that.
"""

import sys
import time

import sglang as sgl

from specreason_sgl import Endpoint

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)


@sgl.function
def base_only(s, question, token_budget=1024, answer_tokens=512):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    s += sgl.gen("reasoning", max_tokens=token_budget, temperature=0)
    s += "\n\nFinal answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()


if __name__ == "__main__":
    url, question = sys.argv[1:]
    started = time.perf_counter()
    state = base_only.run(question=question, backend=Endpoint(url))
    print(state["reasoning"], "\n\nFinal answer:", state["answer"])
    tokens = sum(state.get_meta_info(name)["completion_tokens"] for name in ("reasoning", "answer"))
    print(f"\n{tokens} tokens in {time.perf_counter() - started:.1f} s")
