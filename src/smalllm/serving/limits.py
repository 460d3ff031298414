"""How much one user may ask of the server: everything that grows with a request has an end."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What is refused beyond these."""

    connections: int = 256
    """Open at one time; 503."""
    header_bytes: int = 16_384
    """Of the request line and all headers together; 431."""
    header_lines: int = 100
    """431."""
    body_bytes: int = 1_000_000
    """413."""
    head_s: float = 10.0
    """Until the headers of a request are complete [s]; the connection is closed."""
    body_s: float = 15.0
    """Until its body is; 408."""
    idle_s: float = 20.0
    """Between two requests on one connection; it is closed."""
    write_s: float = 30.0
    """Until a client has read what waits for it; the connection is cut."""
    request_s: float = 300.0
    """From the whole request to the whole answer; 503, or an error as the last event of a stream."""
    grace_s: float = 3.0
    """That running requests are given when the server ends."""
    waiting: int = 256
    """Sequences, and prompts to be scored, that wait for a model; 503 with Retry-After."""
    prompts: int = 64
    """In one request, as all below; 400."""
    n: int = 16
    """Continuations of each prompt."""
    sequences: int = 128
    """Prompts times `n`."""
    new_tokens: int = 32_768
    """Of each continuation, where `past_context` is "slide"; else the context ends it before."""
    values: int = 500_000
    """Tokens of all sequences, each counted again for every log-probability that is reported with it."""
    stops: int = 16
    """Texts to stop at."""
    stop_characters: int = 64
    """In each."""
    biases: int = 300
    """Entries of `logit_bias`."""
    top: int = 1_000
    """Tokens that `/distribution` lists."""


LIMITS = Limits()
"""What holds where nothing else is said. The lengths in `fields.py` are always these."""
