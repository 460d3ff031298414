"""Trackers that misbehave, and one that writes down what it is told: run in the processes that tests start."""

import json
import os
import time
from collections.abc import Mapping

from smalllm.protocols import TrackedRun


class Plain:
    """Writes every call as a line."""

    def begin(self, run: TrackedRun) -> None:
        print("chatter of a library", flush=True)
        self._path = run.folder / "calls.jsonl"
        self._run = run
        self._write("begin", run.id, run.is_continued, dict(run.config))

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        self._write("log", step, dict(values))

    def end(self) -> None:
        self._write("end")

    def _write(self, *call: object) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps(call) + "\n")


class Speaks(Plain):
    def begin(self, run: TrackedRun) -> None:
        super().begin(run)
        run.notice("a word\nto the wise")


class RaisesAtOnce(Plain):
    def begin(self, run: TrackedRun) -> None:
        raise PermissionError("no such user")


class RaisesLater(Plain):
    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        super().log(step, values)
        if step >= 3:
            raise OSError("connection reset")


class Dies(Plain):
    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        os._exit(7)


class Hangs(Plain):
    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        super().log(step, values)
        while step >= 3:
            time.sleep(1)


class HangsAtEnd(Plain):
    def end(self) -> None:
        time.sleep(3600)


class Slow(Plain):
    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        time.sleep(0.05)
        super().log(step, values)
