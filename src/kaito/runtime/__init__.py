"""A runtime for Kubernetes controllers on asyncio.

What a controller author needs is here; every other module of the package is private to it.
"""

from __future__ import annotations

from kaito.runtime.apply import OperationResult, create_or_patch, create_or_update
from kaito.runtime.cache import Cache
from kaito.runtime.certificates import Certificates, CertificateWatcher
from kaito.runtime.client import Client, PatchType
from kaito.runtime.clock import Clock, SystemClock, format_micro_time, format_time, parse_time
from kaito.runtime.config import RestConfig, in_cluster_config, load_config
from kaito.runtime.controller import Controller, Mapper, Watch, owner_keys
from kaito.runtime.discovery import Discovery
from kaito.runtime.elector import ElectionConfig
from kaito.runtime.errors import (
    AlreadyExists,
    ApiError,
    ConfigError,
    Conflict,
    DecodeError,
    FencedError,
    Forbidden,
    Invalid,
    LeadershipLost,
    NoKindMatch,
    NotFound,
    OutcomeUnknown,
    RuntimeFault,
    SyncTimeout,
    TerminalError,
    TransportError,
)
from kaito.runtime.events import Event, EventType, Predicate
from kaito.runtime.helpers import add_finalizer, owner_reference, remove_finalizer, retry_on_conflict
from kaito.runtime.log import configure as configure_logging
from kaito.runtime.log import get_logger
from kaito.runtime.manager import Manager, ManagerOptions, default_identity
from kaito.runtime.metrics import RuntimeMetrics
from kaito.runtime.objects import ObjectMeta, ObjectReference, OwnerReference, Stored, metadata_resource
from kaito.runtime.predicates import (
    all_of,
    annotations_changed,
    any_of,
    deletion_marked,
    generation_changed,
    labels_changed,
    matches_labels,
    negate,
    resource_version_changed,
)
from kaito.runtime.ratelimit import ExponentialRateLimiter, RateLimiter
from kaito.runtime.reconcile import Reconciler, Request, Result
from kaito.runtime.recorder import EventRecorder
from kaito.runtime.resource import Key, Manifest, Resource, manifest_resource
from kaito.runtime.rest import Rest
from kaito.runtime.selectors import FieldSelector, LabelSelector, Requirement
from kaito.runtime.selfsigned import SelfSignedCertificates
from kaito.runtime.sources import SINGLETON, Channel, Poll, Source, Timer
from kaito.runtime.store import Lister
from kaito.runtime.webhook import (
    AdmissionRequest,
    AdmissionResponse,
    Defaulter,
    Operation,
    Validator,
    WebhookServer,
    defaulting,
    validating,
)

__all__ = [
    "SINGLETON",
    "AdmissionRequest",
    "AdmissionResponse",
    "AlreadyExists",
    "ApiError",
    "Cache",
    "CertificateWatcher",
    "Certificates",
    "Channel",
    "Client",
    "Clock",
    "ConfigError",
    "Conflict",
    "Controller",
    "DecodeError",
    "Defaulter",
    "Discovery",
    "ElectionConfig",
    "Event",
    "EventRecorder",
    "EventType",
    "ExponentialRateLimiter",
    "FencedError",
    "FieldSelector",
    "Forbidden",
    "Invalid",
    "Key",
    "LabelSelector",
    "LeadershipLost",
    "Lister",
    "Manager",
    "ManagerOptions",
    "Manifest",
    "Mapper",
    "NoKindMatch",
    "NotFound",
    "ObjectMeta",
    "ObjectReference",
    "Operation",
    "OperationResult",
    "OutcomeUnknown",
    "OwnerReference",
    "PatchType",
    "Poll",
    "Predicate",
    "RateLimiter",
    "Reconciler",
    "Request",
    "Requirement",
    "Resource",
    "Rest",
    "RestConfig",
    "Result",
    "RuntimeFault",
    "RuntimeMetrics",
    "SelfSignedCertificates",
    "Source",
    "Stored",
    "SyncTimeout",
    "SystemClock",
    "TerminalError",
    "Timer",
    "TransportError",
    "Validator",
    "Watch",
    "WebhookServer",
    "add_finalizer",
    "all_of",
    "annotations_changed",
    "any_of",
    "configure_logging",
    "create_or_patch",
    "create_or_update",
    "default_identity",
    "defaulting",
    "deletion_marked",
    "format_micro_time",
    "format_time",
    "generation_changed",
    "get_logger",
    "in_cluster_config",
    "labels_changed",
    "load_config",
    "manifest_resource",
    "matches_labels",
    "metadata_resource",
    "negate",
    "owner_keys",
    "owner_reference",
    "parse_time",
    "remove_finalizer",
    "resource_version_changed",
    "retry_on_conflict",
    "validating",
]
