"""What is served: runs, each with a name, an engine, and a few facts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalllm.api.text import DecodePrecision, open_decoder
from smalllm.config import ModelConfig
from smalllm.errors import ConfigError
from smalllm.generation.decoder import MOST_SLOTS
from smalllm.generation.readers import weights_of
from smalllm.model.count import count_parameters
from smalllm.run import Run, load_run
from smalllm.rundir import read_jsonl
from smalllm.serving.engine import Engine
from smalllm.serving.errors import RequestError
from smalllm.serving.limits import LIMITS

_PROMPT_TOKENS = 512
"""Read in one step: those who are being written to wait for no more."""
_CACHE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Served:
    """A run that is served.

    Attributes:
        name: what requests call it.
        run: loaded.
        engine: not started yet.
        precision: of the weights that it decodes with.
        created: when its checkpoint was written [s since 1970].
        bits_per_byte: of its checkpoint on validation text, where it was measured.
    """

    name: str
    run: Run
    engine: Engine
    precision: str
    created: int
    bits_per_byte: float | None

    @property
    def context_length(self) -> int:
        """Tokens that the model sees."""
        return self.run.config.model.context_length

    def card(self) -> dict[str, Any]:
        """What `/v1/models` says of it."""
        run = self.run
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "smalllm",
            "context_length": self.context_length,
            "vocab_size": run.tokenizer.vocab_size,
            "eos_id": run.tokenizer.eos_id,
            "n_parameters": count_parameters(run.config.model, vocab_size=run.tokenizer.vocab_size).total,
            "recipe": run.config.recipe,
            "step": run.state.step,
            "precision": self.precision,
            "bits_per_byte": self.bits_per_byte,
        }


def load_models(
    runs: Sequence[str | Path],
    *,
    precision: DecodePrecision = "auto",
    n_slots: int | None = None,
    most_waiting: int = LIMITS.waiting,
) -> list[Served]:
    """Load runs, each with a decoder of its own.

    Args:
        runs: run directories, or single checkpoints.
        precision: of the weights; auto: each run's.
        n_slots: sequences at once, of each model; absent: 32, or as many as fit into 2 GiB of keys and values.
        most_waiting: see `Engine`.

    Raises:
        CheckpointError, RunError, TokenizerError: a run that cannot be loaded.
        ConfigError: the precision cannot be had here, or no slot.
    """
    loaded = [load_run(run) for run in runs]
    return [
        serve_run(run, name=name, precision=precision, n_slots=n_slots, most_waiting=most_waiting)
        for run, name in zip(loaded, _names(loaded), strict=True)
    ]


def serve_run(
    run: Run,
    *,
    name: str,
    precision: DecodePrecision = "auto",
    n_slots: int | None = None,
    most_waiting: int = LIMITS.waiting,
) -> Served:
    """A loaded run with an engine; see `load_models`."""
    if n_slots is not None and n_slots < 1:
        raise ConfigError(f"--slots {n_slots}: must be at least 1")
    n_slots = _slots_for(run.config.model) if n_slots is None else n_slots
    decoder = open_decoder(run, n_slots=n_slots, precision=precision, prompt_tokens=_PROMPT_TOKENS)
    rows = read_jsonl(run.dir.metrics) if run.dir.metrics.exists() else []
    measured = [row for row in rows if row.get("split") == "val" and row.get("step") == run.state.step]
    return Served(
        name=name,
        run=run,
        engine=Engine(decoder, prompt_tokens=_PROMPT_TOKENS, most_waiting=most_waiting),
        precision=weights_of(run.precision, run.device) if precision == "auto" else precision,
        created=int(run.checkpoint.stat().st_mtime),
        bits_per_byte=measured[-1].get("bits_per_byte") if measured else None,
    )


def find_model(models: Sequence[Served], name: str | None) -> Served:
    """The model of a request; it may be left out where there is one.

    Raises:
        RequestError: there is none of this name.
    """
    known = ", ".join(served.name for served in models)
    if name is None:
        if len(models) == 1:
            return models[0]
        raise RequestError(400, f"model: say which; served are {known}", param="model")
    for served in models:
        if served.name == name:
            return served
    said = f"model: {name[:60]!r} is not served; served are {known}"
    raise RequestError(404, said, param="model", code="model_not_found")


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of the run directories; where one is not enough, with the checkpoint's, then with a number."""
    names = [run.dir.path.resolve().name or "model" for run in runs]
    twins = {name for name, n in Counter(names).items() if n > 1}
    names = [f"{name}-{run.checkpoint.name}" if name in twins else name for name, run in zip(names, runs, strict=True)]
    found: list[str] = []
    for name in names:
        number = 2
        unique = name
        while unique in found:
            unique, number = f"{name}-{number}", number + 1
        found.append(unique)
    return found


def _slots_for(config: ModelConfig) -> int:
    n_kv_heads, d_head = config.n_kv_heads or config.n_heads, config.d_head or config.d_model // config.n_heads
    slot_bytes = 2 * config.n_layers * n_kv_heads * d_head * config.context_length * 4
    return max(2, min(MOST_SLOTS, _CACHE_BYTES // slot_bytes))
