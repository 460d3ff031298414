"""Tasks scored on a run, on a model in training, and through lm-evaluation-harness."""

from collections.abc import Iterator, Sequence
from typing import Any

from smalllm import runtime
from smalllm.config import RunConfig
from smalllm.errors import ConfigError
from smalllm.evaluation.likelihood import score_requests
from smalllm.evaluation.questions import Measures
from smalllm.evaluation.requests import Encoder
from smalllm.evaluation.tasks import OpenTask, open_task, spread
from smalllm.generation.text import prompt_ids
from smalllm.model.gpt import GPT
from smalllm.problems import task_problems
from smalllm.protocols import Progress, Silent, Tokenizer
from smalllm.run import Run


def open_tasks(tasks: Sequence[str], *, n_examples: int = 0, progress: Progress | None = None) -> list[OpenTask]:
    """Read tasks, each NAME or NAME=PATH; what is not here is fetched.

    Args:
        tasks: as the user writes them.
        n_examples: items of each to keep, spread evenly over it; 0: all.
        progress: told of downloads.

    Raises:
        ConfigError: a name that is not known, or no folder for what is fetched.
        DataError: a task's data are missing or cannot be used.
    """
    if wrong := list(task_problems(tasks, field="tasks")):
        raise ConfigError(wrong)
    notice = (progress or Silent()).say
    opened = []
    for task in tasks:
        name, _, given = task.partition("=")
        cache = runtime.cache_folder()
        opened.append(open_task(name, given=given or None, cache=cache, notice=notice, n_examples=n_examples))
    return opened


def run_tasks(
    run: Run, tasks: Sequence[str], *, n_examples: int = 0, progress: Progress | None = None
) -> dict[str, Measures]:
    """The measures of a run in each task: `open_tasks`, then `score_tasks`."""
    return score_tasks(run, open_tasks(tasks, n_examples=n_examples, progress=progress), progress=progress)


def score_tasks(run: Run, tasks: Sequence[OpenTask], *, progress: Progress | None = None) -> dict[str, Measures]:
    """The measures of a run in each task, by name.

    Args:
        run: a loaded run.
        tasks: as `open_tasks` gives them.
        progress: told what is scored.

    Raises:
        DataError: an ending does not fit into the model's context.
    """
    found, progress = {}, progress or Silent()
    for opened in tasks:
        progress.say(f"{opened.task.name}: {len(opened.items):,} to score")
        found[opened.task.name] = score_task(
            run.model, run.tokenizer, run.config, opened, device=run.device, precision=run.precision
        )
    return found


def score_sample(
    model: GPT, tokenizer: Tokenizer, config: RunConfig, tasks: Sequence[OpenTask]
) -> Iterator[dict[str, Any]]:
    """What a model in training scores on `eval.task_examples` of each task: the values of a row, lists left out."""
    for opened in tasks:
        some = OpenTask(opened.task, spread(opened.items, config.eval.task_examples))
        measures = score_task(
            model, tokenizer, config, some, device=config.train.device, precision=config.train.precision
        )
        yield {"task": opened.task.name, **{key: v for key, v in measures.items() if not isinstance(v, dict)}}


def score_task(
    model: GPT, tokenizer: Tokenizer, config: RunConfig, opened: OpenTask, *, device: str, precision: str
) -> Measures:
    """Encode, score and measure one task.

    Raises:
        DataError: an ending does not fit into the model's context.
    """
    encoder = task_encoder(tokenizer, config)
    groups = [opened.task.encode(item, encoder) for item in opened.items]
    found = score_requests(model, groups, device=device, precision=precision)
    return opened.task.measure(opened.items, found, tokenizer.vocab_size)


def task_encoder(tokenizer: Tokenizer, config: RunConfig) -> Encoder:
    """How prompts become ids for a model that was trained so: with the end token before them, where it saw one."""
    return Encoder(
        tokenizer=tokenizer,
        context_length=config.model.context_length,
        opening=tuple(prompt_ids("", tokenizer, config.data)),
    )
