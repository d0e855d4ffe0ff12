"""Small tokenizers of real models' kinds, with their chat templates and special tokens."""

import json
from pathlib import Path

TEMPLATES = Path(__file__).parents[1] / "data" / "templates"
SPECIAL_TOKENS = json.loads((TEMPLATES / "special_tokens.json").read_text())
SENTENCE_PIECE = ("gemma-2", "mistral-v0.2", "zephyr")  # the others' vocabularies are of bytes
CORPUS = [(Path(__file__).parents[2] / "LICENSE").read_text(), "0123456789 system user assistant\n\n"]


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
    tokenizer.model = models.BPE(known, [tuple(pair) for pair in trained["merges"]], byte_fallback=True)
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
