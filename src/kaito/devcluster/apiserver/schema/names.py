"""What names, labels and qualified names may look like, in Kubernetes' words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kaito.devcluster.apiserver.schema import Cause

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]\Z")

SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SERVICE_NAME_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
LABEL_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
QUALIFIED_NAME_MESSAGE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def validate_name(name: str, rule: str = "subdomain") -> str:
    """What is wrong with an object name, ``""`` for nothing. ``rule``: subdomain, label, service or path."""
    if rule == "path":
        if name in (".", ".."):
            return f"may not be '{name}'"
        return next((f"may not contain '{letter}'" for letter in "/%" if letter in name), "")
    pattern, limit, message = {
        "subdomain": (_SUBDOMAIN, 253, SUBDOMAIN_MESSAGE),
        "label": (_LABEL, 63, LABEL_MESSAGE),
        "service": (_SERVICE_NAME, 63, SERVICE_NAME_MESSAGE),
    }[rule]
    if len(name) > limit:
        return f"must be no more than {limit} characters"
    return "" if pattern.match(name) else message


def validate_labels(labels: Mapping[str, str], field: str) -> list[Cause]:
    causes = []
    for key, value in labels.items():
        if wrong := validate_qualified_name(key):
            causes.append(Cause.invalid(field, key, wrong))
        if len(value) > 63:
            causes.append(Cause.invalid(field, value, "must be no more than 63 characters"))
        elif value and not _QUALIFIED.match(value):
            causes.append(Cause.invalid(field, value, LABEL_VALUE_MESSAGE))
    return causes


def validate_qualified_name(name: str) -> str:
    prefix, slash, rest = name.rpartition("/")
    if slash and (len(prefix) > 253 or not _SUBDOMAIN.match(prefix)):
        return f"prefix part {SUBDOMAIN_MESSAGE}"
    if len(rest) > 63:
        return "name part must be no more than 63 characters"
    return "" if _QUALIFIED.match(rest) else QUALIFIED_NAME_MESSAGE
