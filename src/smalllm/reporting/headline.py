"""What a run amounts to: one sentence and a few large numbers."""

from smalllm.reporting.facts import RunFacts, dig, perplexity_of
from smalllm.reporting.markup import escaped
from smalllm.reporting.words import count, duration, finite, number, rate, share


def summary(facts: RunFacts) -> str:
    """One paragraph: what was trained, how long, and whether it is over."""
    result = facts.result
    last = facts.train[-1] if facts.train else facts.last_val
    steps, tokens = (result.get(key, last.get(key)) for key in ("steps", "tokens"))
    steps = steps if steps is not None else last.get("step")
    seconds = result.get("train_time_s", last.get("elapsed_s"))
    parameters = finite(result.get("parameters"))
    model = f"A GPT with {count(parameters)} parameters" if parameters else "A GPT"
    text = f"{model}, recipe {facts.recipe}"
    if finite(steps) is not None:
        planned = finite(dig(facts.config, "train.max_steps"))
        of = f" of {count(planned)}" if planned and not result else ""
        text += f": {count(steps)}{of} step{'' if steps == 1 and not of else 's'}, {count(tokens)} tokens, "
        text += duration(seconds)
    device = result.get("device") or facts.environment.get("device")
    text += f" on {device}." if device else "."
    if not result:
        text += " The run has no result.json yet: these are the numbers so far."
    return text


def headline(facts: RunFacts) -> str:
    """Cards with the numbers that matter, each with what it is and what to compare it with."""
    val, result = facts.last_val, facts.result
    cards = []
    bits, unigram_bits = finite(val.get("bits_per_byte")), finite(dig(result, "unigram.bits_per_byte"))
    if bits is not None:
        text = "What the model needs, on average, to write down each byte of text it has never seen."
        if unigram_bits is not None:
            text += f" A model that only knows how often each token occurs needs {number(unigram_bits)}."
        cards.append((number(bits), "bits per byte", text))
    perplexity = finite(val.get("perplexity"))
    if perplexity is not None:
        text = f"At each token it is as unsure as among {number(perplexity)} equally likely ones."
        unigram_loss = finite(dig(result, "unigram.loss"))
        if unigram_loss is not None:
            text += f" From token counts alone: {number(perplexity_of(unigram_loss))}."
        cards.append((number(perplexity), "perplexity", text))
    cards += _headline_of_stories(facts, bits)
    if not cards:
        cards.append(("–", "no evaluation yet", "The first numbers appear here after the first evaluation."))
    return f"<div class=cards>{''.join(_card(*card) for card in cards)}</div>"


def _headline_of_stories(facts: RunFacts, bits: float | None) -> list[tuple[str, str, str]]:
    """How near the model came to the known entropy of its text; without one, accuracy and speed."""
    result = facts.result
    cards = []
    ratio, floor_bits = finite(dig(result, "floor.ratio")), finite(dig(result, "floor.bits_per_byte"))
    if ratio is not None:
        text = "1 is perfect: these stories come from a grammar whose true randomness is known"
        text += f", {number(floor_bits)} bits per byte." if floor_bits is not None else "."
        unigram_bits = finite(dig(result, "unigram.bits_per_byte"))
        if bits is not None and floor_bits is not None and unigram_bits is not None:
            learned = (unigram_bits - bits) / ((unigram_bits - floor_bits) or 1)
            text += f" It learned {share(learned)} of what there is to learn beyond token counts."
        cards.append((f"{number(ratio)}×", "the floor", text))
    valid, n = finite(dig(result, "generated.valid_share")), finite(dig(result, "generated.n"))
    if valid is not None:
        stories = f"{count(n)} stories" if n is not None else "the stories"
        cards.append((share(valid), "valid stories", f"The share of {stories} it wrote that obey the grammar."))
    accuracy, speed = finite(facts.last_val.get("accuracy")), finite(result.get("tokens_per_second"))
    if ratio is None and accuracy is not None:
        cards.append((share(accuracy), "accuracy", "How often its first choice is the token that follows."))
    if valid is None and speed is not None:
        cards.append((rate(speed), "tokens per second", "How fast it trained."))
    return cards


def _card(figure: str, what: str, text: str) -> str:
    return f"<div class=card><p class=figure>{figure}<span>{what}</span></p><p>{escaped(text)}</p></div>"
