"""Every error smalllm raises on purpose.

    SmalllmError
    ├── ConfigError        wrong options or configuration; the command line exits with 2
    ├── DataError          text, shards or a manifest that cannot be used
    ├── TokenizerError     a tokenizer that cannot be built, loaded or matched
    │   └── EncodingError  a text that a tokenizer could not encode, though it should take any
    ├── RunError           a run directory that cannot be used as asked
    ├── CheckpointError    no checkpoint that can be trusted
    │   ├── VersionError   one that a newer smalllm wrote
    │   └── UnreadableError  one that the system did not let be read; it may be sound
    ├── InteropError       a model of another program that cannot be taken in, or one that cannot be given out
    ├── DeviceMemoryError  memory did not hold a forward and backward pass; the weights are untouched
    ├── NonFiniteError     a loss or gradient that is not a number; the weights are untouched
    └── RankError          one of several processes that train together failed

A message has three parts: what was found, what was expected, what to do. The command line prints it and
exits with 1 (2 for `ConfigError`); anything that is not a `SmalllmError` is a bug and shows a traceback.
"""

from collections.abc import Sequence


class SmalllmError(Exception):
    """Root of the tree above; catch it to catch them all."""


class ConfigError(SmalllmError):
    """Options or configuration that cannot work, all problems at once.

    Attributes:
        problems: one sentence per problem, each with the field, the value found and what is allowed.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(SmalllmError):
    """Text, shards or a manifest that cannot be used."""


class TokenizerError(SmalllmError):
    """A tokenizer that cannot be built, loaded, or that does not match the data or the model."""


class EncodingError(TokenizerError):
    """A text that a tokenizer could not encode, though it should take any.

    Attributes:
        index: which of the texts it was.
    """

    def __init__(self, message: str, *, index: int) -> None:
        self.index = index
        super().__init__(message)


class RunError(SmalllmError):
    """A run directory that is locked, holds another run, or has nothing to load."""


class CheckpointError(SmalllmError):
    """No checkpoint that can be trusted."""


class VersionError(CheckpointError):
    """A checkpoint of a format that this smalllm does not know; it is sound, and another smalllm reads it."""


class UnreadableError(CheckpointError):
    """A checkpoint that the system did not let be read: a faulty disk, permissions; it may be sound."""


class InteropError(SmalllmError):
    """A model of another program that cannot be taken in, or one of ours that it could not hold or did not repeat."""


class DeviceMemoryError(SmalllmError):
    """A forward and backward pass for which memory was not enough; the weights are untouched."""


class NonFiniteError(SmalllmError):
    """A loss or gradient norm that is not finite, found before it reached the weights.

    Attributes:
        step: updates applied so far; the weights are those of this step.
    """

    def __init__(self, message: str, *, step: int) -> None:
        self.step = step
        super().__init__(message)


class RankError(SmalllmError):
    """One of several processes that train together failed.

    The first one to fail says why; the others lost it and raise this without text.
    """
