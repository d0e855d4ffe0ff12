"""Encoding a conversation that grows: only what is new, and as if all of it were."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specreason_sgl.lang.encoding import GuardedEncoder
from specreason_sgl.lang.memory import Memory
from tests.support.tokenizers import SPECIAL_TOKENS, make_tokenizer


def make_encoder(tokenizer) -> GuardedEncoder:
    return GuardedEncoder(tokenizer, source="")


def encoded(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


GROWING = [
    "So ",
    "é\n",
    "\n",
    "\n\n\n",
    " indented\n",
    "\t",
    "12",
    "\r\n",
    "好的。\n",
    "🙂",
    "\u3000",
    "\x1c",
]
GROWING += [
    "<think>\n",
    "</think>\n\n",
    "\u0301",
    "`x`\n    y",
    ".\n\n",
    "-\n",
    "\u200b",
    "ﬁ",
    " b",
    "of",
    " the",
]


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_a_growing_text_is_encoded_as_if_it_were_new(name):
    tokenizer = make_tokenizer(name)
    encoder = make_encoder(tokenizer)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.lists(st.one_of(st.sampled_from(GROWING), st.text(max_size=5)), max_size=14), st.data())
    def grow(pieces, data):
        text = ""
        for piece in pieces:
            text += piece
            assert encoder.encode_growing(text) == encoded(tokenizer, text)
        cut = data.draw(st.integers(0, len(text)))  # and one that is shorter again, then goes on otherwise
        for other in (text[:cut], text[:cut] + "x", text[:cut] + "\n"):
            assert encoder.encode_growing(other) == encoded(tokenizer, other)

    grow()


def test_only_what_is_new_is_encoded():
    encoder = make_encoder(make_tokenizer("qwen2.5"))
    assert encoder.cuts_at_lines
    assert encoder.cuts_at_words
    text = "One line.\n\n" * 50 + "x and"
    encoder.encode_growing(text + " more")
    lengths, encode = [], encoder.encode

    def counting(text):
        lengths.append(len(text))
        return encode(text)

    encoder.encode = counting
    encoder.encode_growing(text + " more.\n\nThen")
    assert 0 < sum(lengths) <= len(" more.\n\nThen")


def test_a_memory_drops_what_was_not_used_for_longest():
    memory = Memory(5)
    memory.put("a", 1, 2)
    memory.put("b", 2, 2)
    memory.get("a")
    memory.put("c", 3, 3)
    assert [memory.get(key) for key in "abc"] == [1, None, 3]
    memory.put("c", 4, 1)
    memory.put("d", 5, 2)
    assert [memory.get(key) for key in "acd"] == [1, 4, 5]


@pytest.mark.parametrize("token", ["of the", "of "])
def test_a_text_is_not_cut_within_a_token(token):
    tokenizer = make_tokenizer("qwen2.5")
    tokenizer.add_tokens([token])
    encoder = make_encoder(tokenizer)
    encoder.encode_growing("one of the")
    assert encoder.encode_growing("one of the two") == encoded(tokenizer, "one of the two")


def test_a_token_that_swallows_the_line_break_before_it_is_encoded_whole():
    from tokenizers import AddedToken

    tokenizer = make_tokenizer("qwen2.5")
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    encoder = make_encoder(tokenizer)
    text = "One line.\n"
    encoder.encode_growing(text)
    assert encoder.encode_growing(text + "<mask> more") == encoded(tokenizer, text + "<mask> more")
