"""A small trace per mode; together they have every kind of step."""

from specreason_sgl.reasoning.config import SpecReasonConfig
from specreason_sgl.reasoning.repair import Correct, Rewrite
from specreason_sgl.reasoning.trace import Call, Correction, ReadToken, Step, Trace

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
        32,
        8.0,
        {"9": 0.21, "8": 0.62, "7": 0.11, "6": 0.06},
        calls=(Call("draft", "draft", 75, 60, 32, 1.4, 0.8), Call("base", "score", 130, 74, 1, 2.2, 0.5)),
    ),
    Step(
        HEAD + " That is 45 / 60 = 0.75 hours.",
        "base",
        "delimiter",
        24,
        0,
        4.0,
        {"5": 0.3, "4": 0.5, "3": 0.2},
        HEAD + " That is 0.45 hours.",
        calls=(
            Call("draft", "draft", 107, 75, 20, 2.2, 0.6),
            Call("base", "score", 160, 106, 1, 2.8, 0.5),
            Call("base", "rewrite", 125, 120, 24, 3.3, 1.3),
        ),
    ),
    Step(
        "So the speed is \\( 60 / 0.75 = 80 \\) km/h.",
        "base",
        "delimiter",
        18,
        0,
        2.0,
        {"2": 0.9, "1": 0.1},
        "So the speed is \\( 60 \\times 0.75 = 45 \\) km/h.",
        calls=(
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


def read(start: int, *tokens: str | tuple[str, float, str]) -> tuple[ReadToken, ...]:
    """Tokens from a position on: the base model's first choice, or text, regret and the first choice."""
    reading = []
    for token in tokens:
        text, regret, first = (token, 0.0, token) if isinstance(token, str) else token
        reading.append(ReadToken(start, text, -0.5 - regret, first, regret))
        start += len(text)
    return tuple(reading)


CORRECTED_STEPS = (
    Step(
        "We divide the distance by the time.",
        "draft",
        "delimiter",
        9,
        9,
        reading=read(0, ("We", 0.8, "To"), " divide the", (" distance", 2.6, " 60"), " by the time", ".\n\n"),
        calls=(Call("draft", "draft", 60, 0, 9, 0.0, 0.4), Call("base", "read", 70, 0, 0, 0.4, 0.4)),
    ),
    Step(
        HEAD + " That is 45 / 60 = 0.75 hours.",
        "both",
        "delimiter",
        24,
        22,
        corrections=(
            Correction(len(HEAD + " That is"), " 0", " 45", 4.21, 14),
            Correction(len(HEAD + " That is 45 / 60 ="), " <i>&amp;", " 0", 6.5, 4),
        ),
        reading=(
            *read(0, ("", 0.3, "🚂"), "🚆", " 45", (" minutes", 5.5, " min"), " are"),
            *read(len(HEAD), (" That", 1.2, " So"), " is", " 45", (" /", 0.1, "/"), " 60"),
        ),
        calls=(
            Call("base", "read", 90, 70, 0, 0.9, 0.4),
            Call("draft", "draft", 84, 76, 6, 1.3, 0.3),
            Call("base", "read", 95, 84, 0, 1.6, 0.4),
            Call("draft", "draft", 89, 84, 4, 2.0, 0.3),
            Call("base", "read", 100, 92, 0, 2.3, 0.4),
        ),
    ),
    Step(
        "So the speed is 60 / 0.75 = 80 km/h.",
        "both",
        "delimiter",
        16,
        15,
        corrections=(Correction(36, " because", "", 3.3, 15),),
        reading=read(15, " 60", " /", (" 0.75", 3.0, " ("), " = 80 km/h.", "\n\n"),
        calls=(Call("draft", "draft", 93, 89, 18, 2.3, 0.9), Call("base", "read", 127, 100, 0, 3.2, 0.4)),
    ),
    Step(
        "The answer is \\boxed{80} km/h.",
        "both",
        "delimiter",
        11,
        10,
        corrections=(Correction(24, "", " km/h", 3.05, 9),),
        calls=(
            Call("draft", "draft", 109, 93, 9, 3.6, 0.4),
            Call("base", "read", 135, 126, 0, 4.0, 0.4),
            Call("draft", "draft", 119, 109, 1, 4.4, 0.1),
            Call("base", "read", 138, 135, 0, 4.5, 0.3),
        ),
    ),
    Step(
        "Check: 80 km/h for 45 minutes are",
        "both",
        None,
        9,
        4,
        calls=(Call("draft", "draft", 120, 119, 4, 4.8, 0.2), Call("base", "rewrite", 142, 138, 5, 5.0, 0.5)),
        undrafted="failure",
    ),
)
CUT_OFF = (Call("draft", "draft", 69, 60, 22, 0.4, 0.9), Call("base", "read", 100, 92, 0, 2.7, 0.2))


def make_corrected(**changes) -> Trace:
    """Of a run that corrects tokens: after an emoji, at a step's end, and where the draft ended its turn."""
    corrected = {
        "config": SpecReasonConfig(repair=Correct(delta=3.0)).as_dict(),
        "steps": CORRECTED_STEPS,
        "stop": "budget",
        "answer_call": Call("base", "answer", 165, 160, 13, 5.5, 1.3),
        "seconds": 6.9,
        "wasted": CUT_OFF,
    }
    return make_trace(**{**corrected, **changes})


def make_trace(**changes) -> Trace:
    values = {
        "question": QUESTION,
        "mode": "specreason",
        "draft_model": "small/draft-0.5b",
        "base_model": "big/base-1.5b",
        "config": SpecReasonConfig(repair=Rewrite()).as_dict(),
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
