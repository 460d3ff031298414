"""The model card of an export (`README.md`), written from the run: nothing in it that was not measured or stored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smalllm.checkpoint import TrainState
from smalllm.config import DataConfig, RunConfig
from smalllm.interop.families import Family
from smalllm.interop.verify import Proof
from smalllm.model.count import count_parameters
from smalllm.recipes.resolve import resolve_shape

_SOURCES = {
    "stories": "stories told by a small grammar that comes with smalllm (synthetic English)",
    "python": "the source text of a Python standard library",
}


def model_card(
    name: str,
    family: Family,
    config: RunConfig,
    state: TrainState,
    *,
    vocab_size: int,
    result: Mapping[str, Any],
    origin: Mapping[str, Any],
    proof: Proof,
) -> str:
    """The text of a model card.

    Args:
        name: of the exported folder.
        family: its class.
        config: the run's configuration.
        state: of the exported checkpoint.
        vocab_size: real token ids.
        result: the run's `result.json`; empty where there is none.
        origin: what the weights started from ("path", "step", …); empty for new weights.
        proof: how the export was verified.
    """
    parts = [
        _head(name, config, vocab_size=vocab_size),
        _usage(name),
        _training(config, state, origin),
        _architecture(family, config, vocab_size=vocab_size),
        _numbers(result),
        _tasks(result),
        _limits(config),
        _proof(proof),
    ]
    return "\n".join(part for part in parts if part)


def _head(name: str, config: RunConfig, *, vocab_size: int) -> str:
    n_parameters = count_parameters(config.model, vocab_size=vocab_size).total
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- smalllm\n---\n\n"
        f"# {name}\n\n"
        f"A language model of {n_parameters:,} parameters, trained with smalllm (recipe `{config.recipe}`).\n"
        "It continues text; it follows no instructions.\n"
    )


def _usage(name: str) -> str:
    return (
        "## Use\n\n```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'folder = "{name}"  # the path of this folder\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        'inputs = tokenizer("Once upon a time", return_tensors="pt")\n'
        "output = model.generate(**inputs, max_new_tokens=100, do_sample=True, temperature=0.8, top_p=0.9)\n"
        "print(tokenizer.decode(output[0], skip_special_tokens=True))\n```\n"
    )


def _training(config: RunConfig, state: TrainState, origin: Mapping[str, Any]) -> str:
    lines = ["## Data and training\n"]
    if origin:
        lines.append(f"- Started from `{Path(str(origin.get('path', '?'))).name}`, not from new weights.")
    if state.step:
        optim, train = config.optim, config.train
        rates = f"{optim.lr:g}" + (f", Muon {optim.muon_lr:g}" if optim.kind == "muon" else "")
        lines += [
            f"- Data: {_data(config.data)}.",
            f"- {state.tokens:,} tokens: {state.step:,} steps of {train.tokens_per_step:,}, {state.elapsed_s:,.0f} s.",
            f"- {optim.kind}, peak learning rate {rates}, {optim.schedule} schedule, {train.precision}, "
            f"seed {train.seed}.",
        ]
    return "\n".join(lines) + "\n"


def _data(data: DataConfig) -> str:
    if data.files:
        names = [Path(file).name for file in data.files]
        return ", ".join(f"`{n}`" for n in names[:5]) + (f" and {len(names) - 5} more files" if len(names) > 5 else "")
    if data.source in _SOURCES:
        return _SOURCES[data.source]
    named = data.hub_name or data.url or data.source
    return f"`{named}`" + (f" ({data.hub_config})" if data.hub_config else "")


def _architecture(family: Family, config: RunConfig, *, vocab_size: int) -> str:
    m = resolve_shape(config.model)
    rows = [
        ("class", f"`{family.hf_class}`"),
        ("layers, width, MLP", f"{m.n_layers}, {m.d_model}, {m.d_ff}"),
        ("heads, key/value heads, width of a head", f"{m.n_heads}, {m.n_kv_heads}, {m.d_head}"),
        ("context", f"{m.context_length:,} tokens"),
        ("positions", "learned" if m.position == "learned" else f"rotary, theta {m.rope_theta:g}"),
        ("normalisation, MLP", f"{m.norm}, {m.mlp}" + (", query-key normalisation" if m.qk_norm else "")),
        ("embeddings", "tied" if m.tie_embeddings else "untied"),
        ("tokenizer", f"{config.tokenizer.kind}, {vocab_size:,} ids"),
    ]
    return "\n".join(["## Architecture\n", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows)]) + "\n"


def _numbers(result: Mapping[str, Any]) -> str:
    val, unigram = result.get("val") or {}, result.get("unigram") or {}
    if not val:
        return ""
    lines = [
        "## Results\n",
        "Of the run's best checkpoint on held-out text of the same source:\n",
        "| measure | model | unigram model |",
        "|---|---|---|",
        f"| bits per byte | {val['bits_per_byte']:.4f} | {_number(unigram.get('bits_per_byte'))} |",
        f"| loss [nats/token] | {val['loss']:.4f} | {_number(unigram.get('loss'))} |",
        f"| perplexity [tokens] | {val['perplexity']:.2f} | |",
        f"| next-token accuracy | {val['accuracy']:.1%} | |",
    ]
    if "floor" in result:
        lines.append(f"| lowest bits per byte that this text allows | {result['floor']['bits_per_byte']:.4f} | |")
    return "\n".join(lines) + "\n"


def _tasks(result: Mapping[str, Any]) -> str:
    """The scores of the run's tasks, with their standard errors and the level of chance."""
    rows = []
    for task, found in (result.get("tasks") or {}).items():
        for key, value in found.items() if isinstance(found, Mapping) else ():
            if key in ("n", "chance") or key.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = found.get(f"{key}_stderr")
            score = _number(value) + (f" ± {_number(error)}" if isinstance(error, int | float) else "")
            chance = _number(found.get("chance")) if key.startswith("acc") or key == "bits_per_byte" else ""
            rows.append(f"| `{task}` | {key} | {score} | {chance} | {found.get('n', '')} |")
    if not rows:
        return ""
    head = "| task | measure | score ± standard error | chance | questions |\n|---|---|---|---|---|\n"
    text = "Without examples before the question; what the measures are: docs/metrics.md of smalllm.\n\n"
    return f"## Tasks\n\n{text}{head}" + "\n".join(rows) + "\n"


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else ""


def _limits(config: RunConfig) -> str:
    return (
        "## Limits\n\n"
        f"- It sees {config.model.context_length:,} tokens at a time.\n"
        "- It writes what its training text made likely, true or not, and knows nothing else. It was not tuned to be "
        "helpful, safe or unbiased; do not rely on what it says.\n"
    )


def _proof(proof: Proof) -> str:
    return (
        "## Proof\n\n"
        f"Before this folder was given out, {proof.by} loaded it beside smalllm. It computed the logits of "
        f"{proof.n_positions:,} random ids (largest difference {proof.logit_difference:.1e}), the token ids of "
        f"{proof.n_texts} awkward texts (equal) and a greedy continuation of {proof.n_continued} tokens (equal).\n"
    )
