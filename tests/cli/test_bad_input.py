"""Bad input of every kind: a message that names the culprit, the right exit code, never a traceback."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from run_helpers import make_text, options_of, prepared_config, rewrite_json, train_until
from smalllm import cli
from smalllm.recipes import save_config

Captured = pytest.CaptureFixture[str]
SHAPE = options_of(
    {
        "model.n_layers": 1,
        "model.n_heads": 2,
        "model.d_model": 32,
        "model.context_length": 16,
        "train.tokens_per_step": 128,
        "train.max_steps": 2,
        "train.compile": False,
        "train.threads": 1,
        "optim.warmup_steps": 0,
    }
)
TRAIN = ["train", "shakespeare", "--data.path", "data", "--out", "new", *SHAPE]
PREPARE = ["prepare", "shakespeare", "--out", "new", "--tokenizer.kind", "bytes"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and a run of it, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("template")
    config = prepared_config(folder)
    save_config(config, folder / "my.toml")
    train_until(2, config, folder / "run")
    return folder


@pytest.fixture
def here(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of the template."""
    shutil.copytree(template, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    text = Path("run/config.toml").read_text()
    Path("run/config.toml").write_text(text.replace(str(template), "."))
    return tmp_path / "here"


def complaint(capsys: Captured, *words: str, code: int) -> str:
    """What the command says when it fails as it should."""
    try:
        found = cli.main(words)
    except SystemExit as stop:
        found = int(stop.code or 0)
    shown = capsys.readouterr()
    assert found == code, (found, shown.err)
    assert shown.err.strip() and "Traceback" not in shown.err and "Traceback" not in shown.out
    return shown.err


def test_the_same_words_work_with_good_input(here: Path, capsys: Captured) -> None:
    """The partner of every test here: it is the input that is refused, not the command."""
    assert cli.main(["evaluate", "run", "--json"]) == 0
    assert cli.main(["generate", "run", "--max_tokens", "1"]) == 0
    assert cli.main(["report", "run"]) == 0
    assert cli.main([*PREPARE, "--data.files", "text.txt"]) == 0
    shutil.rmtree("new")
    assert cli.main([*TRAIN, "--eval.tokens", "128", "--train.max_steps", "1"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def write(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)


def parquet_without_text(name: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [1], "body": ["x"]}), name)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("absent.txt", lambda name: None, ["absent.txt", "matches no file"]),
        ("empty.txt", lambda name: write(name, b""), ["empty.txt is empty"]),
        ("blank.txt", lambda name: write(name, b"\n" * 50), ["blank.txt", "nothing but newlines"]),
        ("binary.txt", lambda name: write(name, b"text\0more"), ["binary.txt is not text: byte 4"]),
        ("latin.txt", lambda name: write(name, "caf\xe9 au lait".encode("latin-1")), ["latin.txt", "UTF-8: byte 3"]),
        ("cut.txt", lambda name: write(name, "a\u732b".encode()[:-1]), ["cut.txt", "UTF-8: byte 1"]),
        ("fake.parquet", lambda name: write(name, b"PAR1 not really"), ["fake.parquet", "not a whole Parquet file"]),
        ("other.parquet", parquet_without_text, ["other.parquet", "no column 'text'", "'id', 'body'", "text_column"]),
        ("bad.jsonl", lambda name: write(name, b'{"text": "a"}\n{"text"\n'), ["bad.jsonl:2", "not JSON"]),
        ("key.jsonl", lambda name: write(name, b'{"body": "a"}\n'), ["key.jsonl:1 has no 'text'", "'body'"]),
        ("list.jsonl", lambda name: write(name, b"[1]\n"), ["list.jsonl:1 is not a JSON object"]),
        ("half.txt.gz", lambda name: write(name, b"\x1f\x8b\x08"), ["half.txt.gz"]),
        ("folder", lambda name: Path(name).mkdir(), ["folder", "holds no text files"]),
    ],
)  # fmt: skip
def test_bad_text(here: Path, capsys: Captured, name: str, make: Callable[[str], None], says: list[str]) -> None:
    make(name)
    said = complaint(capsys, *PREPARE, "--data.files", name, code=1)
    assert all(part in said for part in says), said
    assert not Path("new/manifest.json").exists()


def test_text_too_short_for_two_splits(here: Path, capsys: Captured) -> None:
    write("one.jsonl", b'{"text": "a"}\n')
    said = complaint(capsys, *PREPARE, "--data.files", "one.jsonl", code=1)
    assert "val" in said


@pytest.mark.parametrize("split", ["train", "val"])
def test_text_shorter_than_a_window(here: Path, capsys: Captured, split: str) -> None:
    write("train.txt", b"0123456789" if split == "train" else b"0123456789" * 9)
    write("val.txt", b"0123456789" * 9 if split == "train" else b"0123456789")
    assert cli.main([*PREPARE, "--data.files", "train.txt", "--data.val_files", "val.txt"]) == 0
    said = complaint(capsys, *TRAIN, "--out", "other", "--data.path", "new", code=1)
    assert f"The {split} split has 11 tokens; one window of context_length 16 needs 17" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model.n_heads", "5"], "model.d_model = 32: must be a multiple of model.n_heads = 5"),
        (["--model.n_kv_heads", "3"], "model.n_kv_heads = 3: must divide model.n_heads = 2"),
        (["--model.d_model", "34", "--model.position", "rope"], "must be even"),
        (["--model.n_layers", "0"], "model.n_layers = 0: must be at least 1"),
        (["--train.tokens_per_step", "100"], "must be a multiple of model.context_length = 16"),
        (["--train.micro_batch_size", "3"], "must divide the 8 windows"),
        (["--optim.lr", "nan"], "optim.lr = nan"),
        (["--optim.lr", "-1"], "optim.lr = -1.0: must be 0 or more"),
        (["--model.dropout", "1"], "model.dropout = 1.0: must be 0 or more and less than 1"),
        (["--train.max_steps", "None"], "nothing says how long to train"),
        (["--train.precision", "tf32"], "only NVIDIA GPUs have it"),
        (["--optim.warmup_fraction", "0.1"], "give one of them"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_configurations(here: Path, capsys: Captured, words: list[str], says: str) -> None:
    assert says in complaint(capsys, *TRAIN, *words, code=2)
    assert not Path("new/config.toml").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none(here: Path, capsys: Captured) -> None:
    said = complaint(capsys, *TRAIN, "--train.device", "cuda", code=2)
    assert 'train.device = "cuda"' in said and "cpu" in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[model\n", "not valid TOML"),
        (b"\xff\xfe", "not a readable TOML file"),
        (b"[model]\nlayers = 3\n", 'model.layers: no such field; did you mean "model.n_layers"?'),
        (b"[modle]\n", "modle: no such section; did you mean"),
        (b"model = 3\n", "must be a section"),
        (b'[train]\nmax_steps = "3"\n', "train.max_steps = '3': must be a whole number"),
        (b'[optim]\nkind = "adam"\n', 'must be "adamw" or "muon"; did you mean "adamw"?'),
        (b"[train]\nmax_steps = true\n", "must be a whole number"),
    ],
)
def test_bad_recipes(here: Path, capsys: Captured, content: bytes, says: str) -> None:
    write("bad.toml", content)
    assert says in complaint(capsys, "train", "bad.toml", code=2)


def test_a_folder_as_recipe(here: Path, capsys: Captured) -> None:
    assert "no recipe or file is called 'data'" in complaint(capsys, "train", "data", code=2)


def flip(path: str) -> None:
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    write(path, bytes(content))


def too_large_id() -> None:
    """An id outside the vocabulary, under a manifest that agrees with the altered file."""
    import hashlib

    shard = Path("data/train-00000.bin")
    content = bytearray(shard.read_bytes())
    for offset in range(0, len(content), 2):
        content[offset : offset + 2] = (300).to_bytes(2, "little")
    shard.write_bytes(content)
    manifest = json.loads(Path("data/manifest.json").read_text())
    manifest["splits"]["train"]["files"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    rewrite_json(Path("data/manifest.json"), **manifest)


def without_key() -> None:
    manifest = json.loads(Path("data/manifest.json").read_text())
    del manifest["dtype"]
    Path("data/manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda: write("data/train-00000.bin", b"12"), ["train-00000.bin: the file has 2 bytes"]),
        (lambda: flip("data/train-00000.bin"), ["train-00000.bin: the file was altered", "prepare the data again"]),
        (lambda: flip("data/val-00000.bin"), ["val-00000.bin: the file was altered"]),
        (lambda: Path("data/val-00000.bin").unlink(), ["val-00000.bin: the file is missing"]),
        (lambda: write("data/manifest.json", b"{"), ["manifest.json: damaged (", "Prepare the data again"]),
        (lambda: write("data/manifest.json", b"\xff"), ["manifest.json: not UTF-8"]),
        (lambda: write("data/manifest.json", b"[]"), ["manifest.json", "no manifest of smalllm"]),
        (without_key, ["key dtype is missing"]),
        (lambda: rewrite_json(Path("data/manifest.json"), dtype="uint32"), ["key dtype", "uint16"]),
        (lambda: rewrite_json(Path("data/manifest.json"), version=9), ["version is 9", "Upgrade smalllm"]),
        (too_large_id, ["train-00000.bin: token", "is 300", "vocab_size, 257"]),
        (lambda: shutil.rmtree("data/tokenizer"), ["holds no smalllm tokenizer"]),
        (lambda: write("data/tokenizer/smalllm.json", b"{"), ["smalllm.json is not JSON"]),
        (lambda: shutil.rmtree("data"), ["no prepared data here", "smalllm prepare shakespeare --data.path data"]),
        (lambda: Path("data/manifest.json").unlink(), ["no prepared data here"]),
    ],
)  # fmt: skip
def test_damaged_data(here: Path, capsys: Captured, damage: Callable[[], None], says: list[str]) -> None:
    damage()
    said = complaint(capsys, *TRAIN, code=1)
    assert all(part in said for part in says), said


def file_for_run() -> None:
    shutil.rmtree("run")
    write("run", b"x")


CHECKPOINT = "run/checkpoints/step-00000002"


@pytest.mark.parametrize("command", ["evaluate", "generate"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda: flip(f"{CHECKPOINT}/model.safetensors"), ["model.safetensors", "sha256 is not the manifest's"]),
        (lambda: write(f"{CHECKPOINT}/optimizer.safetensors", b""), ["optimizer.safetensors: has 0 bytes"]),
        (lambda: write(f"{CHECKPOINT}/manifest.json", b"{}"), ["manifest.json: damaged"]),
        (lambda: shutil.rmtree("run/checkpoints"), ["run: a run without a checkpoint yet"]),
        (lambda: shutil.rmtree("run"), ["run: neither a run directory nor a checkpoint"]),
        (file_for_run, ["run: neither a run directory nor a checkpoint"]),
        (lambda: Path("run/config.toml").unlink(), ["config.toml: missing"]),
        (lambda: shutil.rmtree("run/tokenizer"), ["run/tokenizer holds no smalllm tokenizer"]),
    ],
)  # fmt: skip
def test_damaged_runs(
    here: Path, capsys: Captured, command: str, damage: Callable[[], object], says: list[str]
) -> None:
    damage()
    said = complaint(capsys, command, "run", code=1)
    assert all(part in said for part in says), said


@pytest.mark.parametrize("content", [b"[model\n", b"\xff", b"[model]\nd_model = 'x'\n"])
def test_a_run_with_a_damaged_configuration(here: Path, capsys: Captured, content: bytes) -> None:
    write("run/config.toml", content)
    assert "run/config.toml" in complaint(capsys, "evaluate", "run", code=2)
    assert "run/config.toml" in complaint(capsys, "train", "my.toml", "--out", "run", "--resume", code=2)


def test_a_run_of_another_shape(here: Path, capsys: Captured) -> None:
    text = Path("run/config.toml").read_text()
    Path("run/config.toml").write_text(text.replace("d_model = 32", "d_model = 64"))
    said = complaint(capsys, "evaluate", "run", code=1)
    assert "has shape" in said and "the model wants" in said
    Path("run/config.toml").write_text(text.replace("n_layers = 1", "n_layers = 2"))
    assert "does not hold this model: missing" in complaint(capsys, "evaluate", "run", code=1)


def test_a_run_of_another_configuration(here: Path, capsys: Captured) -> None:
    said = complaint(capsys, "train", "my.toml", "--out", "run", "--resume", "--model.d_model", "64", code=2)
    assert "model.d_model = 64" in said and "was started with 32" in said and "choose another --out" in said


def test_damaged_metrics(here: Path, capsys: Captured) -> None:
    write("run/metrics.jsonl", b"5\n" + Path("run/metrics.jsonl").read_bytes())
    assert "run/metrics.jsonl:1: not a JSON object" in complaint(
        capsys, "train", "my.toml", "--out", "run", "--resume", code=1
    )
    assert "run/metrics.jsonl:1" in complaint(capsys, "report", "run", code=1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--top_p", "0"], "top_p = 0.0: must be more than 0, at most 1"),
        (["--top-p", "1.5"], "top_p = 1.5"),
        (["--temperature", "-1"], "temperature = -1.0: must be 0 or more"),
        (["--temperature", "nan"], "temperature = nan"),
        (["--top_k", "-3"], "top_k = -3"),
        (["--repetition_penalty", "0"], "repetition_penalty = 0.0"),
        (["--max_tokens", "0"], "max_tokens = 0"),
        (["--seed", "-1"], "seed = -1"),
        (["--n", "0"], "n = 0: must be at least 1"),
        (["--prompt", "caf\udce9"], "--prompt is not UTF-8"),
    ],
    ids=lambda value: " ".join(value).encode("ascii", "replace").decode() if isinstance(value, list) else "",
)
def test_bad_sampling(here: Path, capsys: Captured, words: list[str], says: str) -> None:
    assert says in complaint(capsys, "generate", "run", *words, code=2)


def test_bad_tasks(here: Path, capsys: Captured) -> None:
    cases = {
        "helaswag": 'did you mean "hellaswag"?',
        "": "tasks is empty: name some of loss, hellaswag",
        "piqa=a.jsonl,piqa=b.jsonl": "tasks has piqa twice",
        "blimp=": "nothing stands after the =",
        "loss=text.txt": "the text is given by --text FILE",
    }
    for tasks, says in cases.items():
        assert says in complaint(capsys, "evaluate", "run", "--tasks", tasks, code=2)
    both = ("--text", "a.txt", "--data", "data")
    assert "both say what to score" in complaint(capsys, "evaluate", "run", *both, code=2)
    assert "for the task loss" in complaint(capsys, "evaluate", "run", "--text", "a.txt", "--tasks", "piqa", code=2)
    assert "stride = 0: must be from 1" in complaint(capsys, "evaluate", "run", "--stride", "0", code=2)
    for option in ("--tokens", "--examples"):
        said = complaint(capsys, "evaluate", "run", "--tasks", "loss,piqa", option, "-3", code=2)
        assert f"{option[2:]} = -3: must be 1 or more, or 0 for all" in said
    assert "blimp=no.jsonl: no such file" in complaint(capsys, "evaluate", "run", "--tasks", "blimp=no.jsonl", code=1)
    words = ("evaluate", "run", "--data", "nowhere", "--tasks", "loss,blimp=no.jsonl")
    assert "blimp=no.jsonl: no such file" in complaint(capsys, *words, code=1)  # before anything is scored
    assert "eval.tasks has 'loss'" in complaint(capsys, "train", "shakespeare", "--eval.tasks", "loss", code=2)


def test_places_that_cannot_be_written(here: Path, capsys: Captured) -> None:
    write("file", b"precious")
    for place in ("file", "file/below"):
        words = [place if word == "new" else word for word in TRAIN]
        assert f"{place}: cannot be used as a run directory" in complaint(capsys, *words, code=1)
        words = [place if word == "new" else word for word in PREPARE]
        assert place in complaint(capsys, *words, "--data.files", "text.txt", code=1)
    assert Path("file").read_bytes() == b"precious"
    assert "data: not a run directory" in complaint(capsys, "report", "data", code=1)


NOBODY = """
import contextlib, io, json, os, sys
import smalllm.api, smalllm.cli.prepare, smalllm.cli.train
from smalllm.cli import main

with contextlib.suppress(SystemExit):
    main(["train", "shakespeare", "--help"])  # what is imported late is imported now, with the rights to
if os.geteuid() == 0:
    os.seteuid(65534)
for words in json.loads(sys.argv[1]):
    print("exit", main(words), file=sys.stderr)
"""


def test_no_permission(here: Path) -> None:
    """In a process that has no rights here but to read, were the user root."""
    here.chmod(0o755)
    Path("closed").mkdir(mode=0o555)
    Path("secret.txt").write_text(make_text())
    Path("secret.txt").chmod(0o000)
    Path("open").mkdir()
    Path("open").chmod(0o777)
    calls = [
        ["prepare", "shakespeare", "--data.files", "secret.txt", "--out", "open/x"],
        ["prepare", "shakespeare", "--data.files", "text.txt", "--out", "closed/x"],
        ["train", "shakespeare", "--data.path", "data", "--out", "closed/run", *SHAPE],
    ]
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, json.dumps(calls)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr and done.stderr.count("exit 1\n") == 3, done.stderr
    secret, prepare, train = done.stderr.split("exit 1\n")[:3]
    assert "secret.txt cannot be read (Permission denied)" in secret
    assert "Permission denied" in prepare and "closed/x" in prepare
    assert "closed/run: cannot be used as a run directory (Permission denied); choose another --out" in train
    assert not list(Path("closed").iterdir())


def test_a_model_larger_than_memory(here: Path, capsys: Captured) -> None:
    said = complaint(capsys, *TRAIN, "--model.d_model", str(2**40), code=1)
    assert "out of memory" in said and "use a smaller --train.micro_batch_size, or a smaller model" in said


def test_a_seed_beyond_64_bits(here: Path, capsys: Captured) -> None:
    complaint(capsys, *TRAIN, "--train.seed", str(2**70), code=2)


def test_a_full_disk_says_what_to_do() -> None:
    import errno

    from smalllm.cli import _explained

    full = _explained(OSError(errno.ENOSPC, "No space left on device", "there/page.html"))
    assert full is not None and full[0] == 1
    assert "there/page.html" in full[1] and "make some room there" in full[1]
    denied = _explained(PermissionError(errno.EACCES, "Permission denied", "there"))
    assert denied == (1, "[Errno 13] Permission denied: 'there'")  # the partner: no room would not help
