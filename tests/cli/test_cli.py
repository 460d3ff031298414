"""The command line: help, exit codes, spellings, what goes to stdout and what to stderr."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import smalllm
from run_helpers import options_of, prepared_config, train_until
from smalllm import cli
from smalllm.cli.options import given_fields, parse, split_recipe
from smalllm.cli.progress import stopped
from smalllm.cli.train import Options
from smalllm.config import RunConfig
from smalllm.errors import ConfigError
from smalllm.recipes import recipe_names
from smalllm.rundir import RunDir

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    train_until(2, prepared_config(folder), folder / "run")
    return folder / "run"


def call(*words: str) -> int:
    """The exit code, whether it was returned or exited with."""
    try:
        return cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def parsed(*words: str) -> RunConfig:
    config, rest, name = split_recipe(words, command="train")
    options = parse(Options, rest, command=f"train {name}", config=config)
    run_config: RunConfig = options.config
    return run_config


def test_help_is_quick() -> None:
    times_s = []
    for _ in range(3):
        began_at = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "smalllm", "--help"], capture_output=True, text=True, check=True)
        times_s.append(time.perf_counter() - began_at)
    assert min(times_s) < 0.5
    assert done.stdout.startswith("usage: smalllm COMMAND") and not done.stderr


def test_what_help_does_not_import() -> None:
    """The partner of its speed: these cost seconds, and are loaded when a command needs them."""
    script = (
        "import sys, smalllm.cli; smalllm.cli.main(['--help']); print([m for m in sys.argv[1:] if m in sys.modules])"
    )
    heavy = ["torch", "numpy", "tyro", "rich", "pyarrow", "tokenizers", "sentencepiece", "tiktoken", "matplotlib"]
    done = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help(capsys: Captured, words: list[str]) -> None:
    assert call(*words) == 0
    shown = capsys.readouterr()
    assert all(f"\n  {command}" in shown.out for command in cli.COMMANDS) and not shown.err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_each_command(capsys: Captured, command: str) -> None:
    assert call(command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: smalllm {command}") and len(shown.splitlines()) > 3


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_the_help_of_a_recipe_lists_every_field(capsys: Captured, command: str) -> None:
    assert call(command, "shakespeare", "--help") == 0
    shown = capsys.readouterr().out
    names = [f"{s}.{f}" for s in ("model", "data", "optim", "train", "eval") for f in getattr(RunConfig(), s).__slots__]
    assert len(names) > 60 and [name for name in names if f"--{name}" not in shown] == []
    assert "384" in shown  # with the recipe's own values


def test_version(capsys: Captured) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"smalllm {smalllm.__version__}\n"


@pytest.mark.parametrize(("wrong", "right"), [("trian", "train"), ("evalute", "evaluate"), ("generat", "generate")])
def test_an_unknown_command(capsys: Captured, wrong: str, right: str) -> None:
    assert call(wrong) == 2
    shown = capsys.readouterr()
    assert f'no command is called {wrong!r}; did you mean "{right}"?' in shown.err and not shown.out
    assert call("xyzzy") == 2 and "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_an_unknown_recipe(capsys: Captured, command: str) -> None:
    assert call(command, "shakespear") == 2
    assert 'did you mean "shakespeare"?' in capsys.readouterr().err
    assert call(command) == 2
    assert "no recipe was given" in capsys.readouterr().err
    assert call(command, "--out", "x", "shakespeare") == 2
    assert "write it first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["train", "shakespeare", "--train.max_step", "3"], "--train.max_steps"),
        (["train", "shakespeare", "--optim.learning_rate", "3"], "--optim."),
        (["prepare", "shakespeare", "--data.file", "x"], "--data.files"),
        (["evaluate", "x", "--task", "loss"], "--tasks"),
        (["generate", "x", "--promt", "a"], "--prompt"),
    ],
)
def test_an_unknown_option(capsys: Captured, words: list[str], nearest: str) -> None:
    assert call(*words) == 2
    shown = capsys.readouterr()
    assert nearest in shown.err and not shown.out


@pytest.mark.parametrize(
    "words",
    [
        ["train", "shakespeare", "--train.max_steps", "many"],
        ["train", "shakespeare", "--train.compile", "maybe"],
        ["train", "shakespeare", "--optim.kind", "sgd"],
        ["train", "shakespeare", "--model.bias"],
        ["train", "shakespeare", "--out"],
        ["evaluate"],
        ["generate"],
        ["generate", "x", "--preset", "wild"],
        ["report"],
        ["recipes", "a", "b"],
        ["recipes", "storys"],
        ["doctor", "now"],
    ],
    ids=" ".join,
)
def test_wrong_words_exit_with_2(capsys: Captured, words: list[str]) -> None:
    assert call(*words) == 2
    shown = capsys.readouterr()
    assert shown.err.strip() and not shown.out and "Traceback" not in shown.err


def test_all_problems_are_reported_together(capsys: Captured) -> None:
    assert call("train", "shakespeare", "--model.n_heads", "5", "--optim.lr", "-1", "--model.dropout", "1") == 2
    said = capsys.readouterr().err
    for name in ("model.d_model = 384: must be a multiple", "optim.lr = -1.0", "model.dropout = 1.0"):
        assert name in said


@pytest.mark.parametrize(
    "words",
    [
        ["--train.max_steps", "7", "--model.qk_norm", "true", "--data.val_fraction", "0.5"],
        ["--train.max-steps", "7", "--model.qk-norm", "true", "--data.val-fraction", "0.5"],
        ["--train.max_steps=7", "--model.qk-norm=true", "--data.val-fraction=.5"],
        ["--train.max-steps=7", "--model.qk_norm=True", "--data.val_fraction=5e-1"],
    ],
)
def test_spellings(words: list[str]) -> None:
    config = parsed("shakespeare", *words)
    assert (config.train.max_steps, config.model.qk_norm, config.data.val_fraction) == (7, True, 0.5)
    assert given_fields(words, config) == {"train.max_steps": 7, "model.qk_norm": True, "data.val_fraction": 0.5}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("auto", "auto"), ("False", False)])
def test_booleans_and_auto(text: str, value: object) -> None:
    assert parsed("shakespeare", "--train.compile", text).train.compile is value or value == "auto"
    assert parsed("shakespeare", f"--train.compile={text}").train.compile == value


def test_true_is_a_word_where_a_text_is_wanted() -> None:
    config = parsed("shakespeare", "--eval.sample_prompts", "true", "--data.text_column", "false")
    assert config.eval.sample_prompts == ("true",) and config.data.text_column == "false"


def test_lists_take_several_values() -> None:
    config = parsed("shakespeare", "--data.files", "a.txt", "b c.txt", "*.md", "--train.seed", "3")
    assert config.data.files == ("a.txt", "b c.txt", "*.md") and config.train.seed == 3
    assert given_fields(["--data.files", "a.txt", "b c.txt", "*.md"], config)["data.files"] == config.data.files


def test_options_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[optim]\nlr = 0.5\n[train]\nmax_steps = 3\n")
    config = parsed(str(tmp_path / "my.toml"), "--train.max_steps", "4")
    assert (config.optim.lr, config.train.max_steps, config.optim.beta1) == (0.5, 4, RunConfig().optim.beta1)
    assert config.recipe == "my"


def test_recipes(capsys: Captured) -> None:
    assert call("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert call("recipes", "shakespeare") == 0
    shown = capsys.readouterr().out
    assert "[model]" in shown and "tinyshakespeare" in shown


def test_evaluate(capsys: Captured, out: Path) -> None:
    assert call("evaluate", str(out), "--json") == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert set(result) == {"run", "checkpoint", "results"} and shown.out.count("\n") == 1
    loss = result["results"]["loss"]
    assert {"loss", "perplexity", "bits_per_token", "bits_per_byte", "accuracy"} <= set(loss)
    assert call("evaluate", str(out)) == 0
    assert f"loss           {loss['loss']:.4f} ± {loss['loss_stderr']:.4f}" in capsys.readouterr().out


def test_generate(capsys: Captured, out: Path) -> None:
    words = ["generate", str(out), "--prompt", "the cat", "--max-tokens", "8", "--seed", "5"]
    assert call(*words) == 0
    plain = capsys.readouterr().out
    assert plain.startswith("the cat") and plain.endswith("\n")
    assert call(*words, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["prompt"] + made["texts"][0]["text"] == plain[:-1]
    assert set(made["texts"][0]) == {"text", "finish_reason", "n_tokens", "n_dropped"}
    assert call(*words, "--json", "--n", "3") == 0
    three = json.loads(capsys.readouterr().out)["texts"]
    assert three[0] == made["texts"][0] and len({text["text"] for text in three}) == 3
    assert call(*words, "--n", "2") == 0
    assert capsys.readouterr().out.count("\n---\n") == 1
    assert call(*words, "--preset", "greedy", "--json") == 0
    greedy = capsys.readouterr().out
    assert call(*words, "--temperature", "0", "--json", "--seed", "6") == 0
    assert capsys.readouterr().out == greedy


def test_a_prompt_longer_than_the_context_is_cut_and_said(capsys: Captured, out: Path) -> None:
    assert call("generate", str(out), "--prompt", "the cat sat on the mat", "--max_tokens", "2") == 0
    shown = capsys.readouterr()
    assert "the prompt has 22 tokens and the model sees 16: only its end is used" in shown.err
    assert shown.out.startswith("the cat sat on the mat")


def test_train_and_report(capsys: Captured, tmp_path: Path) -> None:
    config = prepared_config(tmp_path)
    assert config.data.path is not None
    given: dict[str, Any] = {"model.n_layers": 1, "model.n_heads": 2, "model.d_model": 32, "model.context_length": 16}
    given |= {"train.tokens_per_step": 128, "train.max_steps": 3, "train.compile": False, "train.precision": "fp32"}
    given |= {"train.threads": 1, "optim.warmup_steps": 0, "data.path": config.data.path, "eval.tokens": 128}
    words = ["train", "shakespeare", "--out", str(tmp_path / "run"), *options_of(given)]
    assert call(*words, "--json") == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["steps"] == 3 and "validation loss" in shown.err
    # The same again: refused without --resume, at once complete with it, and only then printed for people.
    assert call(*words) == 1 and "holds a run already; continue it with --resume" in capsys.readouterr().err
    assert call(*words, "--resume") == 0
    shown = capsys.readouterr()
    assert f"validation loss {result['val']['loss']:.4f}" in shown.out and "report.html" in shown.out
    page = tmp_path / "run" / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert call("report", str(tmp_path / "run")) == 0
    assert capsys.readouterr().out == f"{page}\n" and page.read_bytes() == before


def test_a_report_of_an_unfinished_run(capsys: Captured, out: Path) -> None:
    assert not RunDir(out).result.exists()
    assert call("report", str(out)) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()


def test_doctor(capsys: Captured) -> None:
    assert call("doctor", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"device", "device_kind", "cores", "peak_flops", "precision", "matmul_flops", "torch"} <= set(facts)
    assert facts["peak_flops"] > 1e8


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        cli.main(["train", "nothing", "--debug"])
    assert call("train", "nothing") == 2


def test_the_reader_of_the_output_may_go_away() -> None:
    command = f"{sys.executable} -m smalllm recipes | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize(("saved_steps", "said"), [(7, "everything is saved"), (4, "saved up to step 4")])
def test_what_is_saved_of_a_stopped_run_is_said(saved_steps: int, said: str) -> None:
    result = {"stopped": "SIGTERM", "steps": 7, "saved_steps": saved_steps}
    assert stopped(result) == f"stopped by SIGTERM at step 7; {said}"
