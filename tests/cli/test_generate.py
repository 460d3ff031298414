"""`smalllm generate`: many prompts, writing together, options and what is refused; and `bench generate`."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from generation_helpers import BACKENDS
from run_helpers import prepared_config, train_until
from smalllm import cli, generate, generate_many, load_run
from smalllm.cli.interactive import Session, complete
from smalllm.compiler import load_library
from smalllm.generation.sampling import SamplingConfig

Captured = pytest.CaptureFixture[str]
SAMPLING = SamplingConfig(max_tokens=6, seed=4)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    train_until(2, prepared_config(folder), folder / "run")
    return folder / "run"


def call(*words: str) -> int:
    try:
        return cli.main(("generate", *words))
    except SystemExit as stop:
        return int(stop.code or 0)


# --- many prompts


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_prompts_from_a_file(capsys: Captured, out: Path, tmp_path: Path, name: str) -> None:
    prompts = ["the cat", "a dog saw", "h"]
    lines = prompts if name == "p.txt" else [json.dumps(prompts[0]), *(json.dumps({"prompt": p}) for p in prompts[1:])]
    (tmp_path / name).write_text("\n".join(lines) + "\n\n")
    words = [str(out), "--prompts", str(tmp_path / name), "--max-tokens", "6", "--seed", "4", "--preset", "greedy"]
    assert call(*words, "--json", "--n", "2") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["prompt"] for one in found] == prompts and all(len(one["texts"]) == 2 for one in found)
    assert call(*words) == 0
    shown = capsys.readouterr().out
    assert shown == "\n---\n".join(p + one["texts"][0]["text"] for p, one in zip(prompts, found, strict=True)) + "\n"


def test_many_prompts_are_those_of_one_call_each(out: Path) -> None:
    run, prompts = load_run(out), ["the cat", "", "a dog saw the hen"]
    many = generate_many(run, prompts, sampling=SAMPLING, n=2)
    assert many == [generate(run, prompt, sampling=SAMPLING, n=2) for prompt in prompts]
    assert many[0] != many[2] and generate_many(run, []) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no prompt"),
        (b"\xff", "cannot be read"),
        (b'{"prompt": 3}\n"a"\n', "1 lines that are none"),
        (b"{", "no prompt"),
    ],
)
def test_a_file_without_prompts(capsys: Captured, out: Path, tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    assert call(str(out), "--prompts", str(path)) == 2 and says in capsys.readouterr().err
    assert call(str(out), "--prompts", str(tmp_path / "none")) == 2 and "cannot be read" in capsys.readouterr().err
    assert call(str(out), "--prompts", str(path), "--prompt", "x") == 2
    assert "cannot be together" in capsys.readouterr().err


# --- options


def test_log_probabilities_stop_texts_and_bias(capsys: Captured, out: Path) -> None:
    words = [str(out), "--prompt", "the", "--max-tokens", "8", "--json"]
    assert call(*words, "--logprobs", "2", "--logit-bias", "97=100", "98=-inf", "--preset", "greedy") == 0
    (text,) = json.loads(capsys.readouterr().out)["texts"]
    assert text["text"] == "aaaaaaaa" and len(text["tokens"]) == 8
    assert all(
        token["id"] == 97 and token["logprob"] < 0 and len(token["alternatives"]) == 2 for token in text["tokens"]
    )
    assert call(*words, "--logit-bias", "97=100", "--stop", "x", "aaa") == 0
    (text,) = json.loads(capsys.readouterr().out)["texts"]
    assert text == {"text": "", "finish_reason": "stop", "n_tokens": 3, "n_dropped": 0}


@pytest.mark.skipif("compiled" not in BACKENDS, reason="decode.cpp cannot be compiled here")
def test_int8(capsys: Captured, out: Path) -> None:
    assert call(str(out), "--precision", "int8", "--max-tokens", "4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["texts"][0]["n_tokens"] <= 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--min-p", "1.5"], "min_p = 1.5: must be 0 (off) to 1"),
        (["--presence-penalty", "nan"], "presence_penalty = nan"),
        (["--frequency-penalty", "-200"], "frequency_penalty = -200.0: must be -100 to 100"),
        (["--logprobs", "21"], "logprobs = 21: must be 0 to 20"),
        (["--stop", ""], "stop = ('',): must be texts that are not empty"),
        (["--logit-bias", "a=1"], "--logit-bias a=1: must be a token id"),
        (["--logit-bias", "3=nan"], "--logit-bias 3=nan"),
        (["--logit-bias", "999=1"], "token ids below 257"),
        (["--logit-bias", "3=1", "3=2"], "each once"),
        (
            ["--past-context", "stop", "--prompt", "the cat sat on the mat"],
            "the prompt has 22 tokens and the model sees 16",
        ),
        (["--past-context", "jump"], "jump"),
        (["--precision", "int4"], "int4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options(capsys: Captured, out: Path, words: list[str], says: str) -> None:
    assert call(str(out), *words) == 2
    shown = capsys.readouterr()
    assert says in shown.err and "Traceback" not in shown.err


# --- writing together


def test_a_session(capsys: Captured, out: Path) -> None:
    run = load_run(out)
    session = Session(run, SAMPLING)
    session.take("the cat")
    first = session.text
    assert first.startswith("the cat") and first == "the cat" + generate(run, "the cat", sampling=SAMPLING)[0].text
    assert capsys.readouterr().out == first + "\n"
    session.take("")  # goes on
    assert session.text.startswith(first) and len(session.text) > len(first)
    session.take(" and")
    session.take("/undo")
    session.take("/undo")
    assert session.text == first
    session.take("/retry")
    assert session.text.startswith("the cat") and session.text != first
    session.take("/new")
    assert session.text == "" and not capsys.readouterr().err
    session.take("/undo")
    assert "nothing was written yet" in capsys.readouterr().err
    session.take("//comment")
    assert session.text.startswith("/comment")


def test_settings_of_a_session(capsys: Captured, out: Path) -> None:
    session = Session(load_run(out), SAMPLING)
    for line in ("/temperature 0.5", "/top-k 3", '/stop "the end"', "/logit_bias 97=5 98=-inf", "/max_tokens 2"):
        session.take(line)
    changed = session.sampling
    assert (changed.temperature, changed.top_k, changed.stop, changed.max_tokens) == (0.5, 3, ("the end",), 2)
    assert changed.logit_bias == ((97, 5.0), (98, -float("inf")))
    capsys.readouterr()
    for line, says in {
        "/temperature hot": "/temperature hot: must be a number",
        "/temperature -1": "temperature = -1.0: must be 0 or more",
        "/temprature 1": "did you mean /temperature?",
        "/logit_bias 999=1": "token ids below 257",
        "/preset wild": "must be greedy, conservative, nucleus",
        "/": "see /help",
    }.items():
        session.take(line)
        assert says in capsys.readouterr().err
        assert session.sampling == changed
    session.take("/temperature")
    assert capsys.readouterr().out == "  temperature 0.5\n"
    session.take("/preset greedy")
    assert session.sampling.temperature == 0 and session.sampling.max_tokens == 2
    session.take("/help")
    session.take("/settings")
    shown = capsys.readouterr().out
    assert "/undo" in shown and "top_k 0" in shown
    session.take("/quit")
    assert session.is_over


def test_interactive_on_the_command_line(capsys: Captured, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the hen\n/max_tokens 0\n/text\n"))
    assert call(str(out), "--interactive", "--max-tokens", "5", "--prompt", "a cat") == 0
    shown = capsys.readouterr()
    assert "a cat" in shown.out and "the hen" in shown.out and "max_tokens = 0: must be at least 1" in shown.err


# --- how fast


def test_bench_generate(capsys: Captured, out: Path) -> None:
    words = ["bench", "generate", str(out), "--batches", "1", "3", "--rounds", "1", "--prompt-tokens", "4"]
    precisions = ["fp32", "bf16"] + ["int8"] * ("compiled" in BACKENDS)
    words += ["--new-tokens", "6", "--precisions", *precisions]
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ways = {rate["way"] for rate in found["rates"]}
    assert {f"smalllm, {precision}" for precision in precisions} <= ways
    assert all(rate["tokens_per_second"] > 0 and len(rate["rounds"]) == 1 for rate in found["rates"])
    theirs = [rate for rate in found["rates"] if rate["way"].startswith("transformers")]
    assert all(rate["ratio"] == 1 for rate in theirs) and len(theirs) in (0, 4)
    assert cli.main([*words, "--alone"]) == 0 and "prompt tokens/s" in capsys.readouterr().out
    assert cli.main([*words, "--new-tokens", "1"]) == 2 and "--new-tokens at least 2" in capsys.readouterr().err
    assert cli.main([*words, "--new-tokens", "16"]) == 2 and "together more than the context" in capsys.readouterr().err


def test_bench_generate_where_nothing_is_compiled(
    capsys: Captured, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/none/g++")
    load_library.cache_clear()
    words = ["bench", "generate", str(out), "--batches", "1", "--rounds", "1", "--prompt-tokens", "4"]
    words += ["--new-tokens", "3", "--alone", "--json"]
    try:
        assert cli.main(words) == 0
        shown = capsys.readouterr()
        assert [rate["way"] for rate in json.loads(shown.out)["rates"]] == ["smalllm, fp32", "smalllm, bf16"]
        assert "int8 is left out: only the compiled decoder has it, and /none/g++" in shown.err
        assert cli.main([*words, "--precisions", "fp32", "int8"]) == 2  # asked for
        assert 'precision = "int8": only the compiled decoder has it' in capsys.readouterr().err
    finally:
        load_library.cache_clear()


def test_a_run_in_fp16_is_decoded_off_cuda_too(capsys: Captured, out: Path) -> None:
    run = load_run(out, device="cpu", precision="fp16")
    assert generate(run, "the cat", sampling=SAMPLING) == generate(run, "the cat", sampling=SAMPLING, precision="fp32")
    assert call(str(out), "--prompt", "a", "--precision", "fp16") == 2
    assert 'precision = "fp16", which only CUDA has' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/te", ["/temperature", "/text"]),
        ("/preset n", ["nucleus"]),
        ("/past_context ", ["slide", "stop"]),
        ("/temperature 0", []),
        ("te", []),
        ("", []),
    ],
)
def test_tab_completes_commands_and_their_values(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


def test_tab_completes_in_a_terminal(out: Path) -> None:
    """As a user presses it: /pres Tab space n Tab."""
    pty = pytest.importorskip("pty")
    pytest.importorskip("readline")
    words = [sys.executable, "-m", "smalllm", "generate", str(out), "--interactive"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"}
    ) as child:
        os.close(theirs)
        seen = b""
        try:
            for told, typed in ((b"> ", b"/pres\tn\t\n/settings\n/quit\n"),):
                while told not in seen:
                    seen += os.read(ours, 4096)
                os.write(ours, typed)
            while piece := os.read(ours, 4096):
                seen += piece
        except OSError:  # the other side is closed: it has ended
            pass
        finally:
            child.kill()
            os.close(ours)
    assert b"temperature 0.8" in seen and b"top_p 0.9" in seen
