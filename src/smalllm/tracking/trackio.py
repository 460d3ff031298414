"""trackio: a database on this machine, in trackio's own folder, where `trackio show` finds all runs."""

from collections.abc import Mapping

from smalllm.protocols import TrackedRun


class Trackio:
    """A `Tracker`; trackio knows a run by its name, so the name gets a few digits of the id."""

    def begin(self, run: TrackedRun) -> None:
        """Open the run, or the one of an earlier sitting; TRACKIO_DIR and TRACKIO_SPACE_ID mean what trackio says."""
        import trackio

        self._trackio = trackio
        trackio.init(
            project=run.project,
            name=f"{run.name}-{run.id[:4]}",
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Numbers as metrics, texts as Markdown code, so that nothing in them is taken for markup."""
        markdown = self._trackio.Markdown
        shown = {key: markdown(_code(value)) if isinstance(value, str) else value for key, value in values.items()}
        self._trackio.log(shown, step=step)

    def end(self) -> None:
        """Write what is left."""
        self._trackio.finish()


def _code(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
