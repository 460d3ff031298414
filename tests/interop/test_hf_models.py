"""Our model and transformers', from the same files, compute the same; and files that cannot be taken say why."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from interop_helpers import EOS_ID, VOCAB_SIZE, make_config, make_ids, make_model, name_of, variants

from smalllm.config import ModelConfig
from smalllm.errors import InteropError
from smalllm.interop.families import FAMILIES, family_of
from smalllm.interop.hf_folder import INDEX, WEIGHTS, read_hf_model, write_hf_model
from smalllm.interop.verify import verify_with_transformers
from smalllm.model.gpt import GPT
from smalllm.recipes import load_recipe, recipe_names

transformers = pytest.importorskip("transformers", reason="compares with transformers: pip install 'smalllm[hf]'")
VARIANTS = variants()


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def write(model: GPT, folder: Path, **options: Any) -> Path:
    folder.mkdir()
    parameters = dict(model.named_parameters())
    write_hf_model(folder, model.config, parameters, vocab_size=model.vocab_size, eos_id=EOS_ID, **options)
    return folder


def load_theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def edit_json(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**found, **changes}.items() if v != "absent"}))


def real_rows(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:VOCAB_SIZE] if name.startswith(("token_embedding", "lm_head")) else tensor


@torch.no_grad()
def assert_same_logits(model: GPT, theirs: Any) -> None:
    token_ids = make_ids(3, 24)
    torch.testing.assert_close(model(token_ids), theirs(token_ids).logits)


# --- the same numbers


@pytest.mark.parametrize("variant", VARIANTS, ids=map(name_of, VARIANTS))
def test_an_export_computes_the_same_in_transformers_and_comes_back(
    variant: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    family, changes = variant
    model = make_model(make_config(family, **changes))
    folder = write(model, tmp_path / "hf")
    theirs = load_theirs(folder)
    assert type(theirs).__name__ == family_of(model.config).hf_class
    assert_same_logits(model, theirs)
    back = read_hf_model(folder, vocab_size=VOCAB_SIZE)
    assert back.config == model.config
    assert back.parameters.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(real_rows(name, back.parameters[name]), real_rows(name, parameter))


@pytest.mark.parametrize("family", ["gpt2", "starcoder2", "llama", "qwen3"])
def test_an_export_generates_trains_and_survives_save_pretrained(family: str, tmp_path: Path) -> None:
    model = make_model(make_config(family, bias=family in ("gpt2", "starcoder2")))
    theirs = load_theirs(write(model, tmp_path / "hf"))
    prompt = make_ids(1, 5)
    made = theirs.generate(prompt, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(prompt))
    token_ids = prompt
    for _ in range(made.shape[1] - 5):
        token_ids = torch.cat([token_ids, model(token_ids)[:, -1:].argmax(-1)], dim=1)
    assert made.tolist() == token_ids.tolist()
    theirs.save_pretrained(tmp_path / "saved")
    again = read_hf_model(tmp_path / "saved", vocab_size=VOCAB_SIZE)
    assert all(torch.equal(real_rows(n, again.parameters[n]), real_rows(n, p)) for n, p in model.named_parameters())
    theirs.train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    batch = make_ids(4, 24)
    losses = []
    for _ in range(3):
        loss = theirs(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    theirs.eval().save_pretrained(tmp_path / "trained")
    trained = read_hf_model(tmp_path / "trained", vocab_size=VOCAB_SIZE)
    ours = GPT(trained.config, vocab_size=VOCAB_SIZE).eval()
    ours.load_state_dict(trained.parameters, strict=False)
    assert_same_logits(ours, theirs)


def their_configs() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    rope = {**sizes, "intermediate_size": 48, "max_position_embeddings": 24, "vocab_size": VOCAB_SIZE}
    rope |= {"bos_token_id": 3, "eos_token_id": 3, "pad_token_id": None}
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24, "n_inner": 40, "vocab_size": VOCAB_SIZE}
    gpt2 |= {"bos_token_id": 3, "eos_token_id": 3}
    return {
        "gpt2": transformers.GPT2Config(**gpt2),
        "gpt2-untied": transformers.GPT2Config(**gpt2, tie_word_embeddings=False, layer_norm_epsilon=1e-3),
        "starcoder2": transformers.Starcoder2Config(**rope),
        "starcoder2-plain": transformers.Starcoder2Config(**rope, use_bias=False, tie_word_embeddings=False),
        "llama": transformers.LlamaConfig(**rope),
        "llama-bias": transformers.LlamaConfig(**rope, attention_bias=True, head_dim=12, tie_word_embeddings=True),
        "llama-all-bias": transformers.LlamaConfig(**rope, attention_bias=True, mlp_bias=True),
        "qwen3": transformers.Qwen3Config(**rope, head_dim=16),
        "qwen3-bias": transformers.Qwen3Config(**rope, head_dim=8, attention_bias=True, tie_word_embeddings=True),
    }


@pytest.mark.parametrize("name", their_configs())
def test_a_random_model_of_transformers_computes_the_same_here(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(their_configs()[name], dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path, max_shard_size="10KB" if name == "llama" else "1GB")
    assert (tmp_path / INDEX).exists() == (name == "llama")
    found = read_hf_model(tmp_path, vocab_size=VOCAB_SIZE)
    ours = GPT(found.config, vocab_size=VOCAB_SIZE).eval()
    ours.load_state_dict(found.parameters, strict=not found.config.tie_embeddings)
    assert_same_logits(ours, theirs)
    again = write(ours, tmp_path / "again")
    assert_same_logits(ours, load_theirs(again))


def test_bfloat16_weights_are_read_exactly(tmp_path: Path) -> None:
    model = make_model(make_config("llama"))
    folder = write(model, tmp_path / "hf", dtype="bf16")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    back = read_hf_model(folder, vocab_size=VOCAB_SIZE)
    weight = dict(model.named_parameters())["blocks.0.mlp.up.weight"]
    assert torch.equal(back.parameters["blocks.0.mlp.up.weight"], weight.bfloat16().float())
    assert not torch.equal(back.parameters["blocks.0.mlp.up.weight"], weight)


def test_a_checkpoint_of_the_bare_model_is_read(tmp_path: Path) -> None:
    """As openai-community/gpt2: names without the prefix, and the causal masks of old versions."""
    folder = write(make_model(make_config("gpt2", bias=True)), tmp_path / "hf")
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    before = read_hf_model(folder, vocab_size=VOCAB_SIZE).parameters
    safetensors.torch.save_file(bare, folder / WEIGHTS)
    after = read_hf_model(folder, vocab_size=VOCAB_SIZE).parameters
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rows_without_a_token_are_left_out(tmp_path: Path) -> None:
    folder = write(make_model(make_config("llama")), tmp_path / "hf")
    found = read_hf_model(folder, vocab_size=50)
    assert found.n_rows == VOCAB_SIZE
    whole = read_hf_model(folder, vocab_size=VOCAB_SIZE).parameters["token_embedding.weight"]
    assert torch.equal(found.parameters["token_embedding.weight"][:50], whole[:50])


def test_zeros_that_stand_for_no_bias_come_back_as_none_and_others_as_biases(tmp_path: Path) -> None:
    folder = write(make_model(make_config("gpt2", bias=False)), tmp_path / "hf")
    assert read_hf_model(folder, vocab_size=VOCAB_SIZE).config.bias is False
    edit_json(folder / "config.json", smalllm="absent")  # another program's zeros are biases to train
    assert read_hf_model(folder, vocab_size=VOCAB_SIZE).config.bias is True


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_has_a_class(recipe: str) -> None:
    assert family_of(load_recipe(recipe).model) in FAMILIES


# --- the proof can fail


def break_heads(tensors: dict[str, torch.Tensor]) -> None:
    """The queries as if neighbouring dimensions were rotated."""
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].unflatten(0, (4, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()


def break_gpt2_matrix(tensors: dict[str, torch.Tensor]) -> None:
    name = "transformer.h.1.attn.c_proj.weight"
    tensors[name] = tensors[name].T.contiguous()


def drop_bias(tensors: dict[str, torch.Tensor]) -> None:
    name = next(n for n in tensors if n.endswith("c_fc.bias"))
    tensors[name] = torch.zeros_like(tensors[name])


def swap_key_and_query(tensors: dict[str, torch.Tensor]) -> None:
    q, k = (f"model.layers.1.self_attn.{n}_proj.weight" for n in "qk")
    tensors[q], tensors[k] = tensors[k], tensors[q]


@pytest.mark.parametrize(
    ("family", "breaking"),
    [
        ("llama", break_heads),
        ("qwen3", break_heads),
        ("starcoder2", break_heads),
        ("gpt2", break_gpt2_matrix),
        ("gpt2", drop_bias),
        ("starcoder2", drop_bias),
        ("llama", swap_key_and_query),
    ],
)
def test_a_wrong_layout_is_found(family: str, breaking: Any, tmp_path: Path) -> None:
    model = make_model(make_config(family, bias=family != "qwen3"))
    folder = write(model, tmp_path / "hf")
    assert verify_with_transformers(folder, model, None).logit_difference < 1e-4
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    breaking(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InteropError, match="the logits differ"):
        verify_with_transformers(folder, model, None)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_theta": 9_000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 9_000.0}}),
        ("llama", {"rms_norm_eps": 1e-1}),
        ("gpt2", {"activation_function": "relu"}),
        ("gpt2", {"layer_norm_epsilon": 1e-1}),
    ],
)
def test_a_wrong_setting_is_found(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = make_model(make_config(family))
    folder = write(model, tmp_path / "hf")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(InteropError, match="the logits differ"):
        verify_with_transformers(folder, model, None)


# --- what cannot be given out


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        ({"norm": "rmsnorm"}, 'model.norm = "rmsnorm"'),
        ({"norm": "rmsnorm", "mlp": "swiglu", "position": "learned"}, 'model.position = "learned"'),
        ({"qk_norm": True}, "model.qk_norm = true"),
        ({"position": "learned", "n_kv_heads": 2}, "model.n_kv_heads = 2"),
        ({"position": "learned", "d_head": 16}, "model.d_head = 16"),
    ],
)
def test_a_shape_without_a_class_is_refused_by_field(shape: dict[str, Any], named: str) -> None:
    with pytest.raises(InteropError, match=named.replace(".", r"\.")):
        family_of(ModelConfig(n_heads=4, d_model=32, **shape))


def test_a_bias_that_the_class_has_no_place_for_is_refused_unless_zero(tmp_path: Path) -> None:
    model = make_model(make_config("qwen3", bias=True))
    (tmp_path / "a").mkdir()
    with pytest.raises(InteropError, match=r"model\.bias = true.*Qwen3ForCausalLM has no bias in gate_proj"):
        write(model, tmp_path / "hf")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" in name and name.endswith("bias"):
                parameter.zero_()
    assert_same_logits(model, load_theirs(write(model, tmp_path / "zero")))


# --- what cannot be taken in


def exported(tmp_path: Path, family: str = "llama", **changes: Any) -> Path:
    return write(make_model(make_config(family, **changes)), tmp_path / "hf")


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        (
            "llama",
            {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
            "'mixtral'.*smalllm imports gpt2",
        ),
        ("llama", {"model_type": "absent"}, "model_type is None"),
        ("llama", {"hidden_act": "relu"}, "hidden_act = 'relu': must be 'silu'"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rope_type = 'llama3'"),
        (
            "llama",
            {"rope_parameters": "absent", "rope_scaling": {"type": "linear", "factor": 2}},
            "rope_type = 'linear'",
        ),
        ("llama", {"hidden_size": "absent"}, "hidden_size is missing"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window = True: must be False"),
        ("starcoder2", {"sliding_window": 8}, "sliding_window = 8: must be None"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function = 'gelu': must be 'gelu_new'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("llama", {"num_hidden_layers": 3}, r"model\.layers\.2\..*weight is missing"),
        ("llama", {"num_hidden_layers": 1}, r"LlamaForCausalLM has no model\.layers\.1"),
        ("llama", {"intermediate_size": 80}, r"gate_proj\.weight has shape \(128, 32\); .* \(80, 32\)"),
        ("gpt2", {"n_inner": 80}, r"c_fc\.weight has shape \(32, 128\); the configuration wants \(32, 80\)"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    family: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = exported(tmp_path, family)
    edit_json(folder / "config.json", **changes)
    with pytest.raises(InteropError, match=said):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)


def test_several_wrong_fields_are_named_together(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    edit_json(folder / "config.json", hidden_act="relu", partial_rotary_factor=0.5)
    with pytest.raises(InteropError, match=r"(?s)hidden_act.*partial_rotary_factor = 0.5"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)


def test_a_window_as_wide_as_the_context_is_none(tmp_path: Path) -> None:
    folder = exported(tmp_path, "starcoder2")
    edit_json(folder / "config.json", sliding_window=24)
    assert read_hf_model(folder, vocab_size=VOCAB_SIZE).config.context_length == 24


def test_more_ids_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InteropError, match="61 rows and the tokenizer 62 ids"):
        read_hf_model(exported(tmp_path), vocab_size=62)


def test_missing_damaged_and_pickled_files_are_named(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InteropError, match=r"model\.safetensors: truncated or damaged"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InteropError, match=r"no model\.safetensors and no model\.safetensors\.index\.json"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(InteropError, match=r"pytorch_model\.bin, a pickle.*save_pretrained"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
    (folder / "config.json").write_text("{")
    with pytest.raises(InteropError, match=r"config\.json: not JSON"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
    (folder / "config.json").unlink()
    with pytest.raises(InteropError, match=r"config\.json: No such file"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)


def test_a_missing_shard_and_a_tensor_that_no_shard_holds_are_named(tmp_path: Path) -> None:
    folder = exported(tmp_path)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    names = sorted(tensors)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in shards.items():
        safetensors.torch.save_file({name: tensors[name] for name in held}, folder / file)
    (folder / WEIGHTS).unlink()
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert len(read_hf_model(folder, vocab_size=VOCAB_SIZE).parameters) == len(names)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**weight_map, "lost.weight": "a.safetensors"}}))
    with pytest.raises(InteropError, match=r"lists lost\.weight, which no file holds"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    shutil.move(folder / "b.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(InteropError, match=r"b\.safetensors: missing"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "../b.safetensors"}}))
    with pytest.raises(InteropError, match="missing"):  # a path out of the folder is not followed
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
    (folder / INDEX).write_text("{}")
    with pytest.raises(InteropError, match="has no weight_map"):
        read_hf_model(folder, vocab_size=VOCAB_SIZE)
