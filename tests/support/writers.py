"""What a scripted `Pair` writes, how it scores, and where its requests fail."""

from specreason_sgl.reasoning.verifiers import QUESTION
from tests.support.pair import chance

FAILS = (500, b'{"error": {"message": "boom"}}')


def steps_of(last: int, end: str = "eos"):
    """A `write` whose steps name their author and number; the last ends the turn, or the thinking."""

    def write(side, turn, most):
        number = turn.count("\n\n") + 1
        return f"{side} {number}", end if number == last else "delimiter", 3

    return write


def number_of(seen) -> int:
    """The number of the step that a request is about, from 1."""
    return seen.turn.removesuffix(QUESTION).count("\n\n") + 1


def digit(turn):
    """Accept every step except the second draft of `steps_of`."""
    return 0 if turn.endswith("draft 2") else 9


def replies_at(purpose: str, reply, times: float = float("inf")):
    """A `Pair.before`: from the second step on, requests of a purpose get `reply`, at most `times` times."""
    count = []

    def before(seen):
        if seen.purpose == purpose and number_of(seen) > 1 and len(count) < times:
            count.append(seen)
            return reply
        return None

    return before


def random_writer(seed, texts):
    """`write` and `digit` that roll the same dice for the same turn."""

    def write(side, turn, most):
        dice = chance(seed, side, turn)
        tokens = dice.randrange(1, 9)
        # A number in some steps keeps turns apart: few runs stop because the chain repeats itself.
        text = dice.choice(texts) + dice.choice(["", " ", str(dice.randrange(999))])
        if tokens > most:
            return text[: max(len(text) // 2, 1)], "length", most
        return text, dice.choice(["delimiter"] * 12 + ["stray", "eos"]), tokens

    return write, lambda turn: chance(seed, "digit", turn).randrange(10)
