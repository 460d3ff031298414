"""The tokenizer of a checkpoint folder is found and gives the checkpoint's own ids, also where it changes text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizer_helpers import (
    FLAGS,
    KINDS,
    TEXTS,
    auto_ids,
    byte_fallback_spec,
    gpt2_files,
    load_auto,
    long_texts,
    make_tokenizers,
    random_texts,
    train_spm,
    write_json,
)

from smalllm.errors import InteropError, SmalllmError, TokenizerError
from smalllm.interop.tokenizer_files import write_hf_tokenizer
from smalllm.interop.tokenizer_sources import read_hf_tokenizer
from smalllm.tokenizers import build_tokenizer, load_tokenizer, save_tokenizer
from smalllm.tokenizers.huggingface import load_huggingface
from smalllm.tokenizers.sentencepiece import load_sentencepiece
from smalllm.tokenizers.text_tokenizer import MARKER, PROBES, TextTokenizer

AWKWARD = [*random_texts(1_000, seed=1), *PROBES, *long_texts(), "Hello", " Hello", f"{MARKER}Hello", "\u212b"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    return make_tokenizers(tmp_path_factory.mktemp("vocabularies"))


def silent(text: str) -> None:
    raise AssertionError(f"nothing is worth a notice here: {text}")


def byte_level_spec(*, normalizer: Any = None, eos: str = "</s>", special: tuple[str, ...] = ()) -> dict[str, Any]:
    """A byte-level BPE as Qwen's or GPT-2's, trained on a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        backend.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=[eos, *special], initial_alphabet=alphabet, show_progress=False
        ),
    )
    spec: dict[str, Any] = json.loads(backend.to_str())
    return spec


def nfc_spec() -> dict[str, Any]:
    from tokenizers import normalizers

    return byte_level_spec(normalizer=normalizers.NFC())


def prepend_spec() -> dict[str, Any]:
    from tokenizers import normalizers

    return byte_level_spec(normalizer=normalizers.Prepend(" "))


def write_checkpoint(folder: Path, spec: object, **files: object) -> Path:
    """A folder with a tokenizer.json, and any JSON files by name."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "tokenizer.json", spec)
    for name, value in files.items():
        write_json(folder / f"{name}.json", value)
    return folder


# --- what smalllm exported


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_comes_back_as_it_was(tokenizers: dict[str, TextTokenizer], kind: str, tmp_path: Path) -> None:
    write_hf_tokenizer(tokenizers[kind], tmp_path, context_length=64)
    back = read_hf_tokenizer(tmp_path, notice=silent)
    assert (back.kind, back.fingerprint, back.eos_id) == (kind, tokenizers[kind].fingerprint, tokenizers[kind].eos_id)
    assert back.encode_batch(AWKWARD) == tokenizers[kind].encode_batch(AWKWARD)


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_a_changed_export_is_no_longer_of_its_kind(
    tokenizers: dict[str, TextTokenizer], kind: str, tmp_path: Path
) -> None:
    write_hf_tokenizer(tokenizers[kind], tmp_path, context_length=64)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = spec["model"]["vocab"]
    vocab["a"], vocab["t"] = vocab["t"], vocab["a"]
    write_json(tmp_path / "tokenizer.json", spec)
    back = read_hf_tokenizer(tmp_path, notice=silent)
    assert back.kind == "huggingface"
    assert back.encode("a") != tokenizers[kind].encode("a")


# --- tokenizers that change text


@pytest.mark.parametrize(
    ("make_spec", "lost"),
    [
        (nfc_spec, r"'cafe\u0301' comes back as 'caf\xe9'"),
        (prepend_spec, "'a  b   c ' comes back as ' a  b   c '"),
        (lambda: byte_fallback_spec(prefix=True), "'a  b   c ' comes back as ' a  b   c '"),
        (lambda: byte_fallback_spec(prefix=False), r"b\u2581' comes back as '  a   b '"),
    ],
    ids=["nfc", "prepend", "llama 2", "gemma"],
)
def test_a_tokenizer_that_changes_text_is_taken_as_it_is(
    make_spec: Callable[[], dict[str, Any]], lost: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="compares with transformers: pip install 'smalllm[hf]'")
    folder = write_checkpoint(
        tmp_path / "checkpoint", make_spec(), tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"}
    )
    notices: list[str] = []
    found = read_hf_tokenizer(folder, notice=notices.append)
    (notice,) = notices
    assert notice.startswith("its tokenizer changes some text: ") and lost in notice
    assert (found.kind, found.is_lossless) == ("huggingface", False)
    ids = auto_ids(load_auto(folder), AWKWARD)
    assert found.encode_batch(AWKWARD) == ids == [found.encode(text) for text in AWKWARD]

    save_tokenizer(found, tmp_path / "saved")
    again = build_tokenizer("huggingface", vocab_size=None, path=tmp_path / "saved", texts=list)
    assert (again.fingerprint, again.is_lossless) == (found.fingerprint, False)
    assert again.encode_batch(AWKWARD) == ids
    write_hf_tokenizer(found, tmp_path / "export", context_length=64)
    assert read_hf_tokenizer(tmp_path / "export", notice=notices.append).fingerprint == found.fingerprint


def test_it_is_refused_anywhere_else(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", nfc_spec())
    with pytest.raises(TokenizerError, match=r"comes back as .* Its normaliser \(NFC\)"):
        build_tokenizer("huggingface", vocab_size=None, path=folder, texts=list)
    save_tokenizer(read_hf_tokenizer(folder, notice=lambda text: None), tmp_path / "saved")
    record = json.loads((tmp_path / "saved/smalllm.json").read_text(encoding="utf-8"))
    assert record.pop("lossless") is False
    write_json(tmp_path / "saved/smalllm.json", record)
    with pytest.raises(TokenizerError, match="comes back as"):
        load_tokenizer(tmp_path / "saved")


def test_only_tokenizers_that_change_text_are_recorded_so(tmp_path: Path) -> None:
    found = read_hf_tokenizer(write_checkpoint(tmp_path / "checkpoint", byte_level_spec()), notice=silent)
    assert found.is_lossless
    save_tokenizer(found, tmp_path / "saved")
    assert list(json.loads((tmp_path / "saved/smalllm.json").read_text())) == [
        "format", "version", "kind", "vocab_size", "eos_id", "sha256"
    ]  # fmt: skip
    assert load_tokenizer(tmp_path / "saved").encode_batch(AWKWARD) == found.encode_batch(AWKWARD)


def test_a_special_token_that_is_also_text_is_taken(tmp_path: Path) -> None:
    spec = byte_level_spec()
    spec["added_tokens"].append({"id": spec["model"]["vocab"]["e"], "content": "e", "special": True, **FLAGS})
    folder = write_checkpoint(tmp_path, spec)
    with pytest.raises(TokenizerError, match="special or unknown token"):
        load_huggingface(folder)
    notices: list[str] = []
    assert spec["model"]["vocab"]["e"] in read_hf_tokenizer(folder, notice=notices.append).encode("e")
    assert "encodes to a special or unknown token" in notices[0]


# --- which file it is


def test_gpt2_without_tokenizer_json(tokenizers: dict[str, TextTokenizer], tmp_path: Path) -> None:
    gpt2_files(tmp_path)
    assert read_hf_tokenizer(tmp_path, notice=silent).fingerprint == tokenizers["gpt2"].fingerprint
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    assert read_hf_tokenizer(tmp_path, notice=silent).kind == "gpt2"


def test_two_files_of_another_vocabulary_are_not_gpt2(tmp_path: Path) -> None:
    spec = byte_level_spec()
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in spec["model"]["merges"]), "utf-8")
    with pytest.raises(
        InteropError, match=r"no tokenizer that smalllm reads, only vocab.json; expected tokenizer.json"
    ):
        read_hf_tokenizer(tmp_path, notice=silent)
    write_checkpoint(tmp_path, spec)
    assert read_hf_tokenizer(tmp_path, notice=silent).kind == "huggingface"


def test_a_sentencepiece_model_alone(tokenizers: dict[str, TextTokenizer], tmp_path: Path) -> None:
    tokenizers["sentencepiece"].save(tmp_path)
    assert read_hf_tokenizer(tmp_path, notice=silent).fingerprint == tokenizers["sentencepiece"].fingerprint


def test_a_sentencepiece_model_alone_that_puts_a_space_in_front(tmp_path: Path) -> None:
    import sentencepiece

    file = train_spm(tmp_path, add_dummy_prefix=True)
    notices: list[str] = []
    found = read_hf_tokenizer(tmp_path, notice=notices.append)
    assert (found.kind, len(notices)) == ("sentencepiece", 1)
    assert found.decode(found.encode("Hello")) == " Hello"
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    assert found.encode_batch(AWKWARD) == theirs.EncodeAsIds(AWKWARD) == [found.encode(text) for text in AWKWARD]
    save_tokenizer(found, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode_batch(AWKWARD) == theirs.EncodeAsIds(AWKWARD)
    with pytest.raises(TokenizerError, match="comes back as"):
        load_sentencepiece(tmp_path)


def test_where_two_files_disagree_tokenizer_json_decides(tokenizers: dict[str, TextTokenizer], tmp_path: Path) -> None:
    tokenizers["sentencepiece"].save(tmp_path)
    write_checkpoint(tmp_path, byte_level_spec())
    gpt2_files(tmp_path)
    assert read_hf_tokenizer(tmp_path, notice=silent).kind == "huggingface"


# --- which token ends a document


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "</s>"),
        ({"tokenizer_config": {"eos_token": "<over>"}}, "<over>"),
        ({"tokenizer_config": {"eos_token": {"content": "<over>", "lstrip": False}}}, "<over>"),
        ({"tokenizer_config": {"eos_token": "<nowhere>"}}, "</s>"),
        ({"generation_config": {"eos_token_id": [1, 2]}, "config": {"eos_token_id": 2}}, "<over>"),
        ({"config": {"eos_token_id": 1}}, "<over>"),
        ({"config": {"eos_token_id": 50256}}, "</s>"),  # the default of its class
        ({"config": {"eos_token_id": 40}}, "</s>"),  # an ordinary token
        ({"config": {"eos_token_id": None}, "tokenizer_config": {"eos_token": None}}, "</s>"),
    ],
)
def test_the_checkpoint_names_its_end_token(files: dict[str, Any], expected: str, tmp_path: Path) -> None:
    spec = byte_level_spec(eos="</s>", special=("<over>", "<pad>"))
    found = read_hf_tokenizer(write_checkpoint(tmp_path / "checkpoint", spec, **files), notice=silent)
    assert found.eos_id == spec["model"]["vocab"][expected]


def test_an_end_token_of_its_own_name_is_kept(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", byte_level_spec(eos="<over>"))
    with pytest.raises(TokenizerError, match="no token that ends a document; expected one of"):
        read_hf_tokenizer(folder, notice=silent)
    write_json(folder / "tokenizer_config.json", {"eos_token": "<over>"})
    found = read_hf_tokenizer(folder, notice=silent)
    save_tokenizer(found, tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.fingerprint, again.eos_id) == (found.fingerprint, 0)
    write_hf_tokenizer(found, tmp_path / "export", context_length=64)
    assert read_hf_tokenizer(tmp_path / "export", notice=silent).fingerprint == found.fingerprint
    record = json.loads((tmp_path / "saved/smalllm.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "saved/smalllm.json", {**record, "eos_id": 5})
    with pytest.raises(TokenizerError, match="no token that ends a document"):
        load_tokenizer(tmp_path / "saved")


# --- what cannot be used


def test_folders_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    words = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 9,
    }
    wordpiece = {**byte_level_spec(), "pre_tokenizer": None, "added_tokens": []}
    wordpiece["model"] = {**words, "vocab": {"[UNK]": 0, "</s>": 1, "the": 2}}
    cases: list[tuple[dict[str, str], type[SmalllmError], str]] = [
        ({}, InteropError, r"no tokenizer; expected tokenizer.json, tokenizer.model, or GPT-2's vocab.json and merges"),
        ({"vocab.txt": "the\n"}, InteropError, r"only vocab.txt; .* transformers may make one: AutoTokenizer.from_pre"),
        ({"tokenizer_config.json": "{}"}, InteropError, r"only tokenizer_config.json; expected"),
        ({"tokenizer.json": '{"model": '}, TokenizerError, r"tokenizer.json is not JSON"),
        ({"tokenizer.json": "{}"}, TokenizerError, "without the added_tokens and model.vocab"),
        ({"tokenizer.json": json.dumps(wordpiece)}, TokenizerError, r"a WordPiece tokenizer .* cannot be imported"),
        ({"tokenizer.model": "IQ== 0\nIg== 1\n"}, TokenizerError, "not a SentencePiece model"),
        ({"tokenizer.json": "{}", "tokenizer_config.json": "{"}, InteropError, r"tokenizer_config.json: not JSON"),
    ]
    for i, (files, error, message) in enumerate(cases):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
        with pytest.raises(error, match=message):
            read_hf_tokenizer(folder, notice=silent)
