"""The end of a run: the full evaluation of its best checkpoint, `result.json`, plots and report."""

from pathlib import Path
from typing import Any

from smalllm.api.scores import Exam, examine
from smalllm.api.tasks import run_tasks
from smalllm.api.text import generate
from smalllm.checkpoint import TrainState
from smalllm.data.manifest import Manifest
from smalllm.data.shards import open_split
from smalllm.data.stories import is_valid
from smalllm.generation.sampling import SamplingConfig
from smalllm.model.count import count_parameters
from smalllm.protocols import Progress
from smalllm.reporting import write_report
from smalllm.run import Run, load_run
from smalllm.rundir import RunDir, read_json, read_jsonl, write_json

STORIES_TO_CHECK = 100


def finish_run(run: RunDir, data: Path, manifest: Manifest, state: TrainState, *, progress: Progress) -> dict[str, Any]:
    """Evaluate the best checkpoint, write result, plots and report; returns the result.

    Done again at no harm: the result of a finished run is only read.

    Args:
        run: the run directory.
        data: its data directory.
        manifest: of the data.
        state: where the run ended; its best checkpoint may be an earlier one.
        progress: who is told how it goes.
    """
    if run.result.exists():
        result = read_json(run.result)
    else:
        progress.say("evaluating the best checkpoint")
        result = _result(run, data, manifest, state, progress)
        write_json(run.result, result)
    write_report(run)
    return result


def _result(run: RunDir, data: Path, manifest: Manifest, state: TrainState, progress: Progress) -> dict[str, Any]:
    loaded = load_run(run.path)
    config = loaded.config
    exam = Exam(data, manifest, loaded.tokenizer, config, max_tokens=config.eval.final_tokens)
    measures = examine(loaded, exam, open_split(data, manifest, "train"))
    tasks = run_tasks(loaded, config.eval.tasks, progress=progress)
    rows = [row for row in read_jsonl(run.metrics) if row["split"] == "train"]
    result: dict[str, Any] = {
        "recipe": config.recipe,
        "parameters": count_parameters(config.model, vocab_size=loaded.tokenizer.vocab_size).total,
        "steps": state.step,
        "tokens": state.tokens,
        "best_step": loaded.state.step,
        "train_time_s": round(state.elapsed_s, 3),
        "tokens_per_second": _median([row["tokens_per_second"] for row in rows]),
        "mfu": _median([row["mfu"] for row in rows]),
        "peak_memory_bytes": max((row["peak_memory_bytes"] for row in rows), default=None),
        "device": read_json(run.environment).get("device"),
        "val": {k: measures[k] for k in ("loss", "perplexity", "bits_per_token", "bits_per_byte", "accuracy")},
        "unigram": measures["unigram"],
        "tasks": tasks,
    }
    if "floor" in measures:
        result["floor"] = measures["floor"]
        result["generated"] = _generated(loaded)
    return result


def _generated(run: Run) -> dict[str, Any]:
    """The share of stories told by the model that are stories of the grammar, to the letter."""
    sampling = SamplingConfig(max_tokens=run.config.model.context_length - 1, seed=1)
    told = generate(run, sampling=sampling, n=STORIES_TO_CHECK)
    n_valid = sum(text.finish_reason == "stop" and is_valid(text.text) for text in told)
    return {"n": STORIES_TO_CHECK, "valid_share": n_valid / STORIES_TO_CHECK}


def _median(values: list[float]) -> float | None:
    """None where there are none: every update that was due for a row was refused."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None
