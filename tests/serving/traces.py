"""A trace with a step of every kind, as plain as it can be."""

from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.trace import Call, Step, Trace

QUESTION = "A train goes 60 km in 45 minutes. How fast is it, in km/h?"
HEAD = "🚆 45 minutes are 3/4 of an hour."
STEPS = (
    Step(
        "We look for a speed, so we divide the distance by the time.",
        "base",
        "delimiter",
        14,
        calls=(Call("base", "rewrite", 60, 0, 14, 0.0, 1.4),),
    ),
    Step(
        "The distance is 60 km and the time is 45 minutes.\nThe speed is in km/h, so we need hours.",
        "draft",
        "delimiter",
        32,
        8.0,
        {"9": 0.21, "8": 0.62, "7": 0.11, "6": 0.06},
        calls=(Call("draft", "draft", 75, 60, 32, 1.4, 0.8), Call("base", "score", 130, 74, 1, 2.2, 0.5)),
    ),
    Step(
        HEAD + " That is 45 / 60 = 0.75 hours.",
        "both",
        "delimiter",
        24,
        4.0,
        {"5": 0.3, "4": 0.5, "3": 0.2},
        HEAD + " That is 0.45 hours.",
        len(HEAD),
        (
            Call("draft", "draft", 107, 75, 20, 2.2, 0.6),
            Call("base", "score", 160, 106, 1, 2.8, 0.5),
            Call("base", "rewrite", 125, 120, 12, 3.3, 1.3),
        ),
    ),
    Step(
        "So the speed is \\( 60 / 0.75 = 80 \\) km/h.",
        "base",
        "delimiter",
        18,
        2.0,
        {"2": 0.9, "1": 0.1},
        "So the speed is \\( 60 \\times 0.75 = 45 \\) km/h.",
        0,
        (
            Call("draft", "draft", 131, 107, 19, 4.6, 0.6),
            Call("base", "score", 180, 130, 1, 5.2, 0.5),
            Call("base", "rewrite", 131, 130, 18, 5.7, 1.8),
        ),
    ),
    Step(
        "The answer is \\boxed{80} km/h.",
        "draft",
        "delimiter",
        11,
        9.0,
        {"9": 0.97, "8": 0.03},
        calls=(Call("draft", "draft", 149, 131, 11, 7.5, 0.4), Call("base", "score", 190, 148, 1, 7.9, 0.5)),
    ),
)
WASTED = (
    Call("draft", "draft", 127, 107, 17, 2.8, 0.5),
    Call("draft", "draft", 150, 131, 13, 5.2, 0.4),
    Call("draft", "draft", 160, 149, 4, 7.9, 0.2),
)


def make_trace(**changes) -> Trace:
    values = {
        "question": QUESTION,
        "mode": "specreason",
        "draft_model": "small/draft-0.5b",
        "base_model": "big/base-1.5b",
        "config": SpecReasonConfig().as_dict(),
        "steps": STEPS,
        "stop": "answer",
        "answer": "The train goes 80 km/h: \\boxed{80}",
        "answer_call": Call("base", "answer", 165, 160, 13, 8.4, 1.3),
        "seconds": 9.75,
        "wasted": WASTED,
    }
    return Trace(**{**values, **changes})


def make_alone(**changes) -> Trace:
    text = "The speed is distance over time.\n\n45 minutes are 0.75 h, and 60 / 0.75 = 80.\n\n\\boxed{80}"
    *before, last = text.split("\n\n")
    call = Call("base", "reason", 60, 0, 140, 0.0, 14.0)
    steps = (
        *(Step(part, "base", "delimiter", 0) for part in before),
        Step(last, "base", "eos", 140, calls=(call,)),
    )
    alone = {
        "mode": "base",
        "draft_model": None,
        "steps": steps,
        "stop": "end",
        "answer": "80 km/h",
        "answer_call": Call("base", "answer", 200, 190, 6, 14.0, 0.6),
        "seconds": 14.65,
        "wasted": (),
    }
    return make_trace(**{**alone, **changes})
