"""Every field is described and bounded; every problem of a configuration is named at once; writing loses nothing."""

import ast
import inspect
import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm import config as config_module
from smalllm.config import (
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TokenizerConfig,
    TrainConfig,
    as_dict,
    field_names,
)
from smalllm.errors import ConfigError
from smalllm.problems import check, problems
from smalllm.recipes import from_dict, load_recipe, override, save_config

NUMBERS = {
    f"{section}.{key}": type(value)
    for section, values in as_dict(RunConfig()).items()
    if isinstance(values, dict)
    for key, value in values.items()
    if type(value) in (int, float)
}


def described_fields(source: str) -> dict[str, dict[str, str | None]]:
    """Per dataclass, the text under each of its fields."""
    found: dict[str, dict[str, str | None]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            texts: dict[str, str | None] = {}
            for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    texts[statement.target.id] = str(after.value.value) if is_text else None  # type: ignore[union-attr]
            found[node.name] = texts
    return found


def test_every_field_says_what_it_is() -> None:
    described = described_fields(inspect.getsource(config_module))
    for section in (ModelConfig, DataConfig, TokenizerConfig, OptimConfig, TrainConfig, EvalConfig):
        assert described[section.__name__].keys() == set(field_names(section))
        assert all(described[section.__name__].values()), section
    assert described_fields("class A:\n    x: int = 1\n    y: int = 2\n    'text'") == {"A": {"x": None, "y": "text"}}


def test_configurations_cannot_be_changed_or_misspelt() -> None:
    with pytest.raises(AttributeError):
        ModelConfig().n_layers = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        ModelConfig(n_layer=3)  # type: ignore
    with pytest.raises(TypeError):
        ModelConfig(3)  # type: ignore


def test_as_dict_leaves_out_what_is_absent_and_lists_what_is_a_tuple() -> None:
    found = as_dict(RunConfig(data=DataConfig(files=("a", "b"))))
    assert found["data"]["files"] == ["a", "b"]
    assert "d_ff" not in found["model"] and "max_steps" not in found["train"]
    assert found["eval"]["sample_prompts"] == [""]
    assert list(found) == [f.name for f in fields(RunConfig)]


# --- problems


def test_defaults_have_no_problem() -> None:
    assert problems(RunConfig()) == []
    config = RunConfig()
    assert check(config) is config


WRONG: list[tuple[str, Any, str]] = [
    *((name, 0, "must be at least 1") for name in NUMBERS if name.startswith("model.n_")),
    ("model.context_length", 0, "must be at least 1"),
    ("model.n_kv_heads", 0, "must be at least 1"),
    ("model.d_ff", -4, "must be at least 1"),
    ("model.dropout", 1.0, "must be 0 or more and less than 1"),
    ("model.dropout", math.nan, "must be 0 or more and less than 1"),
    ("model.rope_theta", 0.0, "must be more than 0"),
    ("data.val_fraction", -0.1, "must be 0 or more and less than 1"),
    ("data.shards", 0, "must be at least 1"),
    ("tokenizer.vocab_size", 0, "must be at least 1"),
    ("optim.lr", -1e-3, "must be 0 or more"),
    ("optim.lr", math.inf, "must be 0 or more"),
    ("optim.beta2", 1.0, "must be 0 or more and less than 1"),
    ("optim.eps", 0.0, "must be more than 0"),
    ("optim.min_lr_ratio", 1.5, "must be 0 to 1"),
    ("optim.warmup_steps", -1, "must be 0 or more"),
    ("train.max_minutes", 0.0, "must be more than 0"),
    ("train.log_every", 0, "must be at least 1"),
    ("train.seed", 2**63, "must be 0 or more, below 2^63"),
    ("train.seed", -1, "must be 0 or more, below 2^63"),
    ("eval.tokens", 0, "must be at least 1"),
    ("eval.every", -1, "must be 0 or more"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_a_value_out_of_range_is_named_with_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    assert f"{name} = {value}: {allowed}" in problems(override(RunConfig(), {name: value}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model.d_model": 100}, "model.d_model = 100: must be a multiple of model.n_heads = 6"),
        ({"model.d_model": 18}, "d_model / n_heads = 3 must be even"),
        ({"model.n_kv_heads": 4}, "model.n_kv_heads = 4: must divide model.n_heads = 6"),
        ({"data.source": "url"}, "data.url is absent"),
        ({"data.source": "hub"}, "data.hub_name is absent"),
        ({"data.separator": ""}, 'data.separator = "": must not be empty'),
        ({"data.sha256": "AB"}, "data.sha256 = 'AB': must be 64 lower-case hex digits"),
        ({"data.document_mask": True, "data.packing": "padded"}, 'data.packing = "padded" leaves nothing to mask'),
        ({"optim.warmup_steps": 5, "optim.warmup_fraction": 0.1}, "give one of them"),
        ({"train.tokens_per_step": 16_000}, "a multiple of model.context_length = 256, for example 16128"),
        ({"train.tokens_per_step": 100}, "for example 256"),
        ({"train.micro_batch_size": 5}, "must divide the 64 windows of train.tokens_per_step = 16384"),
    ],
)
def test_values_that_do_not_go_together_are_named(changes: dict[str, Any], problem: str) -> None:
    found = problems(override(RunConfig(), changes))
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"model.d_model": 18, "model.position": "learned"},  # nothing is rotated
        {"data.source": "url", "data.files": ["a.txt"]},  # files replace the recipe's source
        {"data.source": "hub", "data.hub_name": "a/b"},
        {"data.sha256": "0" * 64},
        {"model.n_kv_heads": 3},
        {"train.micro_batch_size": 16},
        {"optim.lr": 0.0, "optim.clip_norm": 0.0, "eval.every": 0, "train.save_every": 0},
    ],
    ids=str,
)
def test_values_that_are_allowed_are_no_problem(changes: dict[str, Any]) -> None:
    assert problems(override(RunConfig(), changes)) == []


def test_all_problems_are_raised_at_once() -> None:
    wrong = override(RunConfig(), {"model.dropout": 2.0, "optim.lr": -1.0, "model.n_kv_heads": 4, "data.source": "url"})
    with pytest.raises(ConfigError) as caught:
        check(wrong)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == [
        "optim.lr", "model.dropout", "model.n_kv_heads", "data.url",
    ]  # fmt: skip
    assert str(caught.value).splitlines() == list(caught.value.problems)


def test_one_wrong_number_does_not_break_the_checks_of_others() -> None:
    nothing = dict.fromkeys(["model.context_length", "model.n_heads", "model.d_model", "train.tokens_per_step"], 0)
    found = problems(override(RunConfig(), nothing | {"train.micro_batch_size": 4, "model.n_kv_heads": 2}))
    assert [problem.partition(" = ")[0] for problem in found] == [
        "model.n_heads", "model.d_model", "model.context_length", "train.tokens_per_step",
    ]  # fmt: skip


WILD = {int: st.integers(), float: st.floats()}
CHANGES = st.lists(st.sampled_from(sorted(NUMBERS)), max_size=6, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: WILD[NUMBERS[name]] for name in names})
)
OPTIONAL = st.fixed_dictionaries(
    {},
    optional={
        name: st.integers()
        for name in ("model.n_kv_heads", "model.d_ff", "train.micro_batch_size", "train.max_steps", "train.threads")
    },
)


@given(changes=CHANGES, optional=OPTIONAL, huge=st.sampled_from([None, "train.seed", "train.tokens_per_step"]))
def test_wild_numbers_give_sentences_and_never_an_exception(
    changes: dict[str, Any], optional: dict[str, int], huge: str | None
) -> None:
    changes = changes | optional | ({huge: 10**400 + 1} if huge else {})
    for problem in problems(override(RunConfig(), changes)):
        name, _, rest = problem.partition(" ")
        assert name.partition(".")[0] in as_dict(RunConfig())
        assert rest


# --- writing and reading

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    files=st.lists(TEXTS, max_size=4),
    separator=st.none() | TEXTS,
    lr=st.floats(allow_nan=False),
    seed=st.integers(0, 2**63 - 1),
    compile_it=st.sampled_from([True, False, "auto"]),
    minutes=st.none() | st.floats(0, 1e9),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[str],
    separator: str | None,
    lr: float,
    seed: int,
    compile_it: Any,
    minutes: float | None,
) -> None:
    config = RunConfig(
        recipe="any",
        data=DataConfig(files=tuple(files), separator=separator),
        optim=OptimConfig(lr=lr),
        train=TrainConfig(seed=seed, compile=compile_it, max_minutes=minutes),
    )
    assert from_dict(as_dict(config)) == config
    path = tmp_path_factory.mktemp("config") / "config.toml"
    save_config(config, path)
    assert load_recipe(str(path)) == config
    assert load_recipe(str(path)) != replace(config, optim=OptimConfig(lr=1.0 if lr != 1.0 else 2.0))


def test_sections_are_dataclasses_of_their_own() -> None:
    assert [f.name for f in fields(RunConfig) if is_dataclass(f.type)] == [
        "model", "data", "tokenizer", "optim", "train", "eval", "track",
    ]  # fmt: skip
