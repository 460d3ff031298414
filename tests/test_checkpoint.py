"""Checkpoints: exact, verified, and never lost, whatever fails and wherever."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import smalllm
from smalllm import checkpoint, checkpoint_manifest
from smalllm.checkpoint import (
    TrainState,
    checkpoint_paths,
    copy_parameters,
    find_checkpoint,
    load_checkpoint,
    load_latest,
    mark_best,
    prune_checkpoints,
    save_checkpoint,
)
from smalllm.errors import CheckpointError, UnreadableError, VersionError
from smalllm.rundir import RunDir

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
FACTS = {"tokenizer": "ab" * 32, "train_shards": ["cd" * 32]}


def tensors(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"a.weight": torch.randn(5, 3, generator=generator), "b": torch.randn(7, generator=generator)}


def save(run: RunDir, step: int) -> Path:
    state = TrainState(step=step, cursor=8 * step, tokens=128 * step, loss_ema=1 / 3, best_loss=0.1 + step)
    made = tensors(step)
    moments = {f"{name}/exp_avg": value * 1e-30 for name, value in made.items()}
    return save_checkpoint(run, state, model=made, optimizer=moments | {"b/step": torch.tensor(3.0)}, facts=FACTS)


def is_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def load(run: RunDir) -> checkpoint.Checkpoint:
    loaded = load_latest(run, notice=lambda text: pytest.fail(f"unexpected notice: {text}"))
    assert loaded is not None
    return loaded


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing takes milliseconds, and only a power failure would show whether it was done."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_round_trip_is_exact(run: RunDir) -> None:
    path = save(run, 3)
    loaded = load(run)
    assert loaded.path == path and path.name == "step-00000003"
    assert is_equal(loaded.model, tensors(3))
    assert loaded.optimizer["b/step"].item() == 3.0 and loaded.optimizer["b/step"].ndim == 0
    assert torch.equal(loaded.optimizer["b/exp_avg"], tensors(3)["b"] * 1e-30)
    assert loaded.state == TrainState(step=3, cursor=24, tokens=384, loss_ema=1 / 3, best_loss=0.1 + 3)
    assert loaded.facts == FACTS
    assert not is_equal(loaded.model, tensors(4))  # the partner: another step's weights are told apart


def test_special_values_and_types_survive(run: RunDir) -> None:
    odd = {
        "odd": torch.tensor([-0.0, float("inf"), float("nan"), 1e-45]),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).view(2, 3).T,
        "empty": torch.empty(0, 4),
    }
    save_checkpoint(run, TrainState(step=1), model=odd, optimizer={}, facts={})
    loaded = load(run).model
    assert loaded["odd"].view(torch.int32).tolist() == odd["odd"].view(torch.int32).tolist()
    assert loaded["half"].dtype == torch.bfloat16 and torch.equal(loaded["transposed"], odd["transposed"])
    assert loaded["empty"].shape == (0, 4)


def test_latest_best_and_keep(run: RunDir) -> None:
    for step in (1, 2, 3, 4, 5):
        save(run, step)
        assert (run.checkpoints / "latest").read_text() == f"step-{step:08d}\n"
        if step == 2:
            mark_best(run, 2)
        prune_checkpoints(run, keep=2)
    assert [p.name for p in checkpoint_paths(run)] == ["step-00000005", "step-00000004", "step-00000002"]
    assert find_checkpoint(run.path).name == "step-00000002"  # the best
    assert find_checkpoint(run.checkpoints / "step-00000004").name == "step-00000004"
    (run.checkpoints / "best").unlink()
    assert find_checkpoint(run.path).name == "step-00000005"  # else the latest


def test_a_pointer_to_nothing_falls_back(run: RunDir) -> None:
    save(run, 1)
    mark_best(run, 9)
    (run.checkpoints / "latest").write_text("step-00000009\n")
    assert find_checkpoint(run.path).name == "step-00000001"


@pytest.mark.parametrize("name", ["nothing", "file", "run"])
def test_where_there_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    with pytest.raises(CheckpointError, match="a run without a checkpoint" if name == "run" else "neither a run"):
        find_checkpoint(tmp_path / name)
    assert load_latest(RunDir(tmp_path / name), notice=print) is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_last(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(content)


DAMAGES: list[Callable[[Path], Any]] = [truncate, flip, flip_last, lambda p: p.write_bytes(b""), Path.unlink]
DAMAGE_NAMES = ["truncated", "flipped", "flipped at the end", "emptied", "deleted"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=DAMAGE_NAMES)
def test_a_damaged_checkpoint_is_set_aside(run: RunDir, name: str, damage: Callable[[Path], Any]) -> None:
    save(run, 1)
    newest = save(run, 2)
    if name == "manifest.json" and damage in (truncate, flip_last):
        damage = flip  # its last bytes are white space and brackets: cutting the newline leaves the same JSON
    damage(newest / name)
    said: list[str] = []
    loaded = load_latest(run, notice=said.append)
    assert loaded is not None and loaded.state.step == 1 and is_equal(loaded.model, tensors(1))
    assert len(said) == 1 and name in said[0] and "damaged-step-00000002" in said[0]
    assert (run.checkpoints / "damaged-step-00000002").is_dir() and not newest.exists()
    # Saving the step again works, and is used again.
    save(run, 2)
    assert load(run).state.step == 2


def unreadable(patch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """A file that a disk or a file system does not give: reading it fails, though its size is known."""
    hash_of, read_text = checkpoint_manifest.sha256_of, Path.read_text

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(asked: Path, *args: Any, **kwargs: Any) -> Any:
            if asked == path:
                raise OSError(number, os.strerror(number), str(asked))
            return function(asked, *args, **kwargs)

        return call

    patch.setattr(checkpoint_manifest, "sha256_of", failing(hash_of))
    patch.setattr(Path, "read_text", failing(read_text))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE], ids=["faulty", "permission", "stale"])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_stays(run: RunDir, name: str, number: int) -> None:
    save(run, 1)
    newest = save(run, 2)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        unreadable(patch, newest / name, number)
        loaded = load_latest(run, notice=said.append)
        with pytest.raises(UnreadableError, match=os.strerror(number)):
            load_checkpoint(newest)
    assert loaded is not None and loaded.state.step == 1 and is_equal(loaded.model, tensors(1))
    assert len(said) == 1 and f"{newest / name}: could not be read" in said[0] and "it stays as it is" in said[0]
    assert load(run).state.step == 2  # once the disk is mended


def test_only_unreadable_ones_is_an_error(run: RunDir) -> None:
    for number, step in ((errno.EIO, 1), (errno.EACCES, 2)):
        save(run, step)
        with pytest.MonkeyPatch.context() as patch:
            for path in checkpoint_paths(run):
                unreadable(patch, path / "model.safetensors", number)
            with pytest.raises(CheckpointError, match=rf"no checkpoint can be used:\n.*{os.strerror(number)}"):
                load_latest(run, notice=lambda _: None)
    assert load(run).state.step == 2


def test_what_is_written_after_an_unreadable_one_is_kept(run: RunDir) -> None:
    save(run, 1)
    save(run, 6)  # cannot be read when the run goes on from step 1
    save(run, 2)
    prune_checkpoints(run, keep=1)
    assert [path.name for path in checkpoint_paths(run)] == ["step-00000006", "step-00000002"]
    save(run, 7)
    prune_checkpoints(run, keep=1)
    assert [path.name for path in checkpoint_paths(run)] == ["step-00000007"]


def test_an_undamaged_checkpoint_is_not_set_aside(run: RunDir) -> None:
    save(run, 1)
    newest = save(run, 2)
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes())
    assert load(run).state.step == 2


def test_a_flipped_bit_would_be_believed_without_the_manifest(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    flip_last(save(run, 1) / "model.safetensors")
    monkeypatch.setattr(checkpoint, "verify_file", lambda path, expected: None)
    assert not is_equal(load(run).model, tensors(1))


def test_only_damaged_ones_is_an_error(run: RunDir) -> None:
    for step in (1, 2):
        flip(save(run, step) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint can be used:.*step-00000002.*step-00000001"):
        load_latest(run, notice=lambda _: None)
    with pytest.raises(
        CheckpointError, match=r"every checkpoint was damaged and set aside, damaged-step-00000002 last"
    ):
        load_latest(run, notice=lambda _: None)  # again: a run is never started anew in silence


@pytest.mark.parametrize(
    "change", [{"format": "smallmm-checkpoint"}, {"version": "1"}, {"files": []}, {"version": None}]
)
def test_a_manifest_that_is_no_manifest_is_damage(run: RunDir, change: dict[str, Any]) -> None:
    save(run, 1)
    path = save(run, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | change))
    said: list[str] = []
    loaded = load_latest(run, notice=said.append)
    assert loaded is not None and loaded.state.step == 1
    assert len(said) == 1 and "manifest.json: is of format" in said[0] and "set aside" in said[0]


def test_a_newer_format_is_refused_by_version(run: RunDir) -> None:
    path = save(run, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    with pytest.raises(VersionError, match=r"version 2, this smalllm reads .* update smalllm"):
        load_latest(run, notice=print)
    assert path.exists()  # it is sound: the newer smalllm still finds it under its name
    with pytest.raises(CheckpointError, match="version 2, this smalllm reads"):
        load_checkpoint(path)


def test_unknown_state_fields_of_a_later_release_are_ignored(run: RunDir) -> None:
    path = save(run, 1)
    kept = json.loads((path / "state.json").read_text())
    kept["state"]["later"] = 1
    (path / "state.json").write_text(json.dumps(kept))
    manifest = json.loads((path / "manifest.json").read_text())
    entry = manifest["files"]["state.json"]
    entry["bytes"], entry["sha256"] = (path / "state.json").stat().st_size, checkpoint.sha256_of(path / "state.json")
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert load_checkpoint(path).state.step == 1


class Crash(BaseException):
    """The process dies here: unlike an error, nothing may catch it."""


class Counter:
    """Lets the first `allowed` calls of what a save uses through; the next raises, before or after its work.

    After a `Crash` nothing more happens; after an error life goes on.
    """

    def __init__(self, patch: pytest.MonkeyPatch, allowed: float, error: BaseException, *, late: bool) -> None:
        self.calls, self.allowed, self.error, self.late = 0, allowed, error, late
        self.forever = isinstance(error, Crash)
        for owner, name in [
            (os, "replace"),
            (os, "fsync"),
            (os, "chmod"),
            (os, "open"),
            (os, "mkdir"),
            (Path, "write_text"),
            (safetensors.torch, "save_file"),
            (shutil, "rmtree"),
        ]:
            patch.setattr(owner, name, self.watched(getattr(owner, name)))

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls <= self.allowed or (self.calls > self.allowed + 1 and not self.forever):
                return function(*args, **kwargs)
            if self.late and self.calls == self.allowed + 1:
                function(*args, **kwargs)
            raise self.error

        return call


def crash_in_save(run: RunDir, step: int, *, allowed: float, error: BaseException, late: bool = False) -> int:
    """Save with a failure at a given call; how many calls there were."""
    with pytest.MonkeyPatch.context() as patch:
        counter = Counter(patch, allowed, error, late=late)
        try:
            save(run, step)
        except (Crash, CheckpointError):
            assert counter.calls > allowed
    return counter.calls


@pytest.mark.parametrize("late", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("step", [2, 1], ids=["a new step", "a step that exists"])
def test_a_crash_at_any_call_of_a_save_loses_nothing(tmp_path: Path, step: int, late: bool) -> None:
    run = RunDir(tmp_path / "counted")
    save(run, 1)
    n_calls = crash_in_save(run, step, allowed=float("inf"), error=Crash())
    assert n_calls >= 14  # two tensor files, two texts, five syncs, two renames, …
    for allowed in range(n_calls):
        run = RunDir(tmp_path / str(allowed))
        save(run, 0)
        save(run, 1)
        crash_in_save(run, step, allowed=allowed, error=Crash(), late=late)
        loaded = load(run)  # what is there is whole: nothing is set aside
        assert loaded.state.step in ({0, 1} if step == 1 else {1, 2})
        assert is_equal(loaded.model, tensors(loaded.state.step))
        assert load_checkpoint(find_checkpoint(run.path)).state.step == loaded.state.step or step == 2
        save(run, 3)  # the next save works, and pruning removes what the crash left
        prune_checkpoints(run, keep=5)
        assert load(run).state.step == 3 and not list(run.checkpoints.glob(".writing-*"))


def test_a_save_in_place_would_be_caught(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partner: written under its own name from the start, a crash leaves a damaged newest checkpoint."""
    save(run, 1)
    target = run.checkpoints / "step-00000002"

    def in_place(**_: Any) -> str:
        target.mkdir()
        return str(target)

    monkeypatch.setattr("tempfile.mkdtemp", in_place)
    crash_in_save(run, 2, allowed=2, error=Crash())
    said: list[str] = []
    load_latest(run, notice=said.append)
    assert said


def test_the_disk_has_the_files_before_they_are_named(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_rename(source: Any, target: Any) -> None:
        events.append(f"-> {Path(target).name}")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("open files are looked up in /proc, which is not here")
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    save(run, 1)
    named = events.index("-> step-00000001")
    assert set(FILES) <= set(events[:named]) and events.index("manifest.json") > events.index("model.safetensors")
    assert events[named + 1] == "checkpoints" and events[named + 2] == "-> latest"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "faulty"])
def test_a_bad_disk_at_any_call_is_reported_and_harmless(tmp_path: Path, number: int) -> None:
    full = OSError(number, os.strerror(number))
    n_calls = crash_in_save(RunDir(tmp_path / "counted"), 2, allowed=float("inf"), error=full)
    for allowed in range(n_calls):
        run = RunDir(tmp_path / str(allowed))
        save(run, 1)
        crash_in_save(run, 2, allowed=allowed, error=full)
        assert load(run).state.step in (1, 2) and not list(run.checkpoints.glob(".writing-*"))
        assert load_checkpoint(find_checkpoint(run.path)).state.step in (1, 2)
    run = RunDir(tmp_path / "message")
    save(run, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", lambda *a, **k: (_ for _ in ()).throw(full))
        with pytest.raises(CheckpointError, match=rf"could not be written .*{os.strerror(number)}.*free some space"):
            save(run, 2)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["latest", "step-00000001"]
    assert load(run).state.step == 1


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The same with a real limit of the operating system, in a process of its own."""
    script = textwrap.dedent(
        """
        import resource, signal, sys
        from pathlib import Path
        import torch
        from smalllm.checkpoint import TrainState, save_checkpoint
        from smalllm.errors import CheckpointError, VersionError
        from smalllm.rundir import RunDir

        run = RunDir(Path(sys.argv[1]))
        tensors = {"w": torch.ones(100_000)}
        save_checkpoint(run, TrainState(step=1), model=tensors, optimizer={}, facts={})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            save_checkpoint(run, TrainState(step=2), model=tensors, optimizer={}, facts={})
        except CheckpointError as error:
            print(error)
        """
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, timeout=60, check=False
    )
    assert "could not be written" in done.stdout, done.stderr
    run = RunDir(tmp_path / "run")
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["latest", "step-00000001"]
    assert load(run).state.step == 1


def test_parameters_are_copied_not_mapped() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.data_ptr()
    copy_parameters(model, {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, where="x")
    assert model.weight.data_ptr() == before and torch.equal(model.weight.detach(), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"weight": torch.ones(2, 2)}, r"missing \['bias'\]"),
        ({"weight": torch.ones(2, 2), "bias": torch.ones(2), "x": torch.ones(1)}, r"unknown \['x'\]"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, r"weight has shape \(2, 3\), the model wants \(2, 2\)"),
    ],
)
def test_another_model_is_refused(wrong: dict[str, Tensor], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        copy_parameters(nn.Linear(2, 2), wrong, where="here")


PICKLE = re.compile(
    r"^\s*(import|from)\s+(pickle|dill|joblib|shelve|marshal)\b|torch\.(save|load)\(|allow_pickle=True", re.M
)


def test_no_pickle_anywhere() -> None:
    for path in Path(smalllm.__file__).parent.rglob("*.py"):
        assert not PICKLE.search(path.read_text()), path
    # The partner: the pattern finds what it looks for.
    for line in ("import pickle", "    from pickle import loads", "x = torch.load(path)", "torch.save(a, b)"):
        assert PICKLE.search(line)


def test_a_checkpoint_is_tensors_and_json_only(run: RunDir) -> None:
    path = save(run, 1)
    assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
    for file in path.iterdir():
        content = file.read_bytes()
        if file.suffix == ".json":
            json.loads(content)
        else:  # eight bytes of length, then a JSON header: nothing that runs
            json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
