"""`generate`: text from a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smalllm.generation.engine import generate_tokens
from smalllm.generation.sampling import SamplingConfig
from smalllm.generation.text import TextStream, prompt_ids
from smalllm.run import Run, load_run


@dataclass(frozen=True, slots=True)
class Text:
    """One generated text.

    Attributes:
        text: the continuation, without the prompt.
        finish_reason: "stop" where the model ended the document, else "length".
        n_tokens: how many were generated.
        n_dropped: oldest tokens, the prompt's included, that no longer fitted into the context at the end.
    """

    text: str
    finish_reason: str
    n_tokens: int
    n_dropped: int


def generate(
    run: Run | str | Path,
    prompt: str = "",
    *,
    sampling: SamplingConfig | None = None,
    n: int = 1,
    on_text: Callable[[int, str], None] | None = None,
) -> list[Text]:
    """Continue a prompt; an empty one starts a new document.

    Args:
        run: a loaded run, or the path of one.
        prompt: any text.
        sampling: how to draw; absent: `SamplingConfig()`.
        n: how many continuations.
        on_text: told (sample, text) as text arrives.

    Raises:
        ConfigError: sampling values out of range.
        CheckpointError: the path holds no usable run.
    """
    run = run if isinstance(run, Run) else load_run(run)
    streams = [TextStream(run.tokenizer) for _ in range(n)]

    def tell(sample: int, token_id: int) -> None:
        piece = streams[sample].add(token_id)
        if on_text is not None and piece:
            on_text(sample, piece)

    made = generate_tokens(
        run.model,
        prompt_ids(prompt, run.tokenizer, run.config.data),
        sampling or SamplingConfig(),
        eos_id=run.tokenizer.eos_id,
        n=n,
        device=run.device,
        precision=run.precision,
        on_token=tell,
    )
    for sample, stream in enumerate(streams):
        rest = stream.end()
        if rest and on_text is not None:
            on_text(sample, rest)
    return [Text(run.tokenizer.decode(m.token_ids), m.finish_reason, len(m.token_ids), m.n_dropped) for m in made]
