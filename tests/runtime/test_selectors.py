"""Selectors mean what they mean to Kubernetes, and nonsense is refused instead of matching everything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.runtime import FieldSelector, LabelSelector

LABELS = {"app": "web", "tier": "front", "count": "7", "empty": ""}

names = st.from_regex(r"[a-z]([-a-z0-9]{0,5}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app=web,tier=back", False),
        ("app!=web", False),
        ("missing!=web", True),
        ("app in (web, api)", True),
        ("app in (api)", False),
        ("app notin (api,db)", True),
        ("missing notin (api)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("!app", False),
        ("count>6", True),
        ("count<7", False),
        ("app>6", False),
        ("empty=", True),
        ("empty in ()", True),
        ("  app = web , tier in ( front ) ", True),
        ("example.com/name=x", False),
        ("in=in", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert LabelSelector.parse(selector).matches(LABELS) is matches


@pytest.mark.parametrize(
    "selector",
    [
        "=x",
        "a=b=c",
        "a in",
        "a in (",
        "a in (b",
        "a in b",
        "a,,b",
        "a,",
        "a=b c",
        "-a",
        "a/b/c=d",
        "a=" + "x" * 64,
        "a>b",
        "(a)",
        "a~b=c",
    ],
)
def test_what_is_not_a_label_selector_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match=r"label|operator"):
        LabelSelector.parse(selector)


def test_the_object_form() -> None:
    selector = LabelSelector.from_object(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front", "edge"]}],
        }
    )
    assert selector is not None
    assert selector.matches(LABELS)
    assert LabelSelector.from_object({}) == LabelSelector()
    assert LabelSelector.from_object(None) is None
    with pytest.raises(ValueError, match="takes no values"):
        LabelSelector.from_object({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]})
    with pytest.raises(ValueError, match="not a selector operator"):
        LabelSelector.from_object({"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]})


@given(st.dictionaries(names, names, max_size=4), st.dictionaries(names, names, max_size=4))
def test_a_selector_of_labels_matches_what_has_them_and_survives_its_own_text(
    wanted: dict[str, str], had: dict[str, str]
) -> None:
    selector = LabelSelector.of(wanted)
    assert selector.matches(had) == (wanted.items() <= had.items())
    assert LabelSelector.parse(str(selector)) == selector


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("metadata.name=a", True),
        ("metadata.name==a,status.phase!=Running", True),
        ("metadata.name!=a", False),
        ("spec.nodeName=", True),
        (r"metadata.name=a\,b", False),
    ],
)
def test_field_selectors(selector: str, matches: bool) -> None:
    fields = {"metadata.name": "a", "status.phase": "Pending"}
    assert FieldSelector.parse(selector).matches(lambda field: fields.get(field, "")) is matches


def test_a_field_selector_without_an_operator_is_refused_and_values_may_be_escaped() -> None:
    with pytest.raises(ValueError, match="has no operator"):
        FieldSelector.parse("metadata.name")
    assert FieldSelector.parse(r"a=x\,y\=z").value("a") == "x,y=z"
