"""lm-evaluation-harness over a run: any of its tasks, by `lm-eval:NAME`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from smalllm.api.tasks import task_encoder
from smalllm.api.text import open_decoder
from smalllm.errors import ConfigError, DataError, SmalllmError
from smalllm.evaluation.harness import Wish, make_language_model
from smalllm.generation.decoder import MOST_SLOTS
from smalllm.generation.engine import run_prompts
from smalllm.generation.sampling import SamplingConfig
from smalllm.generation.text import prompt_ids
from smalllm.protocols import Progress
from smalllm.run import Run

PREFIX = "lm-eval:"


def run_harness(
    run: Run, tasks: Sequence[str], manager: Any, *, n_examples: int = 0, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """What lm-evaluation-harness measures, by `lm-eval:NAME`.

    Args:
        run: a loaded run.
        tasks: names of its tasks or groups, or paths of its YAML files.
        manager: which knows them; of `check_harness`.
        n_examples: the first so many documents of each task; 0: all.
        progress: told what is scored.

    Raises:
        DataError: the data of a task could not be had.
    """
    import lm_eval

    model = make_language_model(
        run.model,
        task_encoder(run.tokenizer, run.config),
        device=run.device,
        precision=run.precision,
        generate=partial(_continue, run),
    )
    found: dict[str, dict[str, Any]] = {}
    for name in tasks:
        if progress is not None:
            progress.say(f"{PREFIX}{name}: by lm-evaluation-harness {lm_eval.__version__}")
        found[f"{PREFIX}{name}"] = _measures(_evaluated(model, name, manager, n_examples=n_examples), name)
    return found


def check_harness(tasks: Sequence[str]) -> Any:
    """The harness's task manager, which knows these tasks.

    Raises:
        ConfigError: lm-evaluation-harness is not installed, or knows no such task.
    """
    try:
        import lm_eval  # noqa: F401  (first, for a message about the package and not a part of it)
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f"lm-evaluation-harness, which {PREFIX}{tasks[0]} needs, is not installed ({error}); install it: "
            "pip install 'smalllm[lm-eval]'"
        ) from error
    manager = TaskManager()
    known = [*manager.all_tasks]
    if unknown := [name for name in tasks if name not in known and not Path(name).is_file()]:
        raise ConfigError([_unknown(name, known) for name in unknown])
    return manager


def _evaluated(model: Any, name: str, manager: Any, *, n_examples: int) -> dict[str, Any]:
    import lm_eval

    try:
        evaluated = lm_eval.simple_evaluate(
            model,
            tasks=[name],
            limit=n_examples or None,
            bootstrap_iters=0,
            log_samples=False,
            task_manager=manager,
        )
    except (SmalllmError, MemoryError):
        raise
    except Exception as error:  # the harness, datasets, jinja and the task's own code: each has its own
        if type(error).__name__ == "OutOfMemoryError":
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{PREFIX}{name}: lm-evaluation-harness could not run it ({reason}). Its data come from the Hugging "
            "Face Hub: check the connection, or run it once where there is one and keep the cache (HF_HOME)"
        ) from error
    return dict(evaluated or {})


def _unknown(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    hint = f'; did you mean "{PREFIX}{close[0]}"?' if close else ""
    return f"tasks has {PREFIX}{name!s}: none of the {len(known):,} tasks of lm-evaluation-harness{hint}"


def _measures(evaluated: dict[str, Any], name: str) -> dict[str, Any]:
    """Its results in our form: `acc,none` becomes `acc`, of a group each task by its name."""
    results = evaluated.get("results", {})
    flat = {task: {key.partition(",")[0]: v for key, v in found.items()} for task, found in results.items()}
    flat = {task: {k: v for k, v in found.items() if isinstance(v, int | float)} for task, found in flat.items()}
    own = flat.pop(Path(name).stem if Path(name).is_file() else name, None)
    counts = {task: n["effective"] for task, n in evaluated.get("n-samples", {}).items()}
    if own is None and len(flat) == 1:
        own = flat.popitem()[1]
    measures = {"n": sum(counts.values()), **(own or {})}
    return {**measures, "tasks": flat} if flat else measures


def _continue(run: Run, wishes: Sequence[Wish]) -> list[str]:
    """What is asked for, all together; the prompts cut from the left so that both fit into the context.

    A task that asks for several samples of a prompt repeats its wish; each wish has a seed of its own.
    """
    asked = []
    for number, wish in enumerate(wishes):
        context_length = run.config.model.context_length
        room = context_length - wish.n_tokens if wish.n_tokens < context_length else context_length
        sampling = SamplingConfig(
            temperature=wish.temperature, top_p=wish.top_p, max_tokens=wish.n_tokens, stop=wish.until, seed=number
        )
        ids = prompt_ids(wish.prompt, run.tokenizer, run.config.data)[-room:]
        asked.append((ids, sampling))
    decoder = open_decoder(run, n_slots=min(len(asked), MOST_SLOTS))
    return [run.tokenizer.decode(made.token_ids) for made in run_prompts(decoder, asked)]
