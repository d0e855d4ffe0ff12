"""Self-evaluation guided beam search for reasoning (arXiv 2305.00633): one model writes the steps and judges
them, and a beam search keeps the chains that are likely and that the model believes.

    python programs/self_eval_beam_search.py http://127.0.0.1:30000 "What is 17 * 23?"

A chain's value is the sum over its steps of lambda * log P + (1 - lambda) * log C. P is the probability of
the step's tokens at the sampling temperature, as SGLang reports it. C is the probability of "Yes", as opposed
to "No", as the answer to whether the step is correct. Steps are sampled. The best `width` chains continue;
the paper also samples among them.
"""

import math
import sys
from dataclasses import dataclass

import sglang as sgl

from specreason_sgl import Endpoint, score

INSTRUCTION = (
    "Reason step by step, with a blank line after each step. Put the final answer into \\boxed{} at the end."
)
QUESTION = "\n\nIs the last step correct? Answer Yes or No:"


@dataclass(frozen=True)
class Beam:
    state: object  # holds the chain so far
    value: float = 0.0
    steps: tuple = ()  # of (text, log P, C)
    ended: bool = False


@sgl.function
def self_eval_beam_search(
    s, question, width=2, samples=3, lam=0.5, max_steps=8, step_tokens=256, answer_tokens=512
):
    s += sgl.user(f"{question}\n\n{INSTRUCTION}")
    s += sgl.assistant_begin()
    next_step = sgl.gen("step", step_tokens, stop=["\n\n"], temperature=0.8, return_logprob=True)
    beams, rounds = [Beam(s)], []
    while len(rounds) < max_steps and not all(beam.ended for beam in beams):
        extended = []
        for beam in beams:
            for state in [] if beam.ended else beam.state.fork(samples):
                state += next_step
                extended.append((beam, state))
        judges = [state.fork(1)[0] for _, state in extended]
        for judge in judges:
            judge += QUESTION + score("x", choices=(" Yes", " No"))
        candidates = [beam for beam in beams if beam.ended]
        for (beam, state), judge in zip(extended, judges, strict=True):
            text, meta = state["step"], state.get_meta_info("step")
            logprob = math.fsum(token[0] for token in meta["output_token_logprobs"])
            confidence = judge.get_meta_info("x")["probabilities"][" Yes"] if text.strip() else 0.0
            value = beam.value + lam * logprob + (1 - lam) * math.log(max(confidence, 1e-9))
            answered = "\\boxed{" in text.replace("\\boxed{}", "")
            ended = answered or meta["finish_reason"].get("matched") not in (None, "\n\n")
            if not ended:
                state += "\n\n"
            candidates.append(Beam(state, value, (*beam.steps, (text, logprob, confidence)), ended))
        beams = sorted(candidates, key=lambda beam: beam.value, reverse=True)[:width]
        rounds.append([(beam.value, beam.steps) for beam in candidates])
    s += "\n\n".join(text for text, *_ in beams[0].steps) + "\n\nFinal answer:"
    s += sgl.gen("answer", max_tokens=answer_tokens, temperature=0)
    s += sgl.assistant_end()
    s["value"], s["steps"], s["rounds"] = beams[0].value, beams[0].steps, rounds


if __name__ == "__main__":
    url, question = sys.argv[1:]
    state = self_eval_beam_search.run(question=question, backend=Endpoint(url))
    for text, logprob, confidence in state["steps"]:
        print(f"{text}\n  log P {logprob:.2f}, C {confidence:.3f}\n")
    print("Final answer:", state["answer"])
