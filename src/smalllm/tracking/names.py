"""Which trackers there are, where each is, and whether its package is installed."""

import importlib.util
from collections.abc import Iterable, Mapping

from smalllm.errors import ConfigError

TRACKERS: Mapping[str, str] = {
    "wandb": "smalllm.tracking.wandb:Wandb",
    "tensorboard": "smalllm.tracking.tensorboard:TensorBoard",
    "swanlab": "smalllm.tracking.swanlab:SwanLab",
    "trackio": "smalllm.tracking.trackio:Trackio",
}
"""Name, also of its package and of our extra -> module and class of what logs to it."""

FAILED = "FAILED "
"""How a tracker's process begins the line that says why it ends."""


def check_installed(names: Iterable[str]) -> None:
    """Refuse trackers whose package is missing, before a run starts. Nothing is imported.

    Raises:
        ConfigError: with the line that installs each of them.
    """
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        raise ConfigError(
            [
                f"track.trackers: {name} is not installed: pip install 'smalllm[{name}]', or leave it out"
                for name in missing
            ]
        )


def _is_installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # a mere folder called wandb has no origin
