from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.api.quantity import Quantity


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0", "0"),
        ("1", "1"),
        ("1.5", "1500m"),
        (".5", "500m"),
        ("5.", "5"),
        ("1000", "1k"),
        ("1500m", "1500m"),
        ("2000m", "2"),
        ("50Gi", "50Gi"),
        ("1.5Gi", "1536Mi"),
        ("1024Mi", "1Gi"),
        ("0.5Ki", "512"),
        ("-2Gi", "-2Gi"),
        ("1e3", "1e3"),
        ("1E6", "1e6"),
        ("100M", "100M"),
        ("0.1n", "1n"),
        ("+3", "3"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert str(Quantity.parse(text)) == canonical


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "0x10", "1e", "--1", "1.2.3", "1Gi ", "1e1000", "\u0661"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        Quantity.parse(text)


def test_integers_are_quantities() -> None:
    assert Quantity.parse(8) == Quantity.parse("8")


def test_comparison_is_by_amount() -> None:
    assert Quantity.parse("1Gi") == Quantity.parse("1024Mi") == Quantity.gib(1)
    assert len({Quantity.parse("1Gi"), Quantity.parse("1024Mi")}) == 1
    assert Quantity.parse("1G") < Quantity.parse("1Gi")
    assert Quantity.parse("16Gi") * 2 == Quantity.parse("32Gi")
    assert Quantity.parse("80Gi") // 4 == Quantity.parse("20Gi")
    assert Quantity.parse("1Gi") + Quantity.parse("1Gi") - Quantity.parse("2Gi") == Quantity(0)
    assert not Quantity.parse("0")


def test_gib_round_the_way_they_say() -> None:
    assert Quantity.parse("1.5Gi").ceil_gib() == 2
    assert Quantity.parse("1.5Gi").floor_gib() == 1
    assert Quantity.parse("400").ceil_gib() == 1
    assert Quantity.parse("1500m").ceil() == 2


@given(st.integers(min_value=-(10**30), max_value=10**30), st.sampled_from(["DecimalSI", "DecimalExponent"]))
def test_decimal_text_is_exact(nanos: int, style: str) -> None:
    quantity = Quantity(nanos, style)
    assert Quantity.parse(str(quantity)) == quantity


@given(st.integers(min_value=0, max_value=2**62))
def test_binary_text_is_exact_for_whole_numbers(units: int) -> None:
    quantity = Quantity(units * 10**9, "BinarySI")
    assert Quantity.parse(str(quantity)) == quantity
