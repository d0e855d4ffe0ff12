"""Reward-guided speculative decoding (arXiv 2501.19324): a process reward model, on its own server, judges
each drafted step. A step whose reward reaches the threshold is kept; otherwise the target model writes it.

    sglang serve --model-path REWARD_MODEL --is-embedding --port 30002
    python programs/reward_guided.py DRAFT_URL TARGET_URL REWARD_URL "What is 17 * 23?"

The reward model reads the conversation in its own chat template. The scale of its value, and so of the
threshold, depends on the model.
"""

import sys

import sglang as sgl

from specreason_sgl import Endpoint, fork_to

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)


@sgl.function
def reward_guided(
    s, question, draft, reward, threshold=0.7, token_budget=1024, step_tokens=256, answer_tokens=512
):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    steps, rewards, ended, lead = [], [], False, ""
    while not ended and token_budget > 0:
        s += lead
        next_step = sgl.gen("step", max_tokens=min(step_tokens, token_budget), stop=["\n\n"], temperature=0)

        writer = fork_to(s, draft)
        writer += next_step
        kept = False
        if writer["step"].strip():
            values, _ = reward.classify(fork_to(s, reward), writer["step"])
            rewards.append((writer["step"], values[0]))
            kept = values[0] >= threshold
        if not kept:
            writer = s.fork(1)[0]
            writer += next_step

        step, meta = writer["step"], writer.get_meta_info("step")
        matched = meta["finish_reason"].get("matched")
        lead = "\n\n" if matched == "\n\n" else ""  # a step that was cut goes on
        repeats = bool(steps) and step.strip() == steps[-1].strip() != ""
        ended = matched not in (None, "\n\n") or repeats or "\\boxed{" in step.replace("\\boxed{}", "")
        token_budget -= meta["completion_tokens"]
        steps.append(step)
        s += step
    s += "\n\nFinal answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()
    s["steps"], s["rewards"] = steps, rewards


if __name__ == "__main__":
    *urls, question = sys.argv[1:]
    draft, target, reward = map(Endpoint, urls)
    state = reward_guided.run(question=question, draft=draft, reward=reward, backend=target)
    print("\n\n".join(state["steps"]), "\n\nFinal answer:", state["answer"])
    print("\nRewards of the drafted steps:", *(f"{value:.2f}" for _, value in state["rewards"]))
