"""Fixtures that need no runtime: small real tokenizers, a scripted server, the command line."""

import io
import json
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

TEMPLATES = Path(__file__).parent / "data" / "templates"
SPECIAL_TOKENS = json.loads((TEMPLATES / "special_tokens.json").read_text())


SENTENCE_PIECE = ("gemma-2", "mistral-v0.2", "zephyr")  # the others' vocabularies are of bytes
CORPUS = [(Path(__file__).parents[1] / "LICENSE").read_text(), "0123456789 system user assistant\n\n"]


def byte_level():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentence_piece():
    """Characters, spaces written as U+2581, and bytes where a character is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split("\u2581", "merged_with_next")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, show_progress=False))
    trained = json.loads(tokenizer.to_str())["model"]
    known = {**trained["vocab"], **{f"<0x{i:02X}>": len(trained["vocab"]) + i for i in range(256)}}
    tokenizer.model = models.BPE(known, [tuple(one) for one in trained["merges"]], byte_fallback=True)
    return tokenizer


def make_tokenizer(name: str):
    """A small tokenizer of a real model's kind, with its chat template and special tokens."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL_TOKENS[name]
    tokenizer = sentence_piece() if name in SENTENCE_PIECE else byte_level()
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in special["added"]])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special["bos"],
        eos_token=special["eos"],
        additional_special_tokens=special["others"],
    )
    wrapped.chat_template = (TEMPLATES / f"{name}.jinja").read_text().removesuffix("\n")
    return wrapped


def pytest_collection_modifyitems(items):
    """A notebook starts a pair of its own: before those of `engine` are there and hold their memory."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.engine)
    items.sort(key=lambda item: item.path.suffix != ".ipynb")


@pytest.fixture(params=sorted(SPECIAL_TOKENS))
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="session")
def chatml_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatml")
    make_tokenizer("qwen2.5").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def scripted(chatml_folder):
    """A server that speaks SGLang's HTTP and does what the test tells it to."""
    from tests.scripted import ScriptedServer

    with ScriptedServer(chatml_folder) as server:
        yield server


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_command(capsys, monkeypatch):
    """The command line in this process."""

    def work(*arguments: str, input: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # SIGTERM stays pytest's
        from specreason_sgl.cli import main

        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return Done(ended.value.code or 0, *capsys.readouterr())

    return work
