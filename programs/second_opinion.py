"""Two models in one program: the draft model answers, the base model says how sure it is of the answer.

python programs/second_opinion.py "What is 17 * 23?"
"""

import sys

import sglang as sgl

from specreason_sgl import Endpoint, fork_to, get_pair, launch_pair, score


@sgl.function
def second_opinion(s, question, draft):
    s += sgl.user(question)
    s += sgl.assistant_begin()
    fork = fork_to(s, draft)  # the same conversation on the draft model's server
    fork += sgl.gen("answer", max_tokens=64, temperature=0)
    s += fork["answer"]  # now it is in the base model's own turn
    s += "\n\nHow sure this is, from 0 (wrong) to 9 (certain): " + score("sure", read="average")


if __name__ == "__main__":
    with launch_pair(get_pair("mini")) as pair:
        draft, base = Endpoint(pair.draft), Endpoint(pair.base)
        state = second_opinion.run(question=sys.argv[1], draft=draft, backend=base)
        print(state["sure"], state.get_meta_info("sure")["score"])
        print(state.text())
