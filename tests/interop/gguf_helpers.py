"""Tokenizers with the pre-tokenizers that llama.cpp knows."""

import json
from pathlib import Path
from typing import Any

from smalllm.interop.gguf_tokenizer import PRE_TOKENIZERS
from smalllm.tokenizers.huggingface import load_huggingface
from smalllm.tokenizers.text_tokenizer import TextTokenizer


def silent(text: str) -> None:
    raise AssertionError(f"nothing is worth a notice here: {text}")


def make_byte_level_spec(pre: str, **changes: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json with the pre-tokenizer that llama.cpp calls by this name."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["it's 2024, we'll say 12 345 6789 and  DON'T\n\n\tgo"] * 9, trainer)
    spec: dict[str, Any] = json.loads(backend.to_str())
    steps = [{"trim_offsets": True, **step} for step in PRE_TOKENIZERS[pre]]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    spec["model"]["ignore_merges"] = pre == "llama-bpe"
    return {**spec, **changes}


def load_spec(spec: dict[str, Any], folder: Path, **options: Any) -> TextTokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    return load_huggingface(folder, **options)
