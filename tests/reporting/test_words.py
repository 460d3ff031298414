"""Numbers as people read them: a table of cases, and no value that cannot be written."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalllm.reporting.words import count, duration, flops, named, number, printable, rate, scientific, share, size


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(0.61234), "0.612"),
        (number(12), "12.0"),
        (number(0), "0"),
        (number(-1.5), "-1.50"),
        (number(999.7), "1,000"),
        (number(1234.5), "1,230"),
        (number(0.00032), "3.2e-4"),
        (number(1.0), "1.00"),
        (number(100.0), "100"),
        (number(None), "–"),
        (number(math.nan), "–"),
        (number(math.inf), "–"),
        (number("3"), "–"),
        (number(True), "–"),
        (number(1e300), "1e300"),
        (number(5e-324), "4.94e-324"),
        (scientific(3e-4), "3e-4"),
        (scientific(0.02), "0.02"),
        (scientific(0), "0"),
        (scientific(1.25e-5), "1.25e-5"),
        (count(20_300_000), "20.3M"),
        (count(123_600_000), "124M"),
        (count(10_240), "10,240"),
        (count(999_999), "999,999"),
        (count(999_999_999), "1.00B"),
        (count(3e12), "3.00T"),
        (count(0), "0"),
        (count(None), "–"),
        (rate(45_231.7), "45,200"),
        (rate(1_254_000), "1.25M"),
        (rate(12.34), "12.3"),
        (rate(None), "–"),
        (size(1_331_439_861), "1.24 GiB"),
        (size(512), "512 bytes"),
        (size(1024), "1.00 KiB"),
        (size(1024**2 - 1), "1.00 MiB"),
        (size(2**50), "1,020 TiB"),
        (size(None), "–"),
        (duration(725), "12 min 5 s"),
        (duration(0.25), "0.250 s"),
        (duration(59.7), "1 min 0 s"),
        (duration(3599.6), "1 h 0 min"),
        (duration(11_520), "3 h 12 min"),
        (duration(187_200), "2 d 4 h"),
        (duration(86_399), "1 d 0 h"),
        (duration(None), "–"),
        (share(0.8742), "87.4%"),
        (share(1.0), "100%"),
        (share(0), "0%"),
        (share(None), "–"),
        (flops(1.2365e12), "1.24 TFLOP/s"),
        (flops(999.99e9), "1.00 TFLOP/s"),
        (flops(5e7), "50.0 MFLOP/s"),
        (flops(None), "–"),
        (named("memory_bytes", 2**30), "1.00 GiB"),
        (named("save_s", 90), "1 min 30 s"),
        (named("threads", 2), "2"),
        (named("compile", True), "yes"),
        (named("gpus", ["a", "b"]), "a, b"),
        (named("peak_flops", 2e12), "2.00 TFLOP/s"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected


@settings(max_examples=300)
@given(st.one_of(st.none(), st.booleans(), st.text(), st.integers(-(10**400), 10**400), st.floats()))
def test_any_value_can_be_written(value: object) -> None:
    for form in (number, scientific, count, rate, size, duration, share, flops):
        assert form(value)


@given(st.text())
def test_text_for_a_terminal_is_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    assert shown == text or not text.isprintable()


def test_text_for_a_terminal_by_example() -> None:
    assert printable('a "b"\n\x1b[0m\x9b \u732b\u202e') == 'a "b"\\n\\x1b[0m\\x9b \u732b\\u202e'
