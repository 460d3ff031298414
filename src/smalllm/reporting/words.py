"""Numbers as people read them: three significant digits, a unit, and a dash for what is not known.

Every function takes whatever a JSON file may hold; what is not a finite number becomes `UNKNOWN`.
"""

import os
import shlex
import sys
from collections.abc import Iterable

UNKNOWN = "–"
_LARGEST = sys.float_info.max


def finite(value: object) -> float | None:
    """The value as a float, or None if it is not a finite number (null, NaN, text, true or false)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -_LARGEST <= value <= _LARGEST else None  # math.isfinite fails for whole numbers beyond


def number(value: object) -> str:
    """Three significant digits: `0.612`, `12.0`, `1,234`, `3e-4`."""
    x = finite(value)
    if x is None:
        return UNKNOWN
    if x == 0:
        return "0"
    if abs(x) < 1e-3 or abs(x) >= 1e9:
        return scientific(x)
    if abs(x) >= 999.5:
        return f"{_three_digits(x):,.0f}"
    return f"{x:#.3g}".rstrip(".")


def scientific(value: object) -> str:
    """The way learning rates are typed: `0`, `0.02`, `3e-4`, `1.25e-5`."""
    x = finite(value)
    if x is None:
        return UNKNOWN
    if x == 0 or 0.01 <= abs(x) < 1000:
        return f"{x:.3g}"
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(value: object) -> str:
    """How many of something: exact below a million (`10,240`), then `20.3M`, `1.24B`, `3.00T`."""
    x = finite(value)
    if x is None:
        return UNKNOWN
    if abs(x) < 999_999.5:
        return f"{x:,.0f}"
    rounded = _three_digits(x)
    unit, name = next((u for u in ((1e12, "T"), (1e9, "B")) if abs(rounded) >= u[0]), (1e6, "M"))
    return number(rounded / unit) + name


def rate(value: object) -> str:
    """Something per second, without its unit: `45,200`, `1.25M`."""
    x = finite(value)
    return UNKNOWN if x is None else number(x) if abs(x) < 999.5 else count(_three_digits(x))


def size(value: object) -> str:
    """Bytes in powers of 1,024: `512 bytes`, `1.24 GiB`."""
    x = finite(value)
    if x is None:
        return UNKNOWN
    if abs(x) < 999.5:
        return f"{x:.0f} bytes"
    units = ["TiB", "GiB", "MiB", "KiB"]
    x /= 1024
    while abs(x) >= 999.5 and len(units) > 1:
        x /= 1024
        units.pop()
    return f"{number(x)} {units[-1]}"


def duration(value: object) -> str:
    """Seconds as a person says them: `0.250 s`, `12 min 5 s`, `3 h 12 min`, `2 d 4 h`."""
    x = finite(value)
    if x is None:
        return UNKNOWN
    whole = round(x)
    if whole < 60:
        return f"{number(x)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(x / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(x / 3600)
    return f"{hours // 24} d {hours % 24} h"


def share(value: object) -> str:
    """A fraction as a percentage: `87.3%`."""
    x = finite(value)
    return UNKNOWN if x is None else f"{number(100 * x)}%"


def flops(value: object) -> str:
    """Floating-point operations per second: `1.24 TFLOP/s`."""
    x = finite(value)
    if x is None:
        return UNKNOWN
    rounded = _three_digits(x)
    unit, name = next((u for u in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if rounded >= u[0]), (1e6, "M"))
    return f"{number(rounded / unit)} {name}FLOP/s"


def named(key: str, value: object) -> str:
    """A value by the unit its name ends in: `_bytes`, `_s`, `flops`; whole numbers and text as they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return UNKNOWN
    if isinstance(value, list | tuple):
        return ", ".join(named(key, part) for part in value) or UNKNOWN
    if finite(value) is None:
        return UNKNOWN if isinstance(value, float) else str(value)
    if key.endswith("_bytes"):
        return size(value)
    if key.endswith("_s"):
        return duration(value)
    if "flops" in key or "flop_per_s" in key:
        return flops(value)
    return str(value) if isinstance(value, int) else number(value)


def toml(value: object) -> str:
    """A value as config.toml says it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(toml(part) for part in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def printable(text: str) -> str:
    """Text on one line, safe for a terminal: newlines, control characters and the like as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _three_digits(x: float) -> float:
    return float(f"{x:.2e}")


def shell(words: Iterable[str]) -> str:
    """A command of one line, ready for a shell; newlines and the like as bash and zsh write them."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    plain = (c if c.isprintable() and c not in "\\'" else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in word)
    return f"$'{''.join(plain)}'"
