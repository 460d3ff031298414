"""The bodies of requests: each field with its type and range, `null` as good as absent but for a prompt.

What is not listed is refused with the nearest name: a misspelt option must not be silently without effect.
"""

import difflib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from smalllm.generation.sampling import MOST_LOGPROBS, SamplingConfig
from smalllm.serving.errors import RequestError
from smalllm.serving.limits import LIMITS

Prompt = str | list[int]
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_NULL = {"type": "null"}


def _as_prompts(found: object) -> list[Prompt]:
    """One prompt or several, as a list.

    Raises:
        ValueError: it is neither.
    """
    prompts: list[Any] = found if isinstance(found, list) and found and not _is_ids(found) else [found]
    if len(prompts) > LIMITS.prompts:
        raise ValueError(f"{len(prompts):,} prompts; at most {LIMITS.prompts} go into one request")
    if not (all(isinstance(prompt, str) for prompt in prompts) or all(map(_is_ids, prompts))):
        raise ValueError("must be a text, a list of texts, a list of token ids, or a list of such lists")
    for prompt in prompts:
        if isinstance(prompt, str):
            _check_text(prompt)
    return prompts


def _is_ids(found: object) -> bool:
    return isinstance(found, list) and all(type(one) is int for one in found)


def _as_prompt(found: object) -> Prompt:
    if isinstance(found, str):
        return _check_text(found)
    if not _is_ids(found):
        raise ValueError("must be a text or a list of token ids")
    assert isinstance(found, list)
    return found


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is not Unicode text") from error
    return text


def _as_stops(found: object) -> tuple[str, ...]:
    stops = found if isinstance(found, list) else [] if found is None else [found]
    if len(stops) > LIMITS.stops:
        raise ValueError(f"{len(stops):,} texts; at most {LIMITS.stops} are looked for")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(_check_text(stop)) <= LIMITS.stop_characters:
            raise ValueError(f"each must be a text of 1 to {LIMITS.stop_characters} characters")
    return tuple(stops)


def _as_biases(found: object) -> tuple[tuple[int, float], ...]:
    pairs = {} if found is None else found
    if not isinstance(pairs, dict) or len(pairs) > LIMITS.biases:
        raise ValueError(f"must be an object with at most {LIMITS.biases} token ids and a number for each")
    for name, number in pairs.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise ValueError(f"{name[:20]!r} is not a token id")
        if type(number) not in (int, float) or not -100 <= number <= 100:
            raise ValueError(f"token {name}: the number must be -100 to 100")
    found_pairs = tuple((int(name), float(number)) for name, number in pairs.items())
    if len({token_id for token_id, _ in found_pairs}) < len(found_pairs):
        raise ValueError("a token id stands there twice")
    return found_pairs


def _one_of(*kinds: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(kinds)})


_PROMPT = _one_of({"type": "string"}, _IDS)
_PROMPTS = _one_of(
    {"type": "string"},
    _IDS,
    *(
        {"type": "array", "items": kind, "maxItems": LIMITS.prompts, "minItems": 1}
        for kind in ({"type": "string"}, _IDS)
    ),
)
_STOP = {"type": "string", "minLength": 1, "maxLength": LIMITS.stop_characters}
_STOPS = _one_of(_STOP, {"type": "array", "items": _STOP, "maxItems": LIMITS.stops}, _NULL)
_BIASES = _one_of(
    {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": LIMITS.biases,
    },
    _NULL,
)

Penalty = Annotated[float | None, Field(ge=-100, le=100)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SamplingFields(_Body):
    """How the next token is drawn; the fields of `SamplingConfig`, and what OpenAI calls some of them."""

    temperature: Annotated[float | None, Field(ge=0, le=100)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.01, le=100)] = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logit_bias: Annotated[tuple[tuple[int, float], ...], PlainValidator(_as_biases), _BIASES] = ()

    def sampling(self, **others: Any) -> SamplingConfig:
        """What was given, over the defaults."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty")
        values = {name: getattr(self, name) for name in (*names, "frequency_penalty")}
        given = {name: value for name, value in values.items() if value is not None}
        return SamplingConfig(**given, logit_bias=self.logit_bias, **others)


class StreamOptions(_Body):
    """What a stream tells besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class CompletionFields(SamplingFields):
    """Body of `/v1/completions`."""

    model: str | None = None
    prompt: Annotated[list[Prompt], PlainValidator(_as_prompts), _PROMPTS] = Field(
        default_factory=lambda: list[Prompt]([""])
    )
    max_tokens: Annotated[int | None, Field(ge=0, le=LIMITS.new_tokens)] = None
    n: Annotated[int | None, Field(ge=1, le=LIMITS.n)] = None
    best_of: Annotated[int | None, Field(ge=1, le=LIMITS.n)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: Annotated[int | None, Field(ge=0, le=MOST_LOGPROBS)] = None
    echo: bool | None = None
    stop: Annotated[tuple[str, ...], PlainValidator(_as_stops), _STOPS] = ()
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    suffix: str | None = None
    user: str | None = None
    past_context: Literal["stop", "slide"] | None = None
    return_token_ids: bool | None = None


class TokenizeFields(_Body):
    """Body of `/tokenize`."""

    model: str | None = None
    prompt: Annotated[Prompt, PlainValidator(lambda text: _only_text(text)), WithJsonSchema({"type": "string"})]
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeFields(_Body):
    """Body of `/detokenize`."""

    model: str | None = None
    tokens: Annotated[list[int], PlainValidator(lambda ids: _only_ids(ids)), WithJsonSchema(_IDS)]


class DistributionFields(SamplingFields):
    """Body of `/distribution`."""

    model: str | None = None
    prompt: Annotated[Prompt, PlainValidator(_as_prompt), _PROMPT] = ""
    top: Annotated[int | None, Field(ge=1, le=LIMITS.top)] = None


def _only_text(found: object) -> str:
    if not isinstance(found, str):
        raise ValueError("must be a text")
    return _check_text(found)


def _only_ids(found: object) -> list[int]:
    if not isinstance(found, list) or not _is_ids(found):
        raise ValueError("must be a list of token ids")
    return found


Fields = TypeVar("Fields", bound=_Body)


def read_fields(kind: type[Fields], found: object) -> Fields:
    """The body of a request, checked.

    Raises:
        RequestError: what is wrong first, by its name.
    """
    if not isinstance(found, dict):
        raise RequestError(400, f"the body must be a JSON object, as in {{}}; found {type(found).__name__}")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(str(part)[:60] for part in wrong["loc"])
    if wrong["type"] == "extra_forbidden":
        inner = StreamOptions if name.startswith("stream_options.") else kind
        last = name.rpartition(".")[2]
        close = difflib.get_close_matches(last, inner.model_fields, n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(sorted(inner.model_fields))}"
        raise RequestError(400, f"{name}: there is no such field; {hint}", param=name, code="unknown_field")
    said = wrong["msg"].removeprefix("Value error, ")
    shown = repr(wrong["input"])[:60] if isinstance(wrong["input"], bool | int | float | str) else ""
    raise RequestError(400, f"{name}{f' = {shown}' if shown else ''}: {said[:1].lower()}{said[1:]}", param=name)
