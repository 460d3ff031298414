"""TensorBoard event files, written with the `tensorboard` package alone: neither TensorFlow nor torch is loaded."""

import time
from collections.abc import Mapping
from typing import Any

from smalllm.protocols import TrackedRun


class TensorBoard:
    """A `Tracker`; a resumed run adds a file to the same folder, which TensorBoard shows as one run."""

    def begin(self, run: TrackedRun) -> None:
        """Open an event file in the run directory; the configuration is a table among the texts."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if not run.is_continued:  # all rows come again: beside those of before, each point would be shown twice
            for old in run.folder.glob("events.out.tfevents.*"):
                old.unlink()
        self._writer = EventFileWriter(str(run.folder), flush_secs=5)
        if not run.is_continued:
            rows = [f"| {key} | {value} |" for key, value in run.config.items()]
            self.log(0, {"config": "\n".join(["| field | value |", "|---|---|", *rows])})

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Numbers as scalars, texts as texts."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[_value(key, value) for key, value in values.items()])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def end(self) -> None:
        """Close the file."""
        self._writer.close()


def _value(tag: str, value: float | str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    if not isinstance(value, str):
        return Summary.Value(tag=tag, simple_value=float(value))
    tensor = TensorProto(
        dtype=DT_STRING,
        string_val=[value.encode("utf-8")],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    return Summary.Value(tag=tag, metadata=create_summary_metadata(tag, ""), tensor=tensor)
