"""What transformers reads from an export gives smalllm's ids on every text, and every text back."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizer_helpers import (
    KINDS,
    TEXTS,
    auto_ids,
    byte_fallback_spec,
    edit_spm,
    load_auto,
    long_texts,
    make_tokenizers,
    random_texts,
    train_spm,
    write_json,
)

from smalllm.errors import InteropError
from smalllm.interop.pieces import Piece
from smalllm.interop.tokenizer_files import write_hf_tokenizer
from smalllm.tokenizers.bytes import build_bytes
from smalllm.tokenizers.gpt2 import load_gpt2
from smalllm.tokenizers.huggingface import load_huggingface
from smalllm.tokenizers.sentencepiece import load_sentencepiece, train_sentencepiece
from smalllm.tokenizers.text_tokenizer import MARKER, PROBES, TextTokenizer

pytest.importorskip("transformers", reason="compares with transformers: pip install 'smalllm[hf]'")

MODEL_TYPES = ["gpt2", "starcoder2", "llama", "qwen3"]
AWKWARD = [*random_texts(1_200), *PROBES, *long_texts()]
EOS = {"gpt2": "<|endoftext|>", "sentencepiece": "</s>", "huggingface": "<|endoftext|>", "bytes": "<|endoftext|>"}
LONG = 1_000_000  # a context in which transformers warns of no text's length


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    return make_tokenizers(tmp_path_factory.mktemp("vocabularies"))


@pytest.fixture(scope="module")
def exported(tokenizers: dict[str, TextTokenizer], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) / "export" for kind in KINDS}
    for kind, folder in folders.items():
        write_hf_tokenizer(tokenizers[kind], folder, context_length=LONG)
        write_json(folder / "config.json", {"model_type": "llama"})
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_equal_and_texts_come_back(
    tokenizers: dict[str, TextTokenizer], exported: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    theirs, ours = load_auto(exported[kind]), tokenizers[kind].encode_batch(AWKWARD)
    assert theirs.is_fast
    assert auto_ids(theirs, AWKWARD) == ours
    assert [theirs.decode(ids) for ids in ours] == AWKWARD
    theirs.save_pretrained(tmp_path)
    assert auto_ids(load_auto(tmp_path), AWKWARD) == ours


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("kind", KINDS[1:])  # GPT-2's is tried below, with its own words
def test_every_model_class_reads_our_file(
    tokenizers: dict[str, TextTokenizer], kind: str, model_type: str, tmp_path: Path
) -> None:
    """The classes bring tokenizers of their own, and `tokenizer.model` would be read with U+2581 for a space."""
    write_hf_tokenizer(tokenizers[kind], tmp_path, context_length=64)
    theirs, texts = load_auto(tmp_path, model_type=model_type), [*PROBES, *random_texts(50)]
    assert auto_ids(theirs, texts) == tokenizers[kind].encode_batch(texts)
    assert theirs.model_max_length == 64


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_where_they_should_be(
    tokenizers: dict[str, TextTokenizer], exported: dict[str, Path], kind: str
) -> None:
    ours, theirs = tokenizers[kind], load_auto(exported[kind])
    assert len(theirs) == ours.vocab_size
    assert (theirs.eos_token, theirs.bos_token) == (EOS[kind], EOS[kind])
    assert (theirs.eos_token_id, theirs.bos_token_id) == (ours.eos_id, ours.eos_id)
    assert theirs.unk_token == ("<unk>" if kind == "sentencepiece" else None)
    assert theirs("the cat")["input_ids"] == ours.encode("the cat")  # nothing in front, nothing behind
    parsed = theirs(f"the{EOS[kind]}cat")["input_ids"]
    assert parsed == [*ours.encode("the"), ours.eos_id, *ours.encode("cat")]
    assert theirs.decode(parsed, skip_special_tokens=True) == "thecat"
    assert ours.eos_id not in auto_ids(theirs, [f"the{EOS[kind]}cat"])[0]


def swap_merges(spec: dict[str, Any]) -> None:
    spec["model"]["merges"].reverse()


def put_space_in_front(spec: dict[str, Any]) -> None:
    spec["pre_tokenizer"]["add_prefix_space"] = True


def swap_bytes(spec: dict[str, Any]) -> None:
    vocab = spec["model"]["vocab"]
    vocab["a"], vocab["t"] = vocab["t"], vocab["a"]


def write_spaces_as_markers(spec: dict[str, Any]) -> None:
    """As most programs convert a SentencePiece model."""
    model = spec["model"]
    model["vocab"] = {piece.replace(" ", MARKER): i for piece, i in model["vocab"].items()}
    model["merges"] = [[part.replace(" ", MARKER) for part in pair] for pair in model["merges"]]
    spec["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": MARKER}
    spec["decoder"]["decoders"].insert(0, {"type": "Replace", "pattern": {"String": MARKER}, "content": " "})


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("gpt2", put_space_in_front),
        ("sentencepiece", swap_merges),
        ("sentencepiece", write_spaces_as_markers),
        ("huggingface", swap_merges),
        ("huggingface", put_space_in_front),
        ("bytes", swap_bytes),
    ],
)
def test_a_wrong_file_is_seen_in_the_ids(
    tokenizers: dict[str, TextTokenizer],
    exported: dict[str, Path],
    kind: str,
    spoil: Callable[[dict[str, Any]], None],
    tmp_path: Path,
) -> None:
    spec = json.loads((exported[kind] / "tokenizer.json").read_text(encoding="utf-8"))
    spoil(spec)
    write_json(tmp_path / "tokenizer.json", spec)
    # Otherwise as it was; what the configuration says of a space in front wins in transformers 4.
    config = json.loads((exported[kind] / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "tokenizer_config.json", {**config, "add_prefix_space": spoil is put_space_in_front})
    found = auto_ids(load_auto(tmp_path), AWKWARD)
    wrong = [text for text, theirs in zip(AWKWARD, found, strict=True) if theirs != tokenizers[kind].encode(text)]
    assert wrong
    if spoil is write_spaces_as_markers:
        assert wrong == [text for text in AWKWARD if MARKER in text]


def test_gpt2_comes_with_its_two_files(tokenizers: dict[str, TextTokenizer], exported: dict[str, Path]) -> None:
    assert load_gpt2(exported["gpt2"]).fingerprint == tokenizers["gpt2"].fingerprint
    assert load_sentencepiece(exported["sentencepiece"]).fingerprint == tokenizers["sentencepiece"].fingerprint
    assert {file.name for file in exported["bytes"].iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
    }


def test_gpt2_with_its_own_words(tmp_path: Path) -> None:
    data = Path(os.environ.get("SMALLLM_TEST_DATA", "nowhere")) / "gpt2_vocab"
    if not data.is_dir():
        pytest.skip("SMALLLM_TEST_DATA does not name a folder with gpt2_vocab")
    gpt2 = load_gpt2(data)
    write_hf_tokenizer(gpt2, tmp_path, context_length=LONG)
    theirs = load_auto(tmp_path, model_type="gpt2")
    texts = [*AWKWARD, *(token.decode(errors="replace") for token in gpt2.token_bytes[::7])]
    assert auto_ids(theirs, texts) == gpt2.encode_batch(texts)
    assert [theirs.decode(ids) for ids in gpt2.encode_batch(texts)] == texts
    assert (tmp_path / "merges.txt").read_bytes() == (data / "vocab.bpe").read_bytes()
    assert json.loads((tmp_path / "vocab.json").read_bytes()) == json.loads((data / "encoder.json").read_bytes())


def test_a_sentencepiece_model_of_the_user(tmp_path: Path) -> None:
    own = load_sentencepiece(train_spm(tmp_path, user_defined_symbols=["<user>", "at"], control_symbols=["<pad>"]))
    write_hf_tokenizer(own, tmp_path / "export", context_length=LONG)
    theirs = load_auto(tmp_path / "export")
    texts = [*random_texts(300), *TEXTS[:2], "<user>", "a<user><user>the\n<us", "cat<pad>hat"]
    assert auto_ids(theirs, texts) == own.encode_batch(texts)
    assert [theirs.decode(ids) for ids in own.encode_batch(texts)] == texts


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_what_an_imported_tokenizer_changes_is_exported_as_it_is(add_prefix_space: bool, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "</s>"])}, merges=[]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.save(str(tmp_path / "tokenizer.json"))
    lossy = load_huggingface(tmp_path, allow_loss=True)
    write_hf_tokenizer(lossy, tmp_path / "export", context_length=LONG)
    assert auto_ids(load_auto(tmp_path / "export"), AWKWARD) == lossy.encode_batch(AWKWARD)


def unused(pieces: list[Piece]) -> None:
    pieces[-1] = dataclasses.replace(pieces[-1], type="unused")


def same_score(pieces: list[Piece]) -> None:
    i, j = [i for i, piece in enumerate(pieces) if piece.type == "normal" and len(piece.text) > 1][:2]
    pieces[i] = dataclasses.replace(pieces[i], score=pieces[j].score)


def lacking_character(pieces: list[Piece]) -> None:
    i = next(i for i, piece in enumerate(pieces) if piece.text == "t")
    pieces[i] = dataclasses.replace(pieces[i], text="\u4e00")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unused, "it has unused pieces"),
        (same_score, "two of its pieces have the same score"),
        (lacking_character, "'t' occurs in its pieces and is none"),
    ],
)
def test_a_sentencepiece_model_without_an_exact_counterpart_is_refused(
    change: Callable[[list[Piece]], None], message: str, tmp_path: Path
) -> None:
    content = edit_spm(train_sentencepiece(TEXTS, vocab_size=450).content, change)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InteropError, match=message):
        write_hf_tokenizer(load_sentencepiece(tmp_path), tmp_path / "export", context_length=8)
    assert not (tmp_path / "export" / "tokenizer.json").exists()


def test_unigram_and_lossy_sentencepiece_models_are_refused(tmp_path: Path) -> None:
    unigram = load_sentencepiece(train_spm(tmp_path, model_type="unigram"))
    with pytest.raises(InteropError, match="it is no BPE model, and the Unigram model"):
        write_hf_tokenizer(unigram, tmp_path, context_length=8)
    prefixed = load_sentencepiece(train_spm(tmp_path, add_dummy_prefix=True), allow_loss=True)
    with pytest.raises(InteropError, match=r"it changes text \('a  b   c ' comes back as ' a"):
        write_hf_tokenizer(prefixed, tmp_path, context_length=8)


def test_the_reason_that_a_unigram_model_is_refused_for() -> None:
    from tokenizers import Tokenizer, models

    pieces = [("<unk>", 0.0), *((f"<0x{i:02X}>", 0.0) for i in range(256)), *((c, -3.0) for c in "<>0xA")]
    unigram = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    assert unigram.encode("<0x0A>").ids == unigram.encode("\n").ids == [11]


def test_a_tokenizer_that_the_file_does_not_repeat_is_refused(tmp_path: Path) -> None:
    whole = build_bytes()
    other = dataclasses.replace(whole, encode_many=lambda texts: [whole.encode(text.lower()) for text in texts])
    with pytest.raises(InteropError, match=r"cannot be written as tokenizer.json with the same ids: 'MiXeD Case' is"):
        write_hf_tokenizer(other, tmp_path, context_length=8)


def test_a_gpt2_vocabulary_with_a_token_that_nothing_makes_is_refused(
    tokenizers: dict[str, TextTokenizer], tmp_path: Path
) -> None:
    tokenizers["gpt2"].save(tmp_path)
    lines = (tmp_path / "gpt2.tiktoken").read_bytes().splitlines(keepends=True)
    lines[-1] = b"em9vem9vem9v 50255\n"  # zoozoozoo
    (tmp_path / "gpt2.tiktoken").write_bytes(b"".join(lines))
    with pytest.raises(InteropError, match=r"1 tokens of the GPT-2 vocabulary, 'zoozoozoo' for one"):
        write_hf_tokenizer(load_gpt2(tmp_path), tmp_path / "export", context_length=8)


def test_a_users_own_file_differs_in_nothing_but_the_marker(tmp_path: Path) -> None:
    """Its content is kept, and with it what transformers makes of a U+2581."""
    write_json(tmp_path / "tokenizer.json", byte_fallback_spec(prefix=False))
    own = load_huggingface(tmp_path)
    write_hf_tokenizer(own, tmp_path / "export", context_length=LONG)
    assert (tmp_path / "export" / "tokenizer.json").read_bytes() == own.content
    found = auto_ids(load_auto(tmp_path / "export"), AWKWARD)
    differ = [text for text, ids in zip(AWKWARD, found, strict=True) if ids != own.encode(text)]
    assert differ == [text for text in AWKWARD if MARKER in text]
