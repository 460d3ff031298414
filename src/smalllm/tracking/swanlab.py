"""SwanLab: online where there is an API key, else files that `swanlab sync` uploads later."""

import os
from collections.abc import Mapping
from typing import Any

from smalllm.protocols import TrackedRun


class SwanLab:
    """A `Tracker`; online, a resumed run continues its experiment; offline, it adds a folder of the same id."""

    def begin(self, run: TrackedRun) -> None:
        """Open the experiment; offline where there is no key, unless SWANLAB_MODE says what to do."""
        import swanlab

        mode: Any = os.environ.get("SWANLAB_MODE")
        if mode is None:
            mode = "online" if swanlab.Settings().api_key else "offline"
            if mode == "offline":
                run.notice(f"swanlab: not logged in, so it writes to {run.folder}; upload that with: swanlab sync")
        self._swanlab = swanlab
        swanlab.init(
            mode=mode,
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow",
            log_dir=str(run.folder),
            config=dict(run.config),
        )

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Numbers as scalars, texts as texts."""
        text = self._swanlab.Text
        self._swanlab.log(
            {key: text(value) if isinstance(value, str) else value for key, value in values.items()}, step=step
        )

    def end(self) -> None:
        """Upload what is left, or close the files."""
        self._swanlab.finish()
