"""Recipes hold the values they are known for, and reading and overriding are strict."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.config import RunConfig, as_dict
from smalllm.errors import ConfigError
from smalllm.problems import problems
from smalllm.recipes import from_dict, load_recipe, override, recipe_names, recipe_text, save_config
from smalllm.recipes.resolve import Machine, resolve

LAPTOP = Machine(device="cpu", precision="fp32", can_compile=True, threads=4, peak_flops=1e11)
GPU = Machine(device="cuda", precision="bf16", can_compile=True, threads=8, peak_flops=1e15)
FLOPS = 1_000_000

KNOWN: dict[str, dict[str, Any]] = {
    "stories": {
        "data.source": "stories", "tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 4096,
        "model.norm": "rmsnorm", "model.mlp": "swiglu", "model.position": "rope", "model.qk_norm": True,
        "model.tie_embeddings": True, "model.n_layers": 2, "model.d_model": 256, "model.n_heads": 4,
        "model.d_ff": 512, "model.context_length": 256,
        "optim.kind": "muon", "optim.schedule": "linear", "optim.min_lr_ratio": 0.0,
    },
    "python": {
        "data.source": "python", "tokenizer.kind": "sentencepiece", "model.tie_embeddings": True,
        "optim.kind": "muon", "train.max_minutes": 10.0,
    },
    "shakespeare": {
        "data.source": "url", "tokenizer.kind": "bytes",
        "model.n_layers": 6, "model.d_model": 384, "model.n_heads": 6, "model.context_length": 256,
        "model.dropout": 0.2, "optim.lr": 1e-3, "optim.min_lr_ratio": 0.1,
        "train.tokens_per_step": 64 * 256, "train.max_steps": 5000,
    },
    "tinystories": {
        "data.source": "hub", "data.hub_name": "roneneldan/TinyStories", "data.val_split": "validation",
        "tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 16_000,
        "model.n_layers": 8, "model.d_model": 384, "model.n_heads": 6, "model.context_length": 512,
        "model.dropout": 0.1, "optim.lr": 3e-4, "optim.weight_decay": 0.1, "optim.warmup_steps": 2000,
        "optim.schedule": "cosine", "optim.min_lr_ratio": 0.1,
        "train.tokens_per_step": 256 * 512, "train.max_epochs": 10.0, "train.patience": 5,
    },
    "wikipedia": {
        "data.hub_name": "wikimedia/wikipedia", "data.shards": 9, "tokenizer.kind": "gpt2",
        "model.n_layers": 8, "model.d_model": 512, "model.n_heads": 8, "model.context_length": 192,
        "optim.lr": 8e-5, "optim.warmup_fraction": 0.05, "optim.schedule": "cosine",
        "train.tokens_per_step": 48 * 192, "train.max_steps": 50_000,
    },
    "tinystories-modern": {
        "data.hub_name": "roneneldan/TinyStories", "tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 16_000,
        "model.n_layers": 8, "model.d_model": 384, "model.n_heads": 6, "model.context_length": 512,
        "model.norm": "rmsnorm", "model.mlp": "swiglu", "model.qk_norm": False, "model.init": "zero",
        "model.tie_embeddings": False, "optim.kind": "muon", "optim.schedule": "cosine", "optim.min_lr_ratio": 0.1,
        "train.tokens_per_step": 256 * 512, "train.max_epochs": 10.0, "train.patience": 5,
    },
    "wikipedia-modern": {
        "data.hub_name": "wikimedia/wikipedia", "data.shards": 9, "tokenizer.kind": "gpt2",
        "model.n_layers": 8, "model.d_model": 512, "model.n_heads": 8, "model.context_length": 192,
        "model.norm": "rmsnorm", "model.mlp": "swiglu", "model.qk_norm": False, "model.init": "zero",
        "model.tie_embeddings": False, "optim.kind": "muon", "optim.schedule": "cosine", "optim.min_lr_ratio": 0.1,
        "train.tokens_per_step": 48 * 192, "train.max_steps": 50_000,
    },
    "wikipedia-stream": {
        "data.hub_name": "wikimedia/wikipedia", "data.mode": "stream", "tokenizer.kind": "huggingface",
        "tokenizer.path": "openai-community/gpt2",
        "model.n_layers": 12, "model.d_model": 768, "model.n_heads": 8, "model.context_length": 512,
        "optim.schedule": "hold", "optim.decay_embeddings": False, "optim.kind": "adamw",
        "train.precision": "bf16", "train.tokens_per_step": 512 * 512, "train.max_tokens": 300_000_000,
    },
    "wikipedia-stream-medium": {
        "data.hub_name": "wikimedia/wikipedia", "data.mode": "stream", "tokenizer.kind": "huggingface",
        "model.n_layers": 24, "model.d_model": 1024, "model.n_heads": 16, "model.context_length": 1024,
        "optim.schedule": "hold", "optim.decay_embeddings": False,
        "train.precision": "bf16", "train.tokens_per_step": 512 * 1024, "train.max_tokens": 300_000_000,
    },
    "fineweb-edu": {
        "data.hub_name": "HuggingFaceFW/fineweb-edu", "data.hub_config": "sample-10BT", "tokenizer.kind": "gpt2",
        "model.n_layers": 12, "model.d_model": 768, "model.n_heads": 12, "model.context_length": 1024,
        "model.position": "rope", "model.dropout": 0.1,
        "optim.lr": 6e-4, "optim.min_lr_ratio": 0.1, "optim.beta1": 0.9, "optim.beta2": 0.95, "optim.eps": 1e-8,
        "optim.warmup_fraction": 0.06, "optim.clip_norm": 1.0,
        "train.tokens_per_step": 65_536, "train.max_steps": 152_587,
    },
    "gpt2-124m": {
        "data.hub_name": "HuggingFaceFW/fineweb-edu", "tokenizer.kind": "gpt2",
        "model.n_layers": 12, "model.d_model": 768, "model.n_heads": 12, "model.context_length": 1024,
        "model.position": "learned", "model.norm": "layernorm", "model.mlp": "gelu", "model.bias": True,
        "optim.lr": 6e-4, "optim.weight_decay": 0.1, "optim.warmup_steps": 715,
        "train.tokens_per_step": 524_288, "train.max_steps": 19_073,
    },
    "llama-tiny": {
        "data.hub_name": "roneneldan/TinyStories", "tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 4096,
        "model.n_layers": 6, "model.d_model": 288, "model.n_heads": 6, "model.context_length": 256,
        "model.norm": "rmsnorm", "model.mlp": "swiglu", "model.position": "rope", "optim.kind": "adamw",
    },
}  # fmt: skip


def flat(config: RunConfig) -> dict[str, Any]:
    """Dotted fields to values, absent ones left out."""
    sections = {name: value for name, value in as_dict(config).items() if isinstance(value, dict)}
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


# --- the recipes


def test_every_recipe_has_its_known_values_here() -> None:
    assert recipe_names() == sorted(KNOWN)


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_holds_its_known_values(name: str) -> None:
    found = flat(load_recipe(name))
    assert {key: found.get(key) for key in KNOWN[name]} == KNOWN[name]


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_loads_resolves_and_comes_back_from_a_file(name: str, tmp_path: Path) -> None:
    config = load_recipe(name)
    assert config.recipe == name
    assert problems(config) == []
    for machine in (LAPTOP, GPU):
        resolved, notices = resolve(config, machine, vocab_size=1000, train_tokens=100_000_000, flops_per_token=FLOPS)
        assert problems(resolved) == [] and notices == []
        for stored in (config, resolved):
            save_config(stored, tmp_path / "run" / "config.toml")
            assert load_recipe(str(tmp_path / "run" / "config.toml")) == stored
            assert load_recipe(str(tmp_path / "run")) == stored  # a run directory stands for its configuration
        again = resolve(resolved, machine, vocab_size=1000, train_tokens=100_000_000, flops_per_token=FLOPS)
        assert again == (resolved, [])  # nothing is derived twice


def test_recipes_say_what_they_are_in_a_comment() -> None:
    assert all(recipe_text(name).startswith("# ") for name in recipe_names())


def test_files_of_ones_own_are_named_after_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[optim]\nlr = 1\n")
    config = load_recipe(str(path))
    assert (config.recipe, config.optim.lr, type(config.optim.lr)) == ("mine", 1.0, float)


# --- strict reading


def test_everything_wrong_is_reported_at_once_with_the_nearest_name() -> None:
    table = {
        "modle": {"n_layers": 3},
        "optim": {"quux": 1e-3, "schedule": "cosin", "lr": "fast", "beta": 0.9},
        "train": {"max_steps": 1.5, "compile": "yes", "seed": True, "save_evry": 3},
        "data": {"files": "a.txt"},
        "eval": 3,
        "lr": 1,
    }
    with pytest.raises(ConfigError) as caught:
        from_dict(table, where="my.toml")
    assert caught.value.problems == (
        'my.toml: modle: no such section; did you mean "model"?',
        "my.toml: optim.quux: no such field",
        'my.toml: optim.schedule = \'cosin\': must be "cosine" or "linear" or "hold" or "constant"; '
        'did you mean "cosine"?',
        "my.toml: optim.lr = 'fast': must be a number",
        'my.toml: optim.beta: no such field; did you mean "optim.beta2"?',
        "my.toml: train.max_steps = 1.5: must be a whole number",
        "my.toml: train.compile = 'yes': must be true or false or \"auto\"",
        "my.toml: train.seed = True: must be a whole number",
        'my.toml: train.save_evry: no such field; did you mean "train.save_every"?',
        "my.toml: data.files = 'a.txt': must be a list of texts",
        "my.toml: eval = 3: must be a section, [eval]",
        'my.toml: lr: no such field; did you mean "optim.lr"?',
    )


@pytest.mark.parametrize("name", ["data.path", "tokenizer.path", "tokenizer.kind", "optim.kind", "model.n_layers"])
def test_the_nearest_name_is_one_of_the_same_section(name: str) -> None:
    section, _, key = name.partition(".")
    with pytest.raises(ConfigError, match=rf'did you mean "{section}\.{key}"\?'):
        from_dict({section: {key + "s": 1}})


def test_unreadable_files_and_unknown_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe or file is called 'tinystorys'; did you mean \"tinystories\"\?"):
        load_recipe("tinystorys")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
    (tmp_path / "latin.toml").write_bytes(b"recipe = '\xe9'")
    with pytest.raises(ConfigError, match=r"latin\.toml: not a readable TOML file"):
        load_recipe(str(tmp_path / "latin.toml"))
    with pytest.raises(ConfigError, match="no recipe or file"):
        load_recipe(str(tmp_path))


TOML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["recipe", "model", "optim", "train", "other"]),
        TOML_VALUES | st.dictionaries(st.sampled_from(["lr", "n_layers", "norm", "compile"]), TOML_VALUES),
    )
)
def test_any_table_is_a_configuration_or_a_configuration_error(table: dict[str, Any]) -> None:
    try:
        config = from_dict(table)
    except ConfigError as error:
        assert error.problems
    else:
        assert from_dict(as_dict(config)) == config or config != config  # a NaN differs from itself


# --- override


def test_override_changes_only_what_is_named() -> None:
    before = load_recipe("tinystories")
    after = override(before, {"optim.lr": 1, "data.files": ["b", "a"], "model.d_ff": 7, "train.max_epochs": None})
    assert (after.optim.lr, after.data.files, after.model.d_ff) == (1.0, ("b", "a"), 7)
    assert after.train.max_epochs is None and before.train.max_epochs == 10.0
    changed = {key for key in flat(before) | flat(after) if flat(before).get(key) != flat(after).get(key)}
    assert changed == {"optim.lr", "data.files", "model.d_ff", "train.max_epochs"}
    assert override(before, {}) == before
    assert override(before, {"recipe": "mine"}).recipe == "mine"


def test_none_gives_a_field_its_default() -> None:
    assert override(load_recipe("shakespeare"), {"optim.lr": None}).optim.lr == RunConfig().optim.lr


def test_override_reports_everything_wrong_at_once() -> None:
    wrong = {
        "optim.lrr": 1,
        "optim.lr.x": 1,
        "nope.a.b": 1,
        "model": 3,
        "model.n_layers": "two",
        "train.max_step": None,
    }
    with pytest.raises(ConfigError) as caught:
        override(RunConfig(), wrong)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "optim.lrr", "optim.lr.x", "nope.a.b", "model", "train.max_step", "model.n_layers = 'two'",
    ]  # fmt: skip
    assert 'did you mean "optim.lr"?' in caught.value.problems[0]
