"""Admission and conversion webhooks: what the API server asks before it stores or returns an object."""

from __future__ import annotations

from kaito.runtime.serving.webhook.admission import (
    AdmissionHandler,
    AdmissionRequest,
    AdmissionResponse,
    Defaulter,
    Operation,
    Validator,
    defaulting,
    validating,
)
from kaito.runtime.serving.webhook.conversion import Converter
from kaito.runtime.serving.webhook.server import WebhookServer

__all__ = [
    "AdmissionHandler",
    "AdmissionRequest",
    "AdmissionResponse",
    "Converter",
    "Defaulter",
    "Operation",
    "Validator",
    "WebhookServer",
    "defaulting",
    "validating",
]
