"""Logs are what they are configured to be, whoever was there first."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from kaito.runtime import configure_logging, get_logger
from kaito.runtime.log import ReconcileScope, reconcile_scope


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()


def test_a_logger_made_before_the_configuration_follows_it() -> None:
    log = get_logger("early")
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    log.debug("hidden")
    log.info("shown", value=1)
    logging.getLogger("library").warning("from a library")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("shown", "info"), ("from a library", "warning")]
    assert lines[0]["component"] == "early"
    assert lines[0]["value"] == 1


def test_a_line_names_the_reconcile_it_belongs_to() -> None:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    token = reconcile_scope.set(ReconcileScope("workspace", "ns", "name", "1234"))
    try:
        get_logger("x").info("inside")
    finally:
        reconcile_scope.reset(token)
    line = json.loads(stream.getvalue())
    assert (line["controller"], line["namespace"], line["name"], line["reconcileID"]) == (
        "workspace",
        "ns",
        "name",
        "1234",
    )


def test_an_exception_is_logged_with_its_traceback() -> None:
    stream = io.StringIO()
    configure_logging("info", json=True, stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        get_logger("x").exception("failed")
    assert "broken" in stream.getvalue()
    assert "ValueError" in stream.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("name", ["kaito", "a library"])
def test_a_traceback_does_not_tell_what_variables_hold(as_json: bool, name: str) -> None:
    stream = io.StringIO()
    configure_logging("info", json=as_json, stream=stream)

    def fail(authorization: str) -> None:
        raise ValueError("broken")

    secret = "s3cr3t"
    try:
        fail(secret)
    except ValueError:
        (get_logger("x") if name == "kaito" else logging.getLogger(name)).exception("failed")
    assert "ValueError" in stream.getvalue()
    assert "in fail" in stream.getvalue() or '"name": "fail"' in stream.getvalue()
    assert "s3cr3t" not in stream.getvalue()


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud' is not a log level"):
        configure_logging("loud")
