"""The run's side of tracking: start a process per tracker, hear from it, and never wait long for it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import smalllm
from smalllm.rundir import RunDir
from smalllm.tracking.names import FAILED, TRACKERS

PATIENCE_S = 30.0
"""How long a run that is over waits for its trackers, all together."""

Hear = Callable[[], None]
"""Passes on what the trackers have to say; at once."""


@dataclass(slots=True)
class _Follower:
    name: str
    process: subprocess.Popen[bytes]
    heard: bytes = b""
    why: str = "it ended without a word"
    is_gone: bool = False


@contextlib.contextmanager
def following(
    run: RunDir,
    trackers: Sequence[str],
    *,
    project: str,
    name: str | None,
    notice: Callable[[str], None],
    places: Mapping[str, str] = TRACKERS,
    patience_s: float = PATIENCE_S,
) -> Iterator[Hear]:
    """While inside, each tracker logs what the run writes; leaving waits for them, but not for long.

    The run's rows do not go through here: the trackers' processes read `metrics.jsonl` and `samples.jsonl` by
    themselves, so no tracker can slow or stop a run, and each gets what it lacks of the run's earlier sittings.

    Args:
        run: a run directory with its `config.toml`.
        trackers: their names.
        project: under which they file the run.
        name: of the run; absent: its directory's.
        notice: told once of a tracker that failed, and of what trackers do on their own.
        places: name -> module and class of a `Tracker`.
        patience_s: how long leaving may take [s].
    """
    name = name or run.path.resolve().name
    followers = [
        _Follower(tracker, _start(run, tracker, places[tracker], project, name, patience_s))
        for tracker in dict.fromkeys(trackers)
    ]

    def hear() -> None:
        for follower in followers:
            _hear(run, follower, notice)

    try:
        yield hear
    finally:
        try:
            _close(run, followers, notice, patience_s=patience_s)
        finally:  # a Ctrl-C ends the waiting
            for follower in followers:
                _end(follower)


def _start(
    run: RunDir, tracker: str, place: str, project: str, name: str, patience_s: float
) -> subprocess.Popen[bytes]:
    ours = str(Path(smalllm.__file__).parent.parent)
    path = os.pathsep.join(part for part in (ours, os.environ.get("PYTHONPATH", "")) if part)
    words = [place, tracker, project, name, str(run.path.resolve()), str(patience_s)]
    process = subprocess.Popen(
        [sys.executable, "-m", "smalllm.tracking.child", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the run, which then tells its trackers
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return process


def _hear(run: RunDir, follower: _Follower, notice: Callable[[str], None]) -> None:
    """Pass on whole lines; say once that a tracker is gone which should not be."""
    if follower.is_gone:
        return
    code = follower.process.poll()
    assert follower.process.stdout is not None
    follower.heard += follower.process.stdout.read() or b""
    *lines, follower.heard = follower.heard.split(b"\n")
    for line in (line.decode("utf-8", "replace") for line in lines):
        if line.startswith(FAILED):
            follower.why = line.removeprefix(FAILED)
        else:
            notice(line)
    if code:
        log = run.tracking / follower.name / "log.txt"
        notice(f"track: {follower.name} failed ({follower.why}); the run goes on without it; see {log}")
    follower.is_gone = code is not None


def _end(follower: _Follower) -> None:
    follower.process.kill()
    follower.process.wait()
    for pipe in (follower.process.stdin, follower.process.stdout):
        if pipe is not None:
            pipe.close()


def _close(run: RunDir, followers: Sequence[_Follower], notice: Callable[[str], None], *, patience_s: float) -> None:
    """Tell the trackers that the run is over, and wait for them together."""
    for follower in followers:
        assert follower.process.stdin is not None
        with contextlib.suppress(OSError):
            follower.process.stdin.close()
    until = time.monotonic() + patience_s
    while time.monotonic() < until and not all(follower.is_gone for follower in followers):
        for follower in followers:
            _hear(run, follower, notice)
        time.sleep(0.02)
    for follower in followers:
        if not follower.is_gone:
            notice(
                f"track: {follower.name} did not finish within {patience_s:g} s and was stopped; "
                "train --resume gives it the rows that it lacks"
            )
