"""Correction as a plain SGLang program: stock `sgl`, plus `fork_to` and `logprobs`.

    python programs/correct.py http://127.0.0.1:30001 http://127.0.0.1:30000 "What is 17 * 23?"

The first server runs the draft model, the second the base model. The base model reads each drafted step in
one prefill, which shows what it would have written at each token. The draft is cut at the first token that
the base model regrets by more than `delta` nats, and the base model's own token is put there; the draft model
continues from it. Greedy decoding, for instruct models. `specreason_sgl.speculate` adds a stricter delta for
numbers, windows, sampling, thinking models, deadlines and the trace.
"""

import sys

import sglang as sgl

from specreason_sgl import Endpoint, fork_to, logprobs

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)


@sgl.function
def correct(s, question, draft, delta=1.0, token_budget=1024, step_tokens=256, answer_tokens=512):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    chain, corrections, ended = "", [], False
    while not ended and token_budget > 0:
        writer = fork_to(s, draft)  # the same conversation on the draft server, in that model's template
        writer += sgl.gen("text", max_tokens=min(step_tokens, token_budget), stop=["\n\n"], temperature=0)
        end = writer.get_meta_info("text")["finish_reason"].get("matched")
        text = writer["text"] + ("\n\n" if end == "\n\n" else "")

        reader = s.fork(1)[0]
        reader += logprobs("text", text, end_of_turn=end not in (None, "\n\n"))
        tokens = reader.get_meta_info("text")["logprobs"]
        cut = next((i for i, token in enumerate(tokens) if token.regret > delta), None)
        if cut is not None:
            head, choice = "".join(token.text for token in tokens[:cut]), tokens[cut].first[0]
            corrections.append((tokens[cut].text, choice.text))
            end = choice.id if s.stream_executor.chat_template.is_end(choice.id) else None
            text = head + (choice.text if end is None else "")
        chain += text
        s += text
        token_budget -= len(tokens) if cut is None else cut + 1
        answered = "\\boxed{" in chain.replace("\\boxed{}", "") and chain.endswith("\n\n")
        ended = end not in (None, "\n\n") or answered
    s += ("" if chain.endswith("\n\n") else "\n\n") + "Final answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()
    s["chain"], s["corrections"] = chain, corrections


if __name__ == "__main__":
    draft_url, base_url, question = sys.argv[1:]
    state = correct.run(question=question, draft=Endpoint(draft_url), backend=Endpoint(base_url))
    print(state["chain"], "\n\nFinal answer:", state["answer"])
    for drafted, token in state["corrections"]:
        print(f"corrected: {drafted!r} to {token!r}")
