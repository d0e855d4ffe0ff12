"""A scripted draft and base model whose answers depend on the prompt alone, not on the order of requests."""

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from specreason_sgl import Endpoint, Rewrite, SpecReasonConfig, solve
from specreason_sgl.reasoning.pauses import forget_failures
from specreason_sgl.reasoning.verifiers import QUESTION
from tests.support.scripted import ScriptedServer, answer, by_character, reading, streamed

LEAD = "Final answer:"
DELIMITER = {"type": "stop", "matched": "\n\n"}
ENDS = {
    "delimiter": DELIMITER,
    "stray": {"type": "stop", "matched": "</think>"},  # where no model thinks apart
    "think": {"type": "stop", "matched": "</think>"},
    "eos": {"type": "stop", "matched": 42},
}


@dataclass
class Seen:
    """A request that a server received."""

    side: str
    purpose: str  # draft, score, read, rewrite, answer or commit
    turn: str  # what the assistant has said so far
    rid: str
    tokens: int = 0  # generated


@dataclass
class Pair:
    """Both servers and their endpoints.

    Attributes:
        write: `write(side, turn, at_most)` returns a step's text, its end (a key of `ENDS`, or "length") and
            its number of tokens.
        digit: `digit(turn)` returns the score.
        first: `first(ids, at)` returns the token that the base model prefers to the one at that position, or
            None.
        before: `before(seen)` runs in the server's thread; it may block, or return an answer to give instead.
        seen: the requests so far.
        lead: the text that asks for the answer.
    """

    draft_server: ScriptedServer
    base_server: ScriptedServer
    draft: Endpoint
    base: Endpoint
    write: Callable = None
    digit: Callable = None
    before: Callable = lambda seen: None
    first: Callable = lambda ids, at: None
    seen: list[Seen] = field(default_factory=list)
    lead: str = LEAD

    def __post_init__(self):
        self.lock = threading.Lock()
        question = [{"role": "user", "content": "q"}]
        self._prefixes = {
            side: (model.tokenizer, model.chat_template.get_prefix_and_suffix("assistant", question)[0])
            for side, model in (("draft", self.draft), ("base", self.base))
        }
        self.draft_server.on_generate = lambda payload: self._reply("draft", payload)
        self.base_server.on_generate = lambda payload: self._reply("base", payload)

    def start_anew(self, write, digit, before=lambda seen: None, first=lambda ids, at: None):
        self.write, self.digit, self.before, self.first = write, digit, before, first
        self.seen = []
        forget_failures(self.draft)
        self.draft_server.requests.clear()
        self.base_server.requests.clear()

    def solve(
        self, on_step=None, timeout=None, on_text=None, on_draft=None, cancel=None, resume=None, **settings
    ):
        plain = {"repair": Rewrite(), "temperature": 0, "lookahead": 0, "token_budget": 60}
        config = SpecReasonConfig(**{**plain, **settings})
        return solve(
            "q", draft=self.draft, base=self.base, config=config,
            on_step=on_step, on_text=on_text, on_draft=on_draft, timeout=timeout, cancel=cancel,
            resume=resume,
        )  # fmt: skip

    def generated(self) -> int:
        return sum(request.tokens for request in self.seen)

    def aborted(self) -> set[str]:
        return {*self.draft_server.aborted(), *self.base_server.aborted()}

    def of(self, purpose: str) -> list[Seen]:
        return [request for request in self.seen if request.purpose == purpose]

    def turn_of(self, side: str, ids: list[int]) -> str:
        """What the assistant has said in a prompt."""
        tokenizer, prefix = self._prefixes[side]
        return tokenizer.decode(ids).rpartition(prefix.lstrip())[2].removeprefix("<think>\n")

    def _reply(self, side, payload):
        ids, most = payload["input_ids"], payload["sampling_params"]["max_new_tokens"]
        if isinstance(ids[0], list):
            return self._reply_select(side, payload)
        turn = self.turn_of(side, ids)
        if "token_ids_logprob" in payload:
            purpose = "score"
        elif "logprob_start_len" in payload:
            purpose = "read"
        elif most == 0:
            purpose = "commit"
        elif self.lead in turn:
            purpose = "answer"
        else:
            purpose = "draft" if side == "draft" else "rewrite"
        request = Seen(side, purpose, turn, payload["rid"])
        with self.lock:
            self.seen.append(request)
        if (instead := self.before(request)) is not None:
            if isinstance(instead, dict):
                request.tokens = instead["meta_info"]["completion_tokens"]
            return instead
        meta = {"prompt_tokens": len(ids), "completion_tokens": 0}
        text, reason = "", {"type": "length", "length": most}
        if purpose in ("draft", "rewrite"):
            text, end, tokens = self.write(side, turn, most)
            reason = ENDS.get(end, reason)
            meta["completion_tokens"] = tokens
            if payload.get("return_logprob"):
                meta["output_token_logprobs"] = [[-0.5, 1, text]]
        elif purpose == "answer":
            asked, _, begun = turn.rpartition(self.lead)
            whole = f" {chance(asked).randrange(99)} "
            text, meta["completion_tokens"] = whole.removeprefix(begun), 2
            reason = ENDS["eos"] if most > 2 else reason
        else:
            if "token_ids_logprob" in payload:
                text, meta["completion_tokens"] = "x", 1
                digit = self.digit(turn.removesuffix(QUESTION))
                meta["output_token_ids_logprobs"] = [
                    [
                        [0.0 if i == digit else -9.0, t, None]
                        for i, t in enumerate(payload["token_ids_logprob"])
                    ]
                ]
            if "logprob_start_len" in payload:
                meta |= {**reading(payload, logprob_of, self.first), **meta}
        request.tokens = meta["completion_tokens"]
        whole = answer(text, reason, **meta)
        return streamed(*by_character(whole)) if payload.get("stream") else whole

    def _reply_select(self, side, payload):
        """SGLang's own select, where a choice is several tokens: the first one is likely where the digit is
        5 or more."""
        replies = []
        for i, ids in enumerate(payload["input_ids"]):
            turn = self.turn_of(side, ids)
            if i == 0:
                seen = Seen(side, "score", turn, payload["rid"][0])
                with self.lock:
                    self.seen.append(seen)
                self.before(seen)
                likely = 0 if self.digit(turn) >= 5 else 1
            at = payload["logprob_start_len"]
            entries = [[-0.1 if i == likely else -9.0, token, "x"] for token in ids[at:]]
            replies.append(answer("", input_token_logprobs=entries, output_token_logprobs=[]))
        return replies


@contextlib.contextmanager
def paired(draft_folder: str, base_folder: str, lead: str = LEAD) -> Iterator[Pair]:
    """A scripted draft and base model with the tokenizers of these folders."""
    with (
        ScriptedServer(draft_folder) as draft_server,
        ScriptedServer(base_folder) as base_server,
        Endpoint(draft_server.url, timeout=20) as draft,
        Endpoint(base_server.url, timeout=20) as base,
    ):
        yield Pair(draft_server, base_server, draft, base, lead=lead)


def logprob_of(ids: list[int], at: int) -> float:
    """A token's logprob: likely, but for one in eight."""
    dice = chance(ids[max(at - 64, 0) : at + 1])  # not all before it: a long text has many tokens
    return -9.0 if dice.random() < 0.125 else -dice.random()


def chance(*what) -> random.Random:
    """A random generator seeded by its arguments."""
    return random.Random(hashlib.sha256(repr(what).encode()).digest())


def aborted(tokens: int = 2) -> dict:
    """SGLang's answer to a request that was aborted after `tokens` tokens."""
    return answer("cut", {"type": "abort", "message": "Abort by client"}, completion_tokens=tokens)
