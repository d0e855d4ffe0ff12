"""What hard formats get, also where that is wrong: math-verify decides, and this says how."""

import pytest

from specreason_sgl.evaluation import grading
from specreason_sgl.evaluation.grading import GradingError, grade, is_right
from specreason_sgl.evaluation.problems import Problem

MATRIX = r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"
RIGHT = [  # expected, answer
    (r"\frac{14}{3}", r"4\frac{2}{3}"),
    ("18", "18 dollars"),
    ("18", "The answer is 18 dollars."),
    ("18", "$18"),
    ("5", r"5\text{ cm}"),
    ("1800", "1,800"),
    (r"10\%", "0.1"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty) \cup (-\infty, 2)"),
    (r"\{1,2\}", r"\{2,1\}"),
    (MATRIX, MATRIX.replace("pmatrix", "bmatrix")),
    (r"\text{Evelyn}", "Evelyn"),
    ("x^2+2x+1", "(x+1)^2"),
    ("5", "x = 5"),
    ("-5", "−5"),  # a typographic minus
]
WRONG = [
    (r"\frac{14}{3}", "4.6667"),
    ("0.333", r"\frac{1}{3}"),
    ("[0,1)", "(0,1)"),
    (MATRIX, MATRIX.replace("4", "5")),
    ("27", r"\boxed{27} or \boxed{28}"),
    ("9", "three plus six is 9, not 10"),
    ("18", "19 dollars"),
    ("2", ""),
]
# Some of what math-verify gets wrong. Not mended here, so that results can be compared with other people's.
TOO_STRICT = [
    (r"5\text{ m}", r"500\text{ cm}"),
    (r"90^\circ", r"\frac{\pi}{2}"),
    ("2", "two"),
    (r"\text{Evelyn}", "The answer is Evelyn."),
    ("27", r"\boxed{26}, no, it is \boxed{27}"),  # boxes with a comma between are a list
]
TOO_LENIENT = [
    ("(1,2)", "1,2"),  # an interval or a point, and a list
    (r"10\%", "10"),
    ("2516_8", "2516"),  # the base is left out
]


@pytest.mark.parametrize(("expected", "answer"), RIGHT + TOO_LENIENT)
def test_it_counts_as_right(expected, answer):
    assert is_right(answer, expected)


@pytest.mark.parametrize(("expected", "answer"), WRONG + TOO_STRICT)
def test_it_counts_as_wrong(expected, answer):
    assert not is_right(answer, expected)


@pytest.mark.parametrize(("expected", "answer"), RIGHT + WRONG + TOO_STRICT + TOO_LENIENT)
def test_in_a_box_it_is_what_math_verify_says_itself(expected, answer):
    from math_verify import parse, verify

    boxed = answer if "\\boxed" in answer else f"\\boxed{{{answer}}}"
    assert is_right(boxed, expected) == verify(parse(f"${expected}$"), parse(boxed))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True),
        ("(B)", True),
        (r"\boxed{B}", True),
        (r"The answer is $\boxed{\text{(B)}}$.", True),
        (r"\(B\)", True),
        ("**B**", True),
        ("B) 12", True),
        ("Answer: B", True),
        ("A is wrong, so the answer is B", True),
        ("A", False),
        (r"\boxed{C}", False),
        ("A or B", False),
        ("E", False),
        ("", False),
        ("b", False),  # too strict: a small letter is mostly the article
        ("12", False),  # too strict: the text of a choice is not looked for
    ],
)
def test_choices_are_graded_by_letter(answer, right):
    assert grade(Problem("x", "q", "B", ("10", "12", "14", "16")), answer) is right


def test_a_comparison_that_takes_too_long_is_neither_right_nor_wrong(monkeypatch):
    monkeypatch.setattr(grading, "TIMEOUT", 1)
    with pytest.raises(GradingError, match="could not be compared with 5 within 1 s"):
        grade(Problem("x", "q", "5"), r"\boxed{9^{9^{9^9}}}")


def test_a_scorer_that_fails_is_named():
    def score(answer):
        raise ZeroDivisionError("oops")

    with pytest.raises(GradingError, match="oops"):
        grade(Problem("x", "q", "5", score=score), "5")
