"""Encoding a rendered conversation, so that only the template can write control tokens, and quickly.

`guard` replaces the control tokens in a message by numbered marks that no template touches;
`encode_guarded` puts them back as ordinary text, after the conversation was rendered. Of a text that grows,
only what follows its last known line or word is encoded.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

from tokenizers.decoders import ByteLevel

from specreason_sgl.lang.memory import Memory

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
UNFINISHED = "\ufffd"  # what a decoder gives for a part of a character
KNOWN_IDS = 4_000_000  # that are kept: 32 MB, and half as much for their texts
KEPT_CUTS = 3  # of a text; the next one goes on from the last of them, unless a part of it is taken back
TAIL = 32  # characters before a choice that may change how it is encoded
_MARK_OPEN, _MARK_CLOSE = "\ue000", "\ue001"  # private-use characters
_MARK = re.compile(f"{_MARK_OPEN}(\\d+){_MARK_CLOSE}")
_TAG = re.compile(r"<[^\s<>]+>")
_NOT_HTML = re.compile(r"[|｜_▁]")  # no element of HTML has one of these in its name
_SPACE_AFTER_WORD = re.compile(r"[A-Za-z] ")
_LAST_WORD = re.compile(r".*[A-Za-z](?= [A-Za-z])", re.DOTALL)  # what is before it


class GuardedEncoder:
    """A tokenizer's encoding of rendered conversations.

    Args:
        tokenizer: a `transformers.PreTrainedTokenizerFast`.
        source: the chat template's text; the tags in it are control tokens.
    """

    def __init__(self, tokenizer, source: str):
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        controls = (token.content for token in added if _is_control(token, source))
        self._controls = sorted(controls, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, self._controls)) or r"(?!)")
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._texts: dict[int, str | None] = {}  # by token id
        self._known = Memory(KNOWN_IDS)  # ids of texts
        self._choices = Memory(1024)

    def encode(self, text: str) -> list[int]:
        """A text's token ids, without special tokens around it."""
        # The tokenizer's own `encode`, which wraps this, takes five times as long for a short text.
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def text_of(self, id: int) -> str | None:
        """A token's text, if it is the same wherever the token stands: whole characters, in a vocabulary of
        bytes. Others (SentencePiece) write a space before a token, or not."""
        if id not in self._texts:
            text = self.decode([id]) if isinstance(self._backend.decoder, ByteLevel) else UNFINISHED
            self._texts[id] = None if UNFINISHED in text else text
        return self._texts[id]

    def guard(self, content: str, keep: Collection[int] = ()) -> str:
        """Content with the control tokens in it replaced by marks.

        Args:
            content: a message's, or a part of it.
            keep: positions in it where a control token is to remain one.
        """
        if _MARK_OPEN not in content and not self._control.search(content):
            return content
        content = _MARK.sub(lambda forged: forged[0].replace(_MARK_OPEN, "\ufffd"), content)

        def mark(match: re.Match) -> str:
            if match.start() in keep:
                return match[0]
            return f"{_MARK_OPEN}{self._controls.index(match[0])}{_MARK_CLOSE}"

        return self._control.sub(mark, content)

    def encode_guarded(self, rendered: str) -> list[int]:
        """Token ids of a text with marks in it, which become what they stand for as ordinary text."""
        if not _MARK.search(rendered):
            return self.encode_growing(rendered)
        # Split at the template's own control tokens; what lies between is plain text, marks put back.
        ids: list[int] = []
        at = 0
        for control in [*self._control.finditer(rendered), None]:
            plain = rendered[at : control.start() if control else len(rendered)]
            for piece in self._broken_up(_MARK.sub(lambda m: self._controls[int(m[1])], plain)):
                ids += self.encode(piece)
            if control:
                ids += self.encode(control[0])
                at = control.end()
        return ids

    def encode_growing(self, text: str) -> list[int]:
        """Token ids of a text whose beginning was probably encoded before: only what is new is encoded."""
        start, ids, new_cuts = 0, [], []
        for cut in self._cuts(text):
            if (known := self._known.get(text[:cut])) is not None:
                start, ids = cut, known
                break
            new_cuts.append(cut)
        for cut in reversed(new_cuts[:KEPT_CUTS]):
            ids = ids + self.encode(text[start:cut])
            self._known.put(text[:cut], ids, len(ids))
            start = cut
        rest = text[start:]
        if (known := self._known.get(rest)) is None:  # a program asks the same question again and again
            known = self.encode(rest)
            self._known.put(rest, known, len(known))
        return ids + known

    def _cuts(self, text: str) -> Iterator[int]:
        """Where a text can be cut, from its end on: before a line, and before the last word of one."""
        end = len(text)
        while end:
            line = text.rfind("\n", 0, end) + 1
            while line and text[line : line + 1].isspace():
                line = text.rfind("\n", 0, line - 1) + 1
            if self.cuts_at_words and (word := _LAST_WORD.match(text, line, end)):
                yield word.end()
            if line and self.cuts_at_lines:
                yield line
            end = max(line - 1, 0)

    @cached_property
    def cuts_at_lines(self) -> bool:
        """Whether a line's tokens do not depend on the lines before it, tried with an ASCII character on each
        side of the joint.

        This holds for the tokenizers of Qwen, Llama-3 and DeepSeek. GPT-2's joins the last line break to what
        follows, SentencePiece treats the beginning of a text in its own way, and a special token can swallow
        the white space before it.
        """
        if any(token.lstrip for token in self._tokenizer.added_tokens_decoder.values()):
            return False
        befores = ["a\n", "1\n", ".\n", " \n", "\n\n", ":\n\n", ")\n\n", "x \n\n"]
        return self._are_apart(befores, [chr(code) + more for code in range(33, 127) for more in ("", "b 1")])

    @cached_property
    def cuts_at_words(self) -> bool:
        """Whether the tokens of a word and the space before it do not depend on the word before, tried with
        frequent words: some vocabularies have tokens of several."""
        for token in self._tokenizer.added_tokens_decoder.values():
            if token.lstrip or token.rstrip or _SPACE_AFTER_WORD.search(token.content):
                return False
        words = ["a", "I", "of", "in", "to", "do", "is", "the", "not", "that", "one", "be", "well", "x", "Z"]
        return self._are_apart(words, [f" {word}" for word in words])

    def _are_apart(self, befores: Sequence[str], afters: Sequence[str]) -> bool:
        """Whether texts are encoded one after another as each of them alone."""
        heads = {before: self.encode(before) for before in befores}
        tails = {after: self.encode(after) for after in afters}
        return all(
            self.encode(before + after) == heads[before] + tails[after]
            for before in befores
            for after in afters
        )

    def single_tokens(self, text: str, choices: tuple[str, ...]) -> list[int]:
        """Each choice's one token id after a text; none where a choice is not one token there, or two choices
        are the same token."""
        key = (text[-TAIL:], choices)
        if (ids := self._choices.get(key)) is None:
            ids = self._find_single_tokens(*key)
            self._choices.put(key, ids)
        return ids

    def _find_single_tokens(self, tail: str, choices: tuple[str, ...]) -> list[int]:
        before, ids = self.encode(tail), []
        for choice in choices:
            after = self.encode(tail + choice)
            if after[:-1] != before:
                return []
            ids.append(after[-1])
        return ids if len(set(ids)) == len(ids) else []

    def _broken_up(self, text: str) -> Iterator[str]:
        """The text in pieces, cut inside each control token: `split_special_tokens` of tokenizers leaves out
        those that were added as not special, such as `<think>`."""
        while match := self._control.search(text):
            yield text[: match.start() + 1]
            text = text[match.start() + 1 :]
        if text:
            yield text


def _is_control(token, source: str) -> bool:
    """Whether an added token steers the model, so that text must not be able to write it.

    Special tokens do; so do tags that are not marked as special (`<think>`, `<tool_call>`,
    `<|fim_prefix|>`): those that the chat template writes, and those whose names no text would have. Others
    are vocabulary for ordinary text, and breaking them up would show the model text as it never saw it: runs
    of white space (GPT-NeoX, Gemma), elements of HTML (Gemma).

    Args:
        token: a `tokenizers.AddedToken`.
        source: the chat template's text.
    """
    text = token.content
    if len(text) < 2 or text.isspace():
        return False
    if token.special or text in (THINK_OPEN, THINK_CLOSE):
        return True
    return bool(_TAG.fullmatch(text)) and (bool(_NOT_HTML.search(text)) or text in source)
