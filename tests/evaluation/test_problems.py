"""Where problems come from."""

import json
import sys
from types import SimpleNamespace

import pytest

from specreason_sgl.errors import ConfigError
from specreason_sgl.evaluation.grading import grade
from specreason_sgl.evaluation.problems import Problem, load_data, load_problems

ROWS = {
    ("HuggingFaceH4/aime_2024", None): [{"id": 60, "problem": "How many?", "answer": "204"}],
    ("math-ai/aime25", None): [{"id": "0", "problem": "How many?", "answer": 70}],
    ("HuggingFaceH4/MATH-500", None): [{"unique_id": "test/a.json", "problem": "How?", "answer": "p - q"}],
    ("openai/gsm8k", "main"): [{"question": "How much?", "answer": "16 - 3 = 13\nSo 2 * 9.\n#### 1,800"}],
    ("Idavidrein/gpqa", "gpqa_diamond"): [
        {
            "Record ID": f"rec{i}",
            "Question": "Which?\n",
            "Correct Answer": "right\n",
            **{f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)},
        }
        for i in range(20)
    ],
}


@pytest.fixture
def hub(monkeypatch):
    """A model hub with the datasets' first rows."""
    asked = []

    def load_dataset(name, part=None, *, split):
        asked.append((name, part, split))
        return ROWS[name, part]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr("specreason_sgl.runtime.hub.is_reachable", lambda: True)
    return asked


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aime24", Problem("aime24/60", "How many?", "204")),
        ("aime25", Problem("aime25/0", "How many?", "70")),
        ("math500", Problem("math500/test/a.json", "How?", "p - q")),
        ("gsm8k", Problem("gsm8k/0", "How much?", "1,800")),
        ("gsm8k-train", Problem("gsm8k-train/0", "How much?", "1,800")),
    ],
)
def test_the_hubs_datasets_are_read(hub, name, expected):
    assert load_data(name) == [expected]


def test_the_right_choice_is_anywhere_and_for_a_seed_always_there(hub):
    problems = load_data("gpqa-diamond", seed=1)
    assert {problem.answer for problem in problems} == set("ABCD")
    assert all(problem.choices["ABCD".index(problem.answer)] == "right" for problem in problems)
    assert load_data("gpqa-diamond", seed=1) == problems != load_data("gpqa-diamond", seed=2)
    assert len(load_data("gpqa-diamond", 3)) == 3


def test_without_a_hub_it_is_said_at_once_and_no_library_is_asked(monkeypatch):
    monkeypatch.setattr("specreason_sgl.runtime.hub.is_reachable", lambda: False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"no model hub can be reached; name a file or rg:TASK") as error:
        load_data("aime24")
    assert "\n" not in str(error.value)


def test_a_dataset_that_cannot_be_had_is_one_line(hub, monkeypatch):
    def load_dataset(*_, **__):
        raise RuntimeError("'Idavidrein/gpqa' is a gated dataset on the Hub.\nVisit the page")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    with pytest.raises(ConfigError, match=r"is a gated dataset on the Hub\.$"):
        load_data("gpqa-diamond")


def test_tasks_are_generated_and_graded_by_their_own_scorer():
    how = "pip install 'specreason-sgl[reasoning-gym]' (needs a C compiler)"
    pytest.importorskip("reasoning_gym", reason=f"reasoning-gym is not installed: {how}")
    problems = load_data("rg:chain_sum", 5, seed=1)
    assert len({problem.id for problem in problems}) == len(problems) == 5
    assert problems == load_data("rg:chain_sum", 5, seed=1)
    assert problems != load_data("rg:chain_sum", 5, seed=2)
    assert load_data("rg:chain_sum", 3, seed=1) == problems[:3]
    for problem in problems:
        assert grade(problem, f"\\boxed{{{problem.answer}}}")
        assert not grade(problem, f"\\boxed{{{problem.answer}9}}")
        assert not grade(problem, "")
    with pytest.raises(ConfigError, match="no task 'nonsense'"):
        load_data("rg:nonsense")


def test_without_reasoning_gym_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ConfigError, match=r"^rg:chain_sum .*: pip install reasoning-gym") as error:
        load_data("rg:chain_sum")
    assert "\n" not in str(error.value)


def test_an_answer_that_is_partly_right_is_not_right():
    scores = {"a": 1.0, "b": 0.5}
    problem = Problem("x", "q", "a", score=scores.get)
    assert [grade(problem, answer) for answer in "ab"] == [True, False]


def test_choices_are_shown_with_letters_and_named_by_text_or_letter(tmp_path):
    file = tmp_path / "x.jsonl"
    rows = [
        {"id": "a", "question": "Which?", "answer": "B", "choices": ["one", "two"]},
        {"id": "b", "question": "Which?", "answer": "two", "choices": ["one", "two"]},
        {"id": "c", "question": "Line separator \u2028 inside", "answer": 3},
    ]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    a, b, c = load_data(str(file))
    assert a.answer == b.answer == "B"
    assert a.prompt.startswith("Which?\n\n(A) one\n(B) two\n")
    assert c.prompt == rows[2]["question"]
    file.write_text(json.dumps({**rows[0], "answer": "C"}))
    with pytest.raises(
        ConfigError, match=r"line 1: answer must be one of the choices or its letter, got 'C'"
    ):
        load_data(str(file))


def test_problems_are_chosen_by_place_or_by_id(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text("".join(f'{{"id": "{id}", "question": "q", "answer": 1}}\n' for id in "abcd"))

    def ids(*limit, **chosen):
        return "".join(problem.id for problem in load_data(str(file), *limit, **chosen))

    assert (ids(2, offset=1), ids(offset=3), ids(ids=["d", "a"])) == ("bc", "d", "da")
    for chosen, says in ({"offset": 4}, "offset must be below 4"), ({"ids": ["a", "e"]}, "none named e"):
        with pytest.raises(ConfigError, match=says):
            ids(**chosen)


def test_problems_with_the_same_id_are_refused(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"id": "a", "question": "q", "answer": "1"}\n' * 2)
    with pytest.raises(ConfigError, match=r"two problems of .* have the id 'a'"):
        load_data(str(file))


def test_a_name_that_is_nothing_names_what_there_is():
    with pytest.raises(ConfigError, match=r"must be a file or one of aime24, .*rg:TASK, got 'aime23'"):
        load_data("aime23")


def test_problems_are_read_and_a_bad_line_is_named(tmp_path):
    file = tmp_path / "problems.jsonl"
    good = json.dumps({"question": "q", "answer": 3})
    file.write_text(f"{good}\n\n{good}\n")
    assert [(problem.id, problem.answer) for problem in load_problems(file)] == [("1", "3"), ("3", "3")]
    assert len(load_problems(file, 1)) == 1
    for bad, says in (
        ("{", "this is not a problem: Input data was truncated"),
        ('{"question": "q"}', "Object missing required field `answer`"),
        ("[1]", "Expected `object`, got `array`"),
        ('{"question": " ", "answer": "1"}', "question must not be empty"),
        ('{"question": "q", "answer": null}', r"Expected .*, got `null` - at `\$\.answer`"),
        ('{"question": "q", "answer": "1", "choices": "ab"}', r"Expected .*, got `str` - at `\$\.choices`"),
    ):
        file.write_text(f"{good}\n{bad}\n")
        with pytest.raises(ConfigError, match=f"line 2: .*{says}"):
            load_problems(file)
    file.write_text("")
    with pytest.raises(ConfigError, match="no problems"):
        load_problems(file)
