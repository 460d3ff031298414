"""llama.cpp itself, from our GGUF files, computes and encodes the same.

Its sums are in FP32 here, but for GELU, which it looks up in a table of 16-bit numbers, and for activations, which it
rounds to the precision of rounded weights. The bounds are at least twice what was measured.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_helpers import load_spec, make_byte_level_spec, silent
from interop_helpers import make_config, make_ids, make_model, name_of, variants
from tokenizer_helpers import byte_fallback_spec, edit_spm, gpt2_files, long_texts, random_texts, train_spm

from smalllm.errors import InteropError
from smalllm.interop.families import FAMILIES, Family, Module
from smalllm.interop.gguf_encode import make_cases
from smalllm.interop.gguf_file import write_gguf
from smalllm.interop.gguf_tokenizer import PRE_TOKENIZERS, gguf_tokenizer
from smalllm.interop.gguf_verify import verify_gguf
from smalllm.interop.llama_cpp_run import LlamaCppAnswer, ask_llama_cpp
from smalllm.interop.pieces import Piece
from smalllm.model.gpt import GPT
from smalllm.tokenizers.bytes import build_bytes
from smalllm.tokenizers.gpt2 import load_gpt2
from smalllm.tokenizers.huggingface import train_huggingface
from smalllm.tokenizers.sentencepiece import load_sentencepiece, train_sentencepiece
from smalllm.tokenizers.text_tokenizer import MARKER, PROBES, TextTokenizer

pytest.importorskip("gguf", reason="writes GGUF files: pip install 'smalllm[gguf]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="compares with llama.cpp: pip install 'smalllm[llama-cpp]'",
    ),
]
VARIANTS = [v for v in variants() if not (v[0] == "starcoder2" and "d_head" in v[1])]
FAMILY_NAMES = ["gpt2", "starcoder2", "llama", "qwen3"]
# Largest difference of a logit, as a share of the largest logit. Those of rounded weights are from the rounded model.
BOUNDS = {"f32": 1e-5, "f16": 1e-2, "bf16": 5e-2, "q8_0": 2e-1}
GELU_BOUND = 2e-3
TEXTS = [*random_texts(1_000, seed=3), *PROBES, *long_texts()]


def make(family: str, *, vocab_size: int = 257, **changes: Any) -> GPT:
    return make_model(make_config(family, d_model=64, context_length=64, **changes), vocab_size=vocab_size)


def write(model: GPT, path: Path, tokenizer: TextTokenizer, *, dtype: str = "f32") -> Path:
    parameters = dict(model.named_parameters())
    write_gguf(path, model.config, parameters, tokenizer, dtype=dtype, name="model", notice=lambda text: None)
    return path


def share_of_difference(model: GPT, path: Path, *, dtype: str = "f32") -> float:
    proof = verify_gguf(path, model.config, dict(model.named_parameters()), build_bytes(), dtype=dtype, notice=silent)
    assert proof.by.startswith("llama.cpp") and (proof.n_positions, proof.n_continued) == (64, 16)
    with torch.no_grad():
        return proof.logit_difference / float(model(make_ids(1, 64, vocab_size=257, seed=0)).abs().max())


# --- the same numbers


@pytest.mark.parametrize("variant", VARIANTS, ids=map(name_of, VARIANTS))
def test_logits_are_equal(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    family, changes = variant
    model = make(family, **{**changes, **({"d_head": 32} if "d_head" in changes else {})})
    share = share_of_difference(model, write(model, tmp_path / "model.gguf", build_bytes()))
    assert share < (GELU_BOUND if model.config.mlp == "gelu" else BOUNDS["f32"])


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_rounded_weights_give_nearly_the_same(family: str, dtype: str, tmp_path: Path) -> None:
    model = make(family, bias=family != "qwen3", tie_embeddings=False)
    share = share_of_difference(model, write(model, tmp_path / "model.gguf", build_bytes(), dtype=dtype), dtype=dtype)
    assert 0 < share < BOUNDS[dtype]


def test_a_file_of_q8_0_and_f16_runs(tmp_path: Path) -> None:
    model = make("llama", d_ff=80)
    path = write(model, tmp_path / "model.gguf", build_bytes(), dtype="q8_0")
    assert share_of_difference(model, path, dtype="q8_0") < BOUNDS["q8_0"]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_greedy_text_is_equal(family: str, tmp_path: Path) -> None:
    tokenizer = build_bytes()
    model = make(family)
    ids = tokenizer.encode("Once upon")
    answer = ask_llama_cpp(write(model, tmp_path / "model.gguf", tokenizer), [], ids, len(ids), 48, silent)
    assert answer is not None
    with torch.no_grad():
        for _ in range(48):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert answer.continued == ids[-48:]
    assert len(set(answer.continued)) > 10
    written = b"".join(answer.pieces[i] for i in answer.continued)
    assert written.decode("utf-8", errors="replace") == tokenizer.decode(answer.continued)


# --- a table that is wrong is found, by llama.cpp alone


def rotate_otherwise(family: Family) -> Family:
    return replace(family, has_interleaved_gguf=not family.has_interleaved_gguf)


def pack_in_another_order(family: Family) -> Family:
    """Keys before queries in GPT-2's one matrix for both."""

    def packed(module: Module) -> Module:
        q, k, v = module.ours if len(module.ours) == 3 else (None, None, None)
        return replace(module, ours=(k, q, v)) if q and k and v else module

    return replace(family, modules=tuple(map(packed, family.modules)))


def swap_gate_and_up(family: Family) -> Family:
    other = {"blk.{i}.ffn_gate": "blk.{i}.ffn_up", "blk.{i}.ffn_up": "blk.{i}.ffn_gate"}
    return replace(family, modules=tuple(replace(m, gguf=other.get(m.gguf, m.gguf)) for m in family.modules))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", rotate_otherwise),
        ("qwen3", rotate_otherwise),
        ("starcoder2", rotate_otherwise),
        ("gpt2", pack_in_another_order),
        ("llama", swap_gate_and_up),
    ],
)
def test_a_wrong_layout_is_found(
    name: str, change: Callable[[Family], Family], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = tuple(change(family) if family.name == name else family for family in FAMILIES)
    for module in ("families", "gguf_read"):
        monkeypatch.setattr(f"smalllm.interop.{module}.FAMILIES", wrong)
    model = make(name)
    path = write(model, tmp_path / "model.gguf", build_bytes())
    with pytest.raises(InteropError, match=r"the logits of llama\.cpp \(llama-cpp-python .*\) differ by"):
        share_of_difference(model, path)


# --- the same ids


def ask_for_ids(tokenizer: TextTokenizer, texts: list[str], folder: Path) -> LlamaCppAnswer:
    model = make("llama", vocab_size=tokenizer.vocab_size, n_layers=1)
    answer = ask_llama_cpp(write(model, folder / "model.gguf", tokenizer), texts, [1, 2], 1, 0, silent)
    assert answer is not None
    return answer


def gpt2_vocabulary(folder: Path) -> TextTokenizer:
    real = Path(os.environ.get("SMALLLM_TEST_DATA", "nowhere"), "gpt2_vocab")
    return load_gpt2(real if real.is_dir() else gpt2_files(folder))


MAKERS: dict[str, Callable[[Path], TextTokenizer]] = {
    "gpt2": gpt2_vocabulary,
    "sentencepiece": lambda folder: train_sentencepiece(TEXTS[:500], vocab_size=700),
    "huggingface": lambda folder: train_huggingface(TEXTS[:500], vocab_size=500),
    "bytes": lambda folder: build_bytes(),
    "dummy prefix": lambda folder: load_sentencepiece(train_spm(folder, add_dummy_prefix=True), allow_loss=True),
    **{pre: lambda folder, pre=pre: load_spec(make_byte_level_spec(pre), folder) for pre in PRE_TOKENIZERS},
    **{
        f"byte fallback, prefix {prefix}": lambda folder, prefix=prefix: load_spec(
            byte_fallback_spec(prefix=prefix), folder, allow_loss=True
        )
        for prefix in (False, True)
    },
    "composing": lambda folder: load_spec(
        make_byte_level_spec("qwen2", normalizer={"type": "NFC"}), folder, allow_loss=True
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_ids_and_tokens_are_equal(kind: str, tmp_path: Path) -> None:
    tokenizer = MAKERS[kind](tmp_path)
    cases = make_cases(TEXTS, tokenizer, gguf_tokenizer(tokenizer))
    assert len(cases) == len(TEXTS)
    answer = ask_for_ids(tokenizer, [text for text, _ in cases], tmp_path)
    assert answer.ids == [ids for _, ids in cases]
    normal = [i for i, token in enumerate(tokenizer.token_bytes) if token]
    assert [answer.pieces[i] for i in normal] == [tokenizer.token_bytes[i] for i in normal]
    assert answer.pieces[tokenizer.eos_id] == b""


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece", "huggingface"])
def test_every_character_is_encoded_alike(kind: str, tmp_path: Path) -> None:
    tokenizer = MAKERS[kind](tmp_path)
    characters = [chr(i) for i in range(0x20000) if not 0xD800 <= i < 0xE000]
    cases = make_cases((f"a{c}b {c}1{c}{c}  {c}" for c in characters), tokenizer, gguf_tokenizer(tokenizer))
    answer = ask_for_ids(tokenizer, [text for text, _ in cases], tmp_path)
    assert answer.ids == [ids for _, ids in cases]


def test_the_known_differences_are_there(tmp_path: Path) -> None:
    """What docs and notices say of llama.cpp, so that it is noticed when llama.cpp changes."""

    def add_pieces(pieces: list[Piece]) -> None:
        pieces += [Piece("</", -1000.0, "normal"), Piece("</s", -1001.0, "normal")]

    path = train_spm(tmp_path)
    path.write_bytes(edit_spm(path.read_bytes(), add_pieces))
    tokenizer = load_sentencepiece(path)
    texts = [f"a{MARKER}b", "</s>"]
    answer = ask_for_ids(tokenizer, texts, tmp_path)
    assert answer.ids == [tokenizer.encode("a b"), [tokenizer.eos_id]]
    assert tokenizer.encode(texts[0]) != answer.ids[0] and tokenizer.eos_id not in tokenizer.encode(texts[1])


# --- a file that llama.cpp does not take


def test_a_file_that_it_cannot_load_is_an_error(tmp_path: Path) -> None:
    path = write(make("llama"), tmp_path / "model.gguf", build_bytes())
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_on.weight"))
    with pytest.raises(InteropError, match=r"llama\.cpp does not run the file \(it ended with status 1\): "):
        ask_llama_cpp(path, [], [1, 2], 1, 0, silent)
