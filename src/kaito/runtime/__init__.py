"""A runtime for Kubernetes controllers on asyncio.

What a controller author needs is here; every other module of the package is private to it.
"""

from __future__ import annotations

from kaito.runtime.cache import Cache
from kaito.runtime.client import Client, PatchType
from kaito.runtime.clock import Clock, SystemClock, format_micro_time, format_time, parse_time
from kaito.runtime.config import RestConfig, in_cluster_config, load_config
from kaito.runtime.controller import Controller, Mapper, Watch, owner_keys
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
from kaito.runtime.store import Lister

__all__ = [
    "AlreadyExists",
    "ApiError",
    "Cache",
    "Client",
    "Clock",
    "ConfigError",
    "Conflict",
    "Controller",
    "DecodeError",
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
    "NotFound",
    "ObjectMeta",
    "ObjectReference",
    "OutcomeUnknown",
    "OwnerReference",
    "PatchType",
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
    "Stored",
    "SyncTimeout",
    "SystemClock",
    "TerminalError",
    "TransportError",
    "Watch",
    "add_finalizer",
    "all_of",
    "annotations_changed",
    "any_of",
    "configure_logging",
    "default_identity",
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
]
