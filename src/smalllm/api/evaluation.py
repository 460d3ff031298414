"""`evaluate`: a run on its validation split or another text, and in tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalllm.api.data import data_path, load_data
from smalllm.api.harness import PREFIX, check_harness, run_harness
from smalllm.api.scores import Exam, check_stride, compare_unigram, examine, read_blocks
from smalllm.api.tasks import open_tasks, score_tasks
from smalllm.config import TASK_NAMES, DataConfig
from smalllm.data.foreign import is_foreign
from smalllm.data.shards import TokenStream, open_split
from smalllm.data.sources import expand_files, read_files
from smalllm.errors import ConfigError, SmalllmError
from smalllm.evaluation.batches import Window, padded_batches, sliding_windows
from smalllm.evaluation.details import Details
from smalllm.evaluation.loss import score_model
from smalllm.evaluation.unigram import count_tokens
from smalllm.problems import task_problems
from smalllm.protocols import Progress, Tokenizer
from smalllm.reporting.words import shell
from smalllm.run import Run, check_tokenizer, load_run


def evaluate(
    run: Run | str | Path,
    *,
    tasks: Sequence[str] = ("loss",),
    data: Path | None = None,
    text: Path | None = None,
    stride: int | None = None,
    tokens: int = 0,
    examples: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a run on held-out text and in tasks.

    Args:
        run: a loaded run, or the path of one: a run directory (its best checkpoint) or a checkpoint.
        tasks: what to measure: "loss", a task as NAME or NAME=PATH, or "lm-eval:NAME" for one of
            lm-evaluation-harness.
        data: another data directory of the same tokenizer, or a folder of another program's shards, which are taken
            for its own, to score "loss" on; absent: the run's own, of which the validation split is scored.
        text: a file or folder of text to score "loss" on instead.
        stride: windows overlap and score so many new tokens each; absent: they follow each other.
        tokens: score about so many; 0: all of the text.
        examples: questions of each task, spread evenly over it; 0: all.
        progress: told what another program's shards were taken for, and what is scored.

    Returns:
        `{"run", "checkpoint", "results": {"loss": {…, "unigram": …, "floor": …}, "hellaswag": {…}}}`.

    Raises:
        ConfigError: an unknown task, or options that do not go together.
        CheckpointError, DataError, TokenizerError: the run or the data cannot be used.
    """
    ours = [task for task in tasks if not task.startswith(PREFIX)]
    theirs = [task.removeprefix(PREFIX) for task in tasks if task.startswith(PREFIX)]
    _check(ours, tasks, data=data, text=text, tokens=tokens, examples=examples)
    run = run if isinstance(run, Run) else load_run(run)
    opened = open_tasks([task for task in ours if task != "loss"], n_examples=examples, progress=progress)
    manager = check_harness(theirs) if theirs else None  # before minutes of scoring
    results: dict[str, Any] = {}
    if "loss" in ours:
        if text is not None:
            results["loss"] = _score_text(run, text, stride=stride, max_tokens=tokens)
        else:
            results["loss"] = _score_split(run, data, stride=stride, max_tokens=tokens, progress=progress)
    results |= score_tasks(run, opened, progress=progress)
    if theirs:
        results |= run_harness(run, theirs, manager, n_examples=examples, progress=progress)
    return {"run": str(run.dir.path), "checkpoint": run.checkpoint.name, "results": results}


def _check(
    ours: Sequence[str], tasks: Sequence[str], *, data: Path | None, text: Path | None, tokens: int, examples: int
) -> None:
    wrong = list(task_problems(ours, field="tasks", allowed=("loss", *TASK_NAMES)))
    if any(task.startswith("loss=") for task in ours):
        wrong.append("tasks has loss=…: the text is given by --text FILE, or --data for prepared tokens")
    if not tasks:
        wrong.append(f"tasks is empty: name some of loss, {', '.join(TASK_NAMES)}, {PREFIX}NAME")
    if data is not None and text is not None:
        wrong.append("data and text: both say what to score; give one of them")
    if (data is not None or text is not None) and "loss" not in tasks:
        wrong.append("data and text are for the task loss, which is not among the tasks; add it")
    for name, value in (("tokens", tokens), ("examples", examples)):
        if value < 0:
            wrong.append(f"{name} = {value}: must be 1 or more, or 0 for all")
    if wrong:
        raise ConfigError(wrong)


def _score_split(
    run: Run, data: Path | None, *, stride: int | None, max_tokens: int, progress: Progress | None
) -> dict[str, Any]:
    directory = data or data_path(run.config)
    manifest, tokenizer = load_data(
        directory,
        command=shell(["smalllm", "prepare", str(run.dir.config), "--out", str(directory)]),
        data=run.config.data if data is None else replace(run.config.data, val_files=()),  # those are of its own data
        tokenizer=lambda: run.tokenizer,
        progress=progress,
    )
    check_tokenizer(tokenizer, run.tokenizer.fingerprint, where=str(run.checkpoint))
    exam = Exam(directory, manifest, tokenizer, run.config, max_tokens=max_tokens, stride=stride)
    return examine(run, exam, open_split(directory, manifest, "train"))


def _score_text(run: Run, text: Path, *, stride: int | None, max_tokens: int) -> dict[str, Any]:
    """Every token of every document, the first one after the end token; no end token is scored."""
    tokenizer, context_length = run.tokenizer, run.config.model.context_length
    stride = context_length if stride is None else stride
    check_stride(stride, context_length=context_length)
    details = Details(context_length=context_length, vocab_size=tokenizer.vocab_size)
    windows = _text_windows(
        text, tokenizer, run.config.data, context_length=context_length, stride=stride, max_tokens=max_tokens
    )
    score = score_model(
        run.model,
        padded_batches(windows, fill_id=tokenizer.eos_id),
        token_byte_lengths=tokenizer.token_byte_lengths,
        device=run.device,
        precision=run.precision,
        details=details,
    )
    measures: dict[str, Any] = score.measures() | details.measures()
    counts = _train_counts(run)
    measures["by_frequency"] = details.by_frequency(details.tokens_of if counts is None else counts)
    if counts is not None:
        measures["unigram"] = compare_unigram(counts, details, tokenizer)
    return measures | {"scored_tokens": score.tokens, "scored_bytes": score.text_bytes}


def _text_windows(
    path: Path, tokenizer: Tokenizer, data: DataConfig, *, context_length: int, stride: int, max_tokens: int
) -> Iterator[Window]:
    left = max_tokens or None
    for ids in _documents(path, tokenizer, data):
        ids = ids[: None if left is None else left + 1]
        stream = TokenStream([(str(path), ids)], vocab_size=tokenizer.vocab_size)
        yield from sliding_windows(stream.read, len(ids), context_length=context_length, stride=stride)
        if left is not None:
            left -= len(ids) - 1
            if left <= 0:
                return


def _documents(path: Path, tokenizer: Tokenizer, data: DataConfig) -> Iterator[NDArray[np.int64]]:
    """The ids of each document of a text, the end token before them; found as those of the run's own text were."""
    parts: list[int] = []
    for piece in read_files(expand_files([str(path)]), separator=data.separator, text_column=data.text_column):
        parts += tokenizer.encode(piece.text)
        if piece.final:
            yield np.array([tokenizer.eos_id, *parts], dtype=np.int64)
            parts = []


def _train_counts(run: Run) -> NDArray[np.int64] | None:
    """Token frequencies of the run's own training text; None where it is not here."""
    directory = data_path(run.config)
    if not (directory / "manifest.json").exists() and not is_foreign(directory):
        return None
    try:
        manifest, tokenizer = load_data(
            directory, command="", data=run.config.data, tokenizer=lambda: run.tokenizer, progress=None
        )
        check_tokenizer(tokenizer, run.tokenizer.fingerprint, where=str(run.checkpoint))
        blocks = read_blocks(open_split(directory, manifest, "train"))
        return count_tokens(blocks, vocab_size=tokenizer.vocab_size)
    except SmalllmError:  # damaged, or another text by now: the score of this one does not need it
        return None
