"""A GGUF file is the run, bit for bit or rounded as asked; a file that is not, and what cannot be written, say why."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_helpers import load_spec, make_byte_level_spec, silent
from interop_helpers import make_config, make_model, name_of, variants
from tokenizer_helpers import byte_fallback_spec, edit_spm, long_texts, make_tokenizers, random_texts, train_spm

from smalllm.errors import InteropError
from smalllm.interop.gguf_encode import find_misread, make_cases, make_encoder
from smalllm.interop.gguf_file import write_gguf
from smalllm.interop.gguf_read import read_gguf
from smalllm.interop.gguf_tokenizer import PRE_TOKENIZERS, UNUSED, gguf_tokenizer
from smalllm.interop.gguf_verify import verify_gguf
from smalllm.interop.pieces import Piece
from smalllm.interop.verify import Proof
from smalllm.model.gpt import GPT
from smalllm.tokenizers.bytes import build_bytes
from smalllm.tokenizers.gpt2 import load_gpt2
from smalllm.tokenizers.sentencepiece import load_sentencepiece
from smalllm.tokenizers.text_tokenizer import MARKER, PROBES, TextTokenizer

gguf = pytest.importorskip("gguf", reason="writes GGUF files: pip install 'smalllm[gguf]'")
VARIANTS = [v for v in variants() if not (v[0] == "starcoder2" and "d_head" in v[1])]
DTYPES = ["f32", "f16", "bf16", "q8_0"]
TEXTS = [*random_texts(100, seed=2), *PROBES, *(text[:500] for text in long_texts())]


@pytest.fixture(autouse=True)
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests find is found without it; `test_llama_cpp.py` is about it."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    return make_tokenizers(tmp_path_factory.mktemp("vocabularies"))


def write(
    model: GPT,
    path: Path,
    tokenizer: TextTokenizer | None = None,
    *,
    dtype: str = "f32",
    name: str = "model",
    notice: Callable[[str], None] = silent,
) -> Path:
    parameters = dict(model.named_parameters())
    write_gguf(path, model.config, parameters, tokenizer or build_bytes(), dtype=dtype, name=name, notice=notice)
    return path


def verify(model: GPT, path: Path, tokenizer: TextTokenizer | None = None, *, dtype: str = "f32") -> Proof:
    parameters = dict(model.named_parameters())
    return verify_gguf(path, model.config, parameters, tokenizer or build_bytes(), dtype=dtype, notice=silent)


def make(family: str, *, vocab_size: int = 257, **changes: Any) -> GPT:
    return make_model(make_config(family, **changes), vocab_size=vocab_size)


# --- the same model


@pytest.mark.parametrize("variant", VARIANTS, ids=map(name_of, VARIANTS))
def test_a_file_comes_back_as_the_run(variant: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    family, changes = variant
    model = make(family, **changes)
    path = write(model, tmp_path / "model.gguf")
    proof = verify(model, path)
    assert (proof.logit_difference, proof.n_positions, proof.n_continued) == (0.0, 24, 16)
    assert proof.n_texts >= len(PROBES)
    whole = read_gguf(path)
    assert whole.config == model.config
    for dtype, step in (("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 2**-7)):
        found = read_gguf(write(model, path, dtype=dtype))
        assert found.config == model.config and found.tokenizer == whole.tokenizer
        for name, values in whole.parameters.items():
            largest = 0 if values.ndim == 1 or "position" in name else values.abs().max()
            assert (found.parameters[name] - values).abs().max() <= step * largest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["gpt2", "starcoder2", "llama", "qwen3"])
def test_a_rounded_file_is_the_run_rounded(family: str, dtype: str, tmp_path: Path) -> None:
    model = make(family, bias=family != "qwen3", tie_embeddings=False)
    proof = verify(model, write(model, tmp_path / "model.gguf", dtype=dtype), dtype=dtype)
    assert (proof.logit_difference == 0) == (dtype == "f32")


def test_values_are_rounded_as_torch_and_ggml_round(tmp_path: Path) -> None:
    """Not by what the file's own check is made of: by hand, from the definition of each format."""
    model = make("llama")
    name = "blocks.0.mlp.up.weight"
    weight = dict(model.named_parameters())[name].detach()
    found = {d: read_gguf(write(model, tmp_path / d, dtype=d)).parameters[name] for d in DTYPES}
    assert torch.equal(found["f32"], weight)
    assert torch.equal(found["f16"], torch.from_numpy(weight.numpy().astype(np.float16).astype(np.float32)))
    assert torch.equal(found["bf16"].view(torch.int32) & 0xFFFF, torch.zeros_like(weight, dtype=torch.int32))
    assert ((found["bf16"] - weight).abs() <= weight.abs() * 2**-8).all()
    blocks = weight.view(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    assert ((found["q8_0"].view(-1, 32) - blocks).abs() <= scale * (0.5 + 127 * 2**-10)).all()
    assert not torch.equal(found["q8_0"], weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_and_learned_positions_stay_in_full_precision(dtype: str, tmp_path: Path) -> None:
    model = make("gpt2", bias=True)
    found = read_gguf(write(model, tmp_path / "model.gguf", dtype=dtype)).parameters
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name == "position_embedding.weight":
            assert torch.equal(found[name], parameter)


def test_rows_that_are_no_multiple_of_32_are_f16_in_q8_0_with_a_notice(tmp_path: Path) -> None:
    model, notices = make("llama", d_ff=40), []
    path = write(model, tmp_path / "model.gguf", dtype="q8_0", notice=notices.append)
    assert notices == [
        "2 of 20 tensors are F16, not Q8_0, whose rows are multiples of 32; rows of blk.0.ffn_down.weight have 40 "
        "weights"
    ]
    verify(model, path, dtype="q8_0")
    down = dict(model.named_parameters())["blocks.0.mlp.down.weight"].detach()
    assert torch.equal(read_gguf(path).parameters["blocks.0.mlp.down.weight"], down.half().float())


def test_an_output_bias_of_zeros_is_left_out_of_qwen3(tmp_path: Path) -> None:
    """As of an imported Qwen3 with biases for queries, keys and values alone."""
    model = make("qwen3", bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and ("mlp" in name or "attention.out" in name):
                parameter.zero_()
    verify(model, write(model, tmp_path / "model.gguf"))
    assert not any("attn_output.bias" in t.name for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors)


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece", "huggingface", "bytes"])
def test_every_kind_of_tokenizer_comes_back(kind: str, tokenizers: dict[str, TextTokenizer], tmp_path: Path) -> None:
    tokenizer = tokenizers[kind]
    model = make("gpt2", vocab_size=tokenizer.vocab_size)
    path = write(model, tmp_path / "model.gguf", tokenizer)
    if kind != "gpt2":  # 50,000 merges take seconds
        verify(model, path, tokenizer)
    found = read_gguf(path).tokenizer
    assert found == gguf_tokenizer(tokenizer) and found.eos_id == tokenizer.eos_id
    encode = make_encoder(found)
    cases = make_cases(TEXTS, tokenizer, found)
    assert len(cases) == len(TEXTS)
    assert [encode(text) for text, _ in cases] == [ids for _, ids in cases]


def test_a_name_that_llama_cpp_would_act_on_is_spelled_otherwise(tmp_path: Path) -> None:
    path = write(make("llama"), tmp_path / "model.gguf", name="My-Phi-3-test")
    assert gguf.GGUFReader(path).fields["general.name"].contents() == "My-phi 3-test"


# --- tokenizers


def test_the_merges_of_gpt2_are_those_that_openai_published() -> None:
    folder = Path(os.environ.get("SMALLLM_TEST_DATA", "nowhere"), "gpt2_vocab")
    if not folder.is_dir():
        pytest.skip("SMALLLM_TEST_DATA does not name a folder with gpt2_vocab")
    lists = gguf_tokenizer(load_gpt2(folder))
    published = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]
    assert list(lists.merges) == published
    encoder = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    assert list(lists.tokens) == sorted(encoder, key=encoder.__getitem__)


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_pre_tokenizers_are_known_by_what_they_do(pre: str, tmp_path: Path) -> None:
    tokenizer = load_spec(make_byte_level_spec(pre), tmp_path)
    lists = gguf_tokenizer(tokenizer)
    assert lists.pre == pre
    encode = make_encoder(lists)
    assert [encode(text) for text in TEXTS] == tokenizer.encode_batch(TEXTS)


def test_added_tokens_gaps_and_old_merges_are_written(tmp_path: Path) -> None:
    spec = make_byte_level_spec("gpt-2")
    spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]  # as before tokenizers 0.20
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    n = len(spec["model"]["vocab"])
    last = next(token for token, i in spec["model"]["vocab"].items() if i == n - 1)
    spec["model"]["vocab"][last] = n + 49
    spec["added_tokens"] += [{"id": n, "content": "<tool>", "special": False, **flags}]
    spec["added_tokens"] += [{"id": n + 1, "content": "<|im_end|>", "special": True, **flags}]
    tokenizer = load_spec(spec, tmp_path)
    lists = gguf_tokenizer(tokenizer)
    assert (lists.tokens[n + 9], lists.types[n + 9]) == (f"[PAD{n + 9}]", UNUSED)
    encode = make_encoder(lists)
    texts = ["a<tool>b <tool><tool>", "<|im_end|>", *TEXTS]
    assert [encode(text) for text in texts] == tokenizer.encode_batch(texts)
    assert n in tokenizer.encode(texts[0]) and n + 1 not in tokenizer.encode(texts[1])


@pytest.mark.parametrize("prefix", [False, True])
def test_byte_fallback_becomes_scores(prefix: bool, tmp_path: Path) -> None:
    tokenizer = load_spec(byte_fallback_spec(prefix=prefix), tmp_path, allow_loss=True)
    lists = gguf_tokenizer(tokenizer)
    assert (lists.model, lists.add_space_prefix, lists.unk_id) == ("llama", prefix, 0)
    encode = make_encoder(lists)
    cases = make_cases([*TEXTS, "the cat  that", " the", "tthhee the"], tokenizer, lists)
    assert [encode(text) for text, _ in cases] == [ids for _, ids in cases]
    model = make("llama", vocab_size=tokenizer.vocab_size)
    verify(model, write(model, tmp_path / "model.gguf", tokenizer), tokenizer)


def test_a_model_that_composes_characters_is_compared_on_composed_ones(tmp_path: Path) -> None:
    tokenizer = load_spec(make_byte_level_spec("qwen2", normalizer={"type": "NFC"}), tmp_path, allow_loss=True)
    assert not tokenizer.is_lossless
    cases = make_cases(["cafe\u0301"], tokenizer, gguf_tokenizer(tokenizer))
    assert cases == [("caf\u00e9", tokenizer.encode("cafe\u0301"))]
    model = make("llama", vocab_size=tokenizer.vocab_size)
    verify(model, write(model, tmp_path / "model.gguf", tokenizer), tokenizer)


def test_u2581_is_compared_as_the_space_that_llama_cpp_reads(tokenizers: dict[str, TextTokenizer]) -> None:
    tokenizer = tokenizers["sentencepiece"]
    text = f"the{MARKER}cat"
    [(given, ids)] = make_cases([text], tokenizer, gguf_tokenizer(tokenizer))
    assert given == text and ids == tokenizer.encode("the cat") != tokenizer.encode(text)


def test_a_special_token_that_pieces_can_spell_is_named(tmp_path: Path) -> None:
    def add_pieces(pieces: list[Piece]) -> None:
        pieces += [Piece("</", -1000.0, "normal"), Piece("</s", -1001.0, "normal")]

    content = edit_spm(train_spm(tmp_path).read_bytes(), add_pieces)
    (tmp_path / "tokenizer.model").write_bytes(content)
    tokenizer, notices = load_sentencepiece(tmp_path), []
    assert find_misread(gguf_tokenizer(tokenizer)) == ["</s>"]
    model = make("llama", vocab_size=tokenizer.vocab_size)
    path = write(model, tmp_path / "model.gguf", tokenizer, notice=notices.append)
    assert notices == ["llama.cpp reads the text </s> as the token of that name; smalllm reads it as text"]
    verify(model, path, tokenizer)


def test_no_vocabulary_of_ours_spells_a_special_token(tokenizers: dict[str, TextTokenizer]) -> None:
    assert not any(find_misread(gguf_tokenizer(tokenizer)) for tokenizer in tokenizers.values())


# --- the proof can fail


def tensor_of(reader: Any, name: str) -> Any:
    return next(t.data for t in reader.tensors if t.name == name)


def rotate_halves(reader: Any) -> None:
    """The queries as if llama.cpp rotated halves, not neighbours."""
    q = tensor_of(reader, "blk.0.attn_q.weight")
    q[:] = q.reshape(4, -1, 2, 32).swapaxes(1, 2).reshape(q.shape).copy()


def transpose(reader: Any) -> None:
    out = tensor_of(reader, "blk.1.attn_output.weight")
    out[:] = out.T.copy()


def drop_bias(reader: Any) -> None:
    tensor_of(reader, "blk.0.ffn_up.bias")[:] = 0


def flip_a_bit(reader: Any) -> None:
    tensor_of(reader, "output_norm.weight").view(np.uint32)[0] ^= 1


def swap_tokens(reader: Any) -> None:
    field = reader.fields["tokenizer.ggml.tokens"]
    a, b = (field.parts[field.data[i]] for i in (65, 66))
    a[:], b[:] = b.copy(), a.copy()


def change(key: str, value: Any) -> Callable[[Any], None]:
    def edit(reader: Any) -> None:
        reader.fields[key].parts[-1][0] = value

    return edit


@pytest.mark.parametrize(
    ("family", "edit", "said"),
    [
        ("llama", rotate_halves, r"blocks\.0\.attention\.q\.weight does not come back"),
        ("llama", transpose, r"blocks\.1\.attention\.out\.weight does not come back"),
        ("gpt2", transpose, r"blocks\.1\.attention\.out\.weight does not come back"),
        ("gpt2", drop_bias, r"blocks\.0\.mlp\.up\.bias does not come back"),
        ("qwen3", flip_a_bit, r"norm\.weight does not come back"),
        ("llama", change("llama.rope.freq_base", 5_001.0), r"model\.rope_theta is 5001\.0 in the file and 5000\.0"),
        ("llama", change("llama.attention.layer_norm_rms_epsilon", 1e-5), r"model\.norm_eps is 1e-05 in the file"),
        ("starcoder2", change("starcoder2.attention.layer_norm_epsilon", 1e-5), r"model\.norm_eps is 1e-05"),
        ("gpt2", change("gpt2.context_length", 23), "not of one model|does not come back"),
        ("llama", change("llama.rope.dimension_count", 4), "only some dimensions of a head are rotated"),
        ("llama", change("llama.attention.value_length", 4), "keys and values have different lengths"),
        ("llama", change("smalllm.bias", True), r"model\.bias is True in the file"),
        ("llama", swap_tokens, "the tokenizer's tokens does not come back"),
        ("llama", change("tokenizer.ggml.eos_token_id", 3), "the tokenizer's eos_id does not come back"),
        ("llama", change("tokenizer.ggml.add_space_prefix", True), "add_space_prefix does not come back"),
    ],
)
def test_a_file_that_is_not_the_run_is_found(
    family: str, edit: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    model = make(family, bias=family == "gpt2")
    path = write(model, tmp_path / "model.gguf")
    verify(model, path)
    reader = gguf.GGUFReader(path, "r+")
    edit(reader)
    reader.data.flush()
    with pytest.raises(InteropError, match=said):
        verify(model, path)


def test_another_runs_file_is_found(tmp_path: Path) -> None:
    path = write(make("llama"), tmp_path / "model.gguf")
    with pytest.raises(InteropError, match="does not come back as it went out"):
        verify(make_model(make_config("llama"), vocab_size=257, seed=9), path)
    with pytest.raises(InteropError, match=r"model\.tie_embeddings is True in the file and False in the run"):
        verify(make("llama", tie_embeddings=False), path)
    with pytest.raises(InteropError, match=r"blocks\.0\.mlp\.up\.weight does not come back|does not come back"):
        verify(make("llama"), path, dtype="bf16")


def test_the_rebuilt_encoders_depend_on_their_lists(tokenizers: dict[str, TextTokenizer]) -> None:
    """Merges and scores in another order give other ids, so equal ids say something."""
    from dataclasses import replace

    for kind, field in (("huggingface", "merges"), ("sentencepiece", "scores")):
        lists = gguf_tokenizer(tokenizers[kind])
        other = make_encoder(replace(lists, **{field: tuple(reversed(getattr(lists, field)))}))
        ours = make_encoder(lists)
        assert any(other(text) != ours(text) for text in TEXTS)


# --- what cannot be written


def test_without_gguf_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InteropError, match=r"pip install 'smalllm\[gguf\]'"):
        write(make("llama"), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_heads_that_starcoder2_cannot_have_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InteropError, match=r"model\.d_head = 16: in llama\.cpp's starcoder2 heads have .* = 8 dim"):
        write(make("starcoder2", d_head=16), tmp_path / "model.gguf")


def test_an_output_bias_that_qwen3_cannot_have_there_is_refused(tmp_path: Path) -> None:
    model = make("qwen3", bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and "mlp" in name:
                parameter.zero_()
    with pytest.raises(InteropError, match=r"llama\.cpp's qwen3 has no blk\.0\.attn_output\.bias"):
        write(model, tmp_path / "model.gguf")


@pytest.mark.parametrize(("dtype", "d_ff"), [("f16", 128), ("q8_0", 40)])
def test_a_weight_past_the_end_of_f16_is_refused(dtype: str, d_ff: int, tmp_path: Path) -> None:
    model = make("llama", d_ff=d_ff)
    with torch.no_grad():
        model.blocks[1].mlp.down.weight[3, 4] = 7e4
    for kept in ("f32", "bf16"):
        verify(model, write(model, tmp_path / kept, dtype=kept), dtype=kept)
    with pytest.raises(InteropError, match=r"blk\.1\.ffn_down\.weight has a weight of 7e\+04.*--dtype bf16 or f32"):
        write(model, tmp_path / "model.gguf", dtype=dtype, notice=lambda text: None)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InteropError, match=r"nowhere/model\.gguf: cannot be written \(No such file"):
        write(make("llama"), tmp_path / "nowhere" / "model.gguf")


def added(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": 450, "content": content, **plain, **flags}


def with_merges(*merges: list[str]) -> dict[str, Any]:
    spec = byte_fallback_spec(prefix=False)
    vocab = {**spec["model"]["vocab"], "he": len(spec["model"]["vocab"])}
    return {**spec, "model": {**spec["model"], "vocab": vocab, "merges": list(merges)}}


def refused_specs() -> dict[str, tuple[dict[str, Any], str]]:
    plain, fallback = make_byte_level_spec("gpt-2"), byte_fallback_spec(prefix=False)
    no_regex = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    whitespace = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, no_regex]}
    ignoring = {**plain, "model": {**plain["model"], "ignore_merges": True}}
    metaspace = {"type": "Metaspace", "replacement": MARKER, "prepend_scheme": "never", "split": True}
    return {
        "no regex": ({**plain, "pre_tokenizer": no_regex}, r'pre-tokenizer is ByteLevel \{"add_prefix_space": false, '),
        "whitespace": ({**plain, "pre_tokenizer": whitespace}, "pre-tokenizer is WhitespaceSplit \\+ ByteLevel"),
        "ignores merges": (ignoring, "that ignores merges; known are those of gpt-2, smollm, qwen2, llama-bpe"),
        "NFKC": ({**plain, "normalizer": {"type": "NFKC"}}, "its normaliser is NFKC"),
        "strips": (
            {**plain, "added_tokens": [*plain["added_tokens"], added("<tool>", lstrip=True)]},
            "its token '<tool>' takes the spaces beside it",
        ),
        "suffix": ({**plain, "model": {**plain["model"], "end_of_word_suffix": "_"}}, "its model is BPE"),
        "fallback lowercase": ({**fallback, "normalizer": {"type": "Lowercase"}}, "normaliser has a Lowercase"),
        "fallback split": ({**fallback, "pre_tokenizer": metaspace}, "its pre-tokenizer is Metaspace"),
        "order": (
            with_merges(["t", "h"], ["h", "e"], ["t", "he"], [MARKER, "the"], [MARKER, "c"], [MARKER, MARKER]),
            "its merges are not in the order of what they make",
        ),
        "lacking": (with_merges(["t", "h"], ["th", "e"], [MARKER, "the"], [MARKER, "c"]), "its merges are not in"),
    }


@pytest.mark.parametrize("case", refused_specs())
def test_tokenizers_that_llama_cpp_has_no_way_to_are_refused(case: str, tmp_path: Path) -> None:
    spec, said = refused_specs()[case]
    tokenizer = load_spec(spec, tmp_path, allow_loss=True)
    with pytest.raises(InteropError, match=f"cannot be written for llama.cpp: .*{said}.*--format hf"):
        gguf_tokenizer(tokenizer)


def test_sentencepiece_models_that_it_would_read_otherwise_are_refused(tmp_path: Path) -> None:
    def never_use(pieces: list[Piece]) -> None:
        pieces[-1] = Piece(pieces[-1].text, pieces[-1].score, "unused")

    unigram = load_sentencepiece(train_spm(tmp_path, model_type="unigram", vocab_size=400))
    with pytest.raises(InteropError, match="it is a Unigram SentencePiece model"):
        gguf_tokenizer(unigram)
    path = train_spm(tmp_path)
    path.write_bytes(edit_spm(path.read_bytes(), never_use))
    with pytest.raises(InteropError, match="it has unused pieces"):
        gguf_tokenizer(load_sentencepiece(path))


def test_a_sentencepiece_model_that_loses_more_than_a_space_in_front_is_found(tmp_path: Path) -> None:
    """A space in front is in a GGUF's power; squeezed spaces are not."""
    for options, is_held in (({"add_dummy_prefix": True}, True), ({"remove_extra_whitespaces": True}, False)):
        tokenizer = load_sentencepiece(train_spm(tmp_path, **options), allow_loss=True)
        assert not tokenizer.is_lossless
        model = make("llama", vocab_size=tokenizer.vocab_size)
        path = write(model, tmp_path / "model.gguf", tokenizer)
        if is_held:
            verify(model, path, tokenizer)
            continue
        with pytest.raises(InteropError, match="the token ids of 'a  b   c ' are"):
            verify(model, path, tokenizer)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = write(make("llama"), tmp_path / "model.gguf").read_bytes()
    for size in (0, 3, 20, 400, 9_000, len(whole) // 2, len(whole) - 33):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(InteropError, match=r"cut\.gguf: not a GGUF file of smalllm's, or a damaged one"):
            read_gguf(tmp_path / "cut.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK" + whole[2:])
    with pytest.raises(InteropError, match=r"other\.gguf: not a GGUF file"):
        read_gguf(tmp_path / "other.gguf")
    with pytest.raises(InteropError, match=r"absent\.gguf: not a GGUF file"):
        read_gguf(tmp_path / "absent.gguf")


# --- llama.cpp's own process


def install_fake(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package called llama_cpp that does this."""
    folder.mkdir()
    (folder / "llama_cpp.py").write_text(code)
    monkeypatch.delitem(sys.modules, "llama_cpp")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_a_llama_cpp_that_cannot_be_loaded_is_passed_over_with_a_notice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_fake("raise RuntimeError('libllama.so: wrong processor')", tmp_path / "fake", monkeypatch)
    model, notices = make("llama"), []
    path = write(model, tmp_path / "model.gguf")
    parameters = dict(model.named_parameters())
    proof = verify_gguf(path, model.config, parameters, build_bytes(), dtype="f32", notice=notices.append)
    assert notices == ["llama-cpp-python is installed and cannot be loaded: libllama.so: wrong processor"]
    assert proof.by == "smalllm, for llama.cpp is not installed"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos.abort()", "it ended with signal 6"),
        ("def llama_backend_init(): raise SystemExit('unknown model')", r"it ended with status 1\): unknown model"),
    ],
)
def test_a_llama_cpp_that_ends_on_a_file_is_an_error(
    code: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_fake(code, tmp_path / "fake", monkeypatch)
    model = make("llama")
    path = write(model, tmp_path / "model.gguf")
    with pytest.raises(InteropError, match=said):
        verify(model, path)
