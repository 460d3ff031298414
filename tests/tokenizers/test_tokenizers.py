"""Every tokenizer loses nothing, makes no special token from text, and comes back from disk the same."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalllm.errors import TokenizerError
from smalllm.protocols import Tokenizer
from smalllm.tokenizers import build_tokenizer, load_tokenizer, save_tokenizer
from smalllm.tokenizers.bytes import build_bytes
from smalllm.tokenizers.gpt2 import MAX_WHITESPACE_RUN, PATTERN, byte_characters, load_gpt2
from smalllm.tokenizers.huggingface import load_huggingface, train_huggingface
from smalllm.tokenizers.sentencepiece import load_sentencepiece, train_sentencepiece
from smalllm.tokenizers.text_tokenizer import MARKER, TextTokenizer, check_lossless, find_loss, training_texts

VERSE = """The cat sat on the mat, and the dog ate the cat's hat.
\tif cat:
\t\treturn 'hat'

Été à Paris: déjà vu!
"""
TEXTS = [f"{VERSE} {i} {VERSE.lower()}" for i in range(40)]
WORDS = [
    MARKER,
    f" {MARKER} ",
    "</s>",
    "<s>",
    "<unk>",
    "<0x0A>",
    "<|endoftext|>",
    "\n",
    "\r\n",
    "  ",
    " the",
    "\0",
]
ANY_TEXT = st.lists(st.text(max_size=12) | st.sampled_from(WORDS), max_size=8).map("".join)
KINDS = ["gpt2", "sentencepiece", "huggingface", "bytes", "byte-fallback"]


def gpt2_files(folder: Path) -> Path:
    """GPT-2's size and file formats without its words: 256 bytes and 50,000 pairs of them."""
    characters = sorted(byte_characters(), reverse=True)  # so that pairs of newlines and spaces are among them
    pairs = [(a, b) for a in characters for b in characters][:50_000]
    words = [*characters, *("".join(pair) for pair in pairs), "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    return folder


def byte_fallback_spec() -> dict[str, Any]:
    """A tokenizer.json as Gemma's: U+2581 for a space, byte fallback, no pre-tokenizer."""
    pieces = [
        "<pad>",
        "<eos>",
        *(f"<0x{i:02X}>" for i in range(256)),
        MARKER,
        *"abcdethn",
        "th",
        "the",
        f"{MARKER}the",
    ]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": MARKER}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], "special": True, **flags} for i in (0, 1)],
        "normalizer": space,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [["t", "h"], ["th", "e"], [MARKER, "the"]],
        },
    }


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return {
        "gpt2": load_gpt2(gpt2_files(folder)),
        "sentencepiece": train_sentencepiece(TEXTS, vocab_size=340),
        "huggingface": train_huggingface(TEXTS, vocab_size=300),
        "bytes": build_bytes(),
        "byte-fallback": load_huggingface(write_json(folder / "tokenizer.json", byte_fallback_spec())),
    }


def special_ids(tokenizer: Tokenizer) -> set[int]:
    return {i for i, token in enumerate(tokenizer.token_bytes) if not token}


def assert_lossless(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert special_ids(tokenizer).isdisjoint(ids)
    assert tokenizer.token_byte_lengths[ids].sum() == len(text.encode())
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(tokenizers: dict[str, TextTokenizer], kind: str, text: str) -> None:
    assert_lossless(tokenizers[kind], text)


@pytest.mark.parametrize("kind", KINDS)
def test_awkward_texts_come_back(tokenizers: dict[str, TextTokenizer], kind: str) -> None:
    for text in [
        "",
        " ",
        "  a  ",
        "x" * 70_000,
        " " * 5000 + "x",
        MARKER * 9,
        "".join(WORDS),
        "e\u0301é",
        "\ufeffa",
    ]:
        assert_lossless(tokenizers[kind], text)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(ANY_TEXT, max_size=5))
@settings(max_examples=40, deadline=None)
def test_a_batch_is_its_texts(tokenizers: dict[str, TextTokenizer], kind: str, texts: list[str]) -> None:
    tokenizer = tokenizers[kind]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_satisfies_the_protocol(tokenizers: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = tokenizers[kind]
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.eos_id in special_ids(tokenizer)
    assert tokenizer.is_lossless
    assert tokenizer.vocab_size == len(tokenizer.token_bytes) == len(tokenizer.token_byte_lengths)
    assert tokenizer.decode([tokenizer.eos_id, *tokenizer.encode("a"), tokenizer.eos_id]) == "a"
    assert tokenizer.decode(tokenizer.encode("é")[:1] if kind == "bytes" else []) == (
        "\ufffd" if kind == "bytes" else ""
    )


def test_the_probe_catches_a_tokenizer_that_loses_text(tokenizers: dict[str, TextTokenizer]) -> None:
    whole = tokenizers["bytes"]
    broken: list[Callable[[str], list[int]]] = [
        lambda text: whole.encode(text.replace("  ", " ")),
        lambda text: whole.encode(text.lower()),
        lambda text: whole.encode(text.replace("\u212b", "\u00c5")),
        lambda text: [256] if text == "<end>" else whole.encode(text),
    ]
    check_lossless(whole, name="f", spellings=["<end>"], hint="")
    for encode in broken:
        spoilt = dataclasses.replace(whole, encode_one=encode)
        with pytest.raises(TokenizerError, match=r"comes back as|special or unknown"):
            check_lossless(spoilt, name="f", spellings=["<end>"], hint="")
        assert not dataclasses.replace(spoilt, loss=find_loss(spoilt, spellings=["<end>"])).is_lossless


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_is_the_same(tokenizers: dict[str, TextTokenizer], kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizers[kind]
    save_tokenizer(tokenizer, tmp_path / "a")
    loaded = load_tokenizer(tmp_path / "a")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.kind, loaded.eos_id, loaded.token_bytes) == (
        tokenizer.kind,
        tokenizer.eos_id,
        tokenizer.token_bytes,
    )
    assert loaded.encode_batch(TEXTS + WORDS) == tokenizer.encode_batch(TEXTS + WORDS)
    save_tokenizer(loaded, tmp_path / "b")
    files = [{file.name: file.read_bytes() for file in (tmp_path / side).iterdir()} for side in "ab"]
    assert files[0] == files[1]


def test_fingerprints_tell_vocabularies_apart(tokenizers: dict[str, TextTokenizer]) -> None:
    others = [train_sentencepiece(TEXTS, vocab_size=341), train_huggingface(TEXTS, vocab_size=301)]
    assert len({tokenizer.fingerprint for tokenizer in [*tokenizers.values(), *others]}) == len(KINDS) + 2
    assert train_sentencepiece(TEXTS, vocab_size=340).fingerprint == tokenizers["sentencepiece"].fingerprint
    assert train_huggingface(TEXTS, vocab_size=300).fingerprint == tokenizers["huggingface"].fingerprint


def test_an_altered_folder_is_refused(tokenizers: dict[str, TextTokenizer], tmp_path: Path) -> None:
    save_tokenizer(tokenizers["huggingface"], tmp_path)
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["merges"].pop()
    write_json(tmp_path / "tokenizer.json", spec)
    with pytest.raises(TokenizerError, match="was altered: sha256"):
        load_tokenizer(tmp_path)
    save_tokenizer(tokenizers["gpt2"], tmp_path / "g")
    file = tmp_path / "g" / "gpt2.tiktoken"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(TokenizerError, match="50,255 different tokens; GPT-2 has 50,256"):
        load_tokenizer(tmp_path / "g")
    file.write_bytes(b"".join(lines[:7] + lines[8:]))
    with pytest.raises(TokenizerError, match="line 8: expected a base64 token and the rank 7"):
        load_tokenizer(tmp_path / "g")
    file.unlink()
    with pytest.raises(TokenizerError, match=r"holds no GPT-2 vocabulary; pass --tokenizer.path"):
        load_tokenizer(tmp_path / "g")


def test_records_that_cannot_be_used_are_refused(tokenizers: dict[str, TextTokenizer], tmp_path: Path) -> None:
    save_tokenizer(tokenizers["bytes"], tmp_path)
    record = json.loads((tmp_path / "smalllm.json").read_text())
    assert list(record) == ["format", "version", "kind", "vocab_size", "eos_id", "sha256"]
    for change, message in [
        ({"version": 2}, "format version 2; this smalllm reads version 1. Update"),
        ({"format": "x"}, "does not say"),
        ({"kind": "wordpiece"}, "kind is 'wordpiece'; expected gpt2, sentencepiece, huggingface or bytes"),
        ({"eos_id": 0}, "was altered: eos_id is 256, smalllm.json says 0"),
    ]:
        write_json(tmp_path / "smalllm.json", record | change)
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(tmp_path)
    (tmp_path / "smalllm.json").write_text("{")
    with pytest.raises(TokenizerError, match="not JSON"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="holds no smalllm tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_build_loads_trains_and_checks_the_size(tmp_path: Path) -> None:
    def no_texts() -> list[str]:
        raise AssertionError("nothing is trained here")

    assert build_tokenizer("bytes", vocab_size=None, path=None, texts=no_texts).vocab_size == 257
    assert build_tokenizer("bytes", vocab_size=257, path=None, texts=no_texts).vocab_size == 257
    for kind, size in [("sentencepiece", 340), ("huggingface", 300)]:
        trained = build_tokenizer(kind, vocab_size=size, path=None, texts=lambda: TEXTS)
        assert trained.vocab_size == size
        save_tokenizer(trained, tmp_path / kind)
        again = build_tokenizer(kind, vocab_size=None, path=tmp_path / kind, texts=no_texts)
        assert again.fingerprint == trained.fingerprint
        (tmp_path / kind / "smalllm.json").unlink()
        assert build_tokenizer(kind, vocab_size=size, path=tmp_path / kind, texts=no_texts).vocab_size == size
    save_tokenizer(build_bytes(), tmp_path / "bytes")
    for kind, vocab_size, path, message in [
        ("bytes", 300, None, "has 257 ids, but vocab_size is 300"),
        ("bytes", None, tmp_path, "has no files"),
        ("gpt2", None, tmp_path / "bytes", "holds a bytes tokenizer; write --tokenizer.kind bytes"),
        ("sentencepiece", None, None, "needs its size; add --tokenizer.vocab_size"),
        ("sentencepiece", None, tmp_path / "no.model", "cannot be read"),
        ("words", None, None, "kind is 'words'; expected gpt2"),
    ]:
        with pytest.raises(TokenizerError, match=message):
            build_tokenizer(kind, vocab_size=vocab_size, path=path, texts=no_texts)


@pytest.mark.parametrize("train", [train_sentencepiece, train_huggingface])
def test_too_little_text_names_the_largest_vocabulary(train: Callable[..., TextTokenizer]) -> None:
    with pytest.raises(TokenizerError, match=r"too small .* at most") as caught:
        train(TEXTS[:1], vocab_size=5000)
    largest = int(str(caught.value).split("--tokenizer.vocab_size ")[1].split(",")[0])
    assert train(TEXTS[:1], vocab_size=largest).vocab_size == largest
    with pytest.raises(TokenizerError, match="at most"):
        train(TEXTS[:1], vocab_size=largest + 1)
    with pytest.raises(TokenizerError, match=r"Use --tokenizer.vocab_size 2[56]"):
        train(TEXTS, vocab_size=256)
    with pytest.raises(TokenizerError, match=r"no text was given|at most 257"):
        train([], vocab_size=300)


def test_training_keeps_rare_characters_out_and_odd_lines_in() -> None:
    many = "".join(chr(i) for i in range(0x4E00, 0x5E00))
    tokenizer = train_sentencepiece([*TEXTS, many, f"\0 zebra {MARKER} zebra\u2585zebra" * 400], vocab_size=400)
    assert_lossless(tokenizer, f"{many} zebra\n")
    assert any(b"ze" in token for token in tokenizer.token_bytes)
    assert b"\n" in [tokenizer.token_bytes[i] for i in tokenizer.encode("a\nb")]
    # Much longer than the trainer's longest line, and still learned from.
    assert b"yyyy" in train_sentencepiece(["yyyy " * 20_000 + VERSE], vocab_size=300).token_bytes


def test_training_text_is_bounded() -> None:
    taken = list(training_texts("é" * 1_000_001 for _ in range(30)))
    assert 20_000_000 - 2 < sum(len(text.encode()) for text in taken) <= 20_000_000
    assert list(training_texts(["a", "", "b"])) == ["a", "", "b"]


def test_foreign_sentencepiece_models(tmp_path: Path) -> None:
    import sentencepiece

    def train(**options: Any) -> Path:
        lossless = {"byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False}
        options = {**lossless, "remove_extra_whitespaces": False, "vocab_size": 330, **options}
        with open(tmp_path / "own.model", "wb") as file:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=iter(VERSE.splitlines()), model_writer=file, minloglevel=2, num_threads=1,
                hard_vocab_limit=False, **options,
            )  # fmt: skip
        return tmp_path / "own.model"

    good: list[dict[str, Any]] = [
        {"model_type": "bpe"},
        {"model_type": "unigram"},
        {"user_defined_symbols": ["<user>"]},
    ]
    for options in good:
        tokenizer = load_sentencepiece(train(**options))
        assert tokenizer.eos_id == 2
        for word in [*WORDS, "<user>", "a <user>b"]:
            assert_lossless(tokenizer, word)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"byte_fallback": False}, "no byte fallback"),
        ({"add_dummy_prefix": True}, "comes back as ' a  b"),
        ({"remove_extra_whitespaces": True}, "comes back as"),
        ({"normalization_rule_name": "nfkc"}, "comes back as"),
        ({"eos_id": -1}, "no token that ends a document"),
    ]
    for options, message in bad:
        with pytest.raises(TokenizerError, match=message):
            load_sentencepiece(train(**options))
    (tmp_path / "own.model").write_bytes(b"not a model")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        load_sentencepiece(tmp_path / "own.model")


def test_lossy_tokenizer_json_is_refused(tmp_path: Path) -> None:
    lower = byte_fallback_spec()
    lower["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, lower["normalizer"]]}
    prefix = byte_fallback_spec()
    prefix["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": MARKER}, prefix["normalizer"]],
    }
    nameless = byte_fallback_spec()
    nameless["added_tokens"].pop()
    nameless["model"]["vocab"] = {("end" if k == "<eos>" else k): v for k, v in nameless["model"]["vocab"].items()}
    greedy = byte_fallback_spec()
    greedy["added_tokens"].append({**greedy["added_tokens"][0], "id": 300, "content": "<x>", "special": False, "lstrip": True})  # fmt: skip  # noqa: E501
    words = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 9,
    }
    wordpiece = {**byte_fallback_spec(), "model": {**words, "vocab": {"[UNK]": 0, "</s>": 1, "the": 2}}}
    wordpiece["added_tokens"] = []
    for spec, message in [
        (lower, "comes back as .* Its normaliser"),
        (prefix, "comes back as"),
        (greedy, "comes back as"),
        (wordpiece, "is a WordPiece tokenizer without bytes"),
        (nameless, "no token that ends a document; expected one of"),
        ({"the": 1}, "without the added_tokens and model.vocab"),
        ([], "without the added_tokens"),
        ({"added_tokens": [], "model": {"vocab": {"</s>": 0}, "type": "Nonsense"}}, "not a tokenizer that"),
    ]:
        with pytest.raises(TokenizerError, match=message):
            load_huggingface(write_json(tmp_path / "tokenizer.json", spec))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="not JSON"):
        load_huggingface(tmp_path)


def test_an_end_token_that_the_file_does_not_call_special_is_never_encoded(tmp_path: Path) -> None:
    for added in ([], [{**byte_fallback_spec()["added_tokens"][1], "special": False}]):
        spec = byte_fallback_spec()
        spec["added_tokens"] = added
        tokenizer = load_huggingface(write_json(tmp_path / "tokenizer.json", spec))
        assert tokenizer.eos_id == 1
        assert_lossless(tokenizer, "a<eos>")
        save_tokenizer(tokenizer, tmp_path / "saved")
        assert 1 not in load_tokenizer(tmp_path / "saved").encode("a<eos>")


def test_tokenizers_of_imported_models_may_change_text(tmp_path: Path) -> None:
    """Whoever says that loss is allowed gets the library's own ids; the record says it when they are loaded again."""
    spec = byte_fallback_spec()
    spec["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, spec["normalizer"]]}
    lossy = load_huggingface(write_json(tmp_path / "tokenizer.json", spec), allow_loss=True)
    assert lossy.decode(lossy.encode("The\nTHE")) == "the\nthe"
    assert lossy.loss == "'MiXeD Case' comes back as 'mixed case'"
    assert lossy.decode(lossy.encode(f"The{MARKER}")) == "the "
    save_tokenizer(lossy, tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert (loaded.is_lossless, loaded.fingerprint) == (False, lossy.fingerprint)
    with pytest.raises(TokenizerError, match="comes back as"):
        load_huggingface(tmp_path / "tokenizer.json")


def test_an_end_token_of_another_name(tmp_path: Path) -> None:
    spec = byte_fallback_spec()
    spec["added_tokens"][0]["content"] = "<end>"
    spec["model"]["vocab"] = {("<end>" if k == "<pad>" else k): v for k, v in spec["model"]["vocab"].items()}
    file = write_json(tmp_path / "tokenizer.json", spec)
    assert load_huggingface(file).eos_id == 1  # <eos>, a name that is known
    for eos, expected in [("<end>", 0), (0, 0), (1, 1), (200, 1), ("<no such token>", 1)]:
        assert load_huggingface(file, eos=[eos]).eos_id == expected
    save_tokenizer(load_huggingface(file, eos=[0]), tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").eos_id == 0


def test_a_run_of_a_million_encodes_in_seconds(tokenizers: dict[str, TextTokenizer]) -> None:
    gpt2 = tokenizers["gpt2"]
    start_s = time.perf_counter()
    for character in "a \n":
        text = character * 1_000_100 + "x"
        assert gpt2.decode(gpt2.encode(text)) == text
    assert time.perf_counter() - start_s < 10  # about 1 s alone; minutes where the merging is quadratic


def test_only_whitespace_beyond_the_limit_is_cut(
    tokenizers: dict[str, TextTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiktoken

    gpt2 = tokenizers["gpt2"]
    ranks = {token: i for i, token in enumerate(gpt2.token_bytes[:-1])}
    plain = tiktoken.Encoding("plain", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    texts = ["a  b" * 20, "x" * 50, "a" + "\n" * 11 + "b"]
    assert len(texts[0]) <= MAX_WHITESPACE_RUN
    monkeypatch.setattr("smalllm.tokenizers.gpt2.MAX_WHITESPACE_RUN", 3)
    cut = [gpt2.encode(text) == plain.encode_ordinary(text) for text in texts]
    assert cut == [True, True, False]
    assert gpt2.encode_batch(texts) == [gpt2.encode(text) for text in texts]
    assert [gpt2.decode(gpt2.encode(text)) for text in texts] == texts


def test_gpt2_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    gpt2_files(tmp_path)
    merges = (tmp_path / "vocab.bpe").read_text(encoding="utf-8").split("\n")
    for broken in ([*merges[:5], merges[6], merges[5], *merges[7:]], merges[:-2]):
        (tmp_path / "vocab.bpe").write_text("\n".join(broken), encoding="utf-8")
        with pytest.raises(TokenizerError, match="are not one GPT-2 vocabulary"):
            load_gpt2(tmp_path)
    with pytest.raises(TokenizerError, match="holds no GPT-2 vocabulary"):
        load_gpt2(tmp_path / "nowhere")


@pytest.fixture
def offline_tiktoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tiktoken with an empty cache of its own and no way out; gives the folder of the cache."""
    from tiktoken import registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(registry.ENCODINGS, "gpt2", raising=False)
    return tmp_path


@pytest.mark.usefixtures("offline_tiktoken")
def test_without_files_or_network_the_error_says_what_to_do() -> None:
    with pytest.raises(TokenizerError, match=r"needs the internet once.*pass --tokenizer.path FOLDER with"):
        build_tokenizer("gpt2", vocab_size=None, path=None, texts=list)


@pytest.fixture(scope="module")
def real_data() -> Path:
    folder = Path(os.environ.get("SMALLLM_TEST_DATA", "nowhere"))
    if not (folder / "gpt2_vocab").is_dir():
        pytest.skip("SMALLLM_TEST_DATA does not name a folder with gpt2_vocab and tokenizer_cases")
    return folder


def gpt2_cases(folder: Path) -> list[tuple[str, list[int]]]:
    cases = folder / "tokenizer_cases"
    known = [(case["text"], case["ids"]) for case in json.loads((cases / "gpt2_edge_cases.json").read_text())]
    source_ids = json.loads((cases / "gpt2_source_file_ids.json").read_text())
    return [*known, ((cases / "gpt2_source_file.txt").read_bytes().decode(), source_ids)]


def test_gpt2_ids_are_the_known_ones(real_data: Path, tmp_path: Path) -> None:
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    vocabulary = real_data / "gpt2_vocab"
    ours, theirs = load_gpt2(vocabulary), load_huggingface(vocabulary / "tokenizer.json")
    cases = gpt2_cases(real_data)
    assert ours.encode_batch([text for text, _ in cases]) == [ids for _, ids in cases]
    assert theirs.encode_batch([text for text, _ in cases]) == [ids for _, ids in cases]
    assert (ours.vocab_size, ours.eos_id, theirs.vocab_size, theirs.eos_id) == (50_257, 50_256) * 2
    # OpenAI publishes the same ranks as r50k_base.tiktoken; the saved file is that file, byte for byte.
    assert ours.fingerprint == "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    ranks = data_gym_to_mergeable_bpe_ranks(str(vocabulary / "vocab.bpe"), str(vocabulary / "encoder.json"))
    original = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    reference = tiktoken.Encoding("x", pat_str=original, mergeable_ranks=ranks, special_tokens={})
    play = (real_data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    assert ours.encode(play) == reference.encode_ordinary(play)


def test_gpt2_from_the_cache_of_tiktoken(real_data: Path, offline_tiktoken: Path) -> None:
    for name in ("vocab.bpe", "encoder.json"):
        url = f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}"
        cached = offline_tiktoken / hashlib.sha1(url.encode()).hexdigest()
        cached.write_bytes((real_data / "gpt2_vocab" / name).read_bytes())
    assert load_gpt2(None).fingerprint == load_gpt2(real_data / "gpt2_vocab").fingerprint


def test_a_wrong_pattern_is_seen_in_the_known_ids(real_data: Path) -> None:
    import tiktoken

    gpt2 = load_gpt2(real_data / "gpt2_vocab")
    ranks = {token: i for i, token in enumerate(gpt2.token_bytes[:-1])}
    wrong = tiktoken.Encoding("x", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={})
    assert any(wrong.encode_ordinary(text) != ids for text, ids in gpt2_cases(real_data))
