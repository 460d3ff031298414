"""Weights & Biases: online where there are credentials, else files that `wandb sync` uploads later."""

import html
import netrc
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from smalllm.protocols import TrackedRun

_HOST = "https://api.wandb.ai"


class Wandb:
    """A `Tracker`; a resumed run has the same id, which W&B continues."""

    def begin(self, run: TrackedRun) -> None:
        """Open the run; offline where nobody is logged in, unless WANDB_MODE says what to do."""
        import wandb

        mode: Any = os.environ.get("WANDB_MODE")
        if mode is None and not _has_credentials():
            mode = "offline"
            run.notice(f"wandb: not logged in, so it writes to {run.folder / 'wandb'}; upload that with: wandb sync")
        self._html = wandb.Html
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow",
            mode=mode,
            dir=run.folder,
            config=dict(run.config),
            settings=wandb.Settings(console="off"),
        )
        self._run.define_metric("*", step_metric="step")  # W&B's own step may not go back; samples may come late

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Numbers as history, texts as HTML."""
        shown = {key: self._text(value) if isinstance(value, str) else value for key, value in values.items()}
        self._run.log({"step": step, **shown})

    def end(self) -> None:
        """Upload what is left, or close the file."""
        self._run.finish()

    def _text(self, text: str) -> Any:
        return self._html(f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>', inject=False)


def _has_credentials() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", _HOST)).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
