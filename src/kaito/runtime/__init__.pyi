"""The types of ``kaito.runtime``: which name is in which room."""

from .cache.cache import Cache as Cache
from .cache.lister import Lister as Lister
from .cache.predicates import all_of as all_of
from .cache.predicates import annotations_changed as annotations_changed
from .cache.predicates import any_of as any_of
from .cache.predicates import deletion_marked as deletion_marked
from .cache.predicates import generation_changed as generation_changed
from .cache.predicates import labels_changed as labels_changed
from .cache.predicates import matches_labels as matches_labels
from .cache.predicates import negate as negate
from .cache.predicates import resource_version_changed as resource_version_changed
from .clock import Clock as Clock
from .clock import SystemClock as SystemClock
from .clock import format_micro_time as format_micro_time
from .clock import format_time as format_time
from .clock import parse_time as parse_time
from .control.controller import Controller as Controller
from .control.controller import Scoped as Scoped
from .control.controller import Watch as Watch
from .control.controller import owner_keys as owner_keys
from .control.mapping import Mapper as Mapper
from .control.ratelimit import ExponentialRateLimiter as ExponentialRateLimiter
from .control.ratelimit import RateLimiter as RateLimiter
from .control.reconcile import Reconciler as Reconciler
from .control.reconcile import Request as Request
from .control.reconcile import Result as Result
from .control.run import ControllerRun as ControllerRun
from .control.run import Subscription as Subscription
from .control.sources import SINGLETON as SINGLETON
from .control.sources import Channel as Channel
from .control.sources import Poll as Poll
from .control.sources import Source as Source
from .control.sources import Timer as Timer
from .control.workqueue import LOW_PRIORITY as LOW_PRIORITY
from .errors import AlreadyExists as AlreadyExists
from .errors import ApiError as ApiError
from .errors import BadRequest as BadRequest
from .errors import CacheError as CacheError
from .errors import CacheNotStarted as CacheNotStarted
from .errors import ConfigError as ConfigError
from .errors import Conflict as Conflict
from .errors import DecodeError as DecodeError
from .errors import Expired as Expired
from .errors import FencedError as FencedError
from .errors import Forbidden as Forbidden
from .errors import InternalError as InternalError
from .errors import Invalid as Invalid
from .errors import LeadershipLost as LeadershipLost
from .errors import MethodNotAllowed as MethodNotAllowed
from .errors import NoKindMatch as NoKindMatch
from .errors import NotAcceptable as NotAcceptable
from .errors import NotCached as NotCached
from .errors import NotFound as NotFound
from .errors import NotImplementedByServer as NotImplementedByServer
from .errors import OutcomeUnknown as OutcomeUnknown
from .errors import RequestTooLarge as RequestTooLarge
from .errors import RuntimeFault as RuntimeFault
from .errors import ServerTimeout as ServerTimeout
from .errors import ServiceUnavailable as ServiceUnavailable
from .errors import StopTimeout as StopTimeout
from .errors import SyncTimeout as SyncTimeout
from .errors import TerminalError as TerminalError
from .errors import TooManyRequests as TooManyRequests
from .errors import TransportError as TransportError
from .errors import Unauthorized as Unauthorized
from .errors import UnsupportedMediaType as UnsupportedMediaType
from .log import configure_logging as configure_logging
from .log import get_logger as get_logger
from .manager.elector import ElectionConfig as ElectionConfig
from .manager.elector import Fence as Fence
from .manager.groups import Order as Order
from .manager.manager import Manager as Manager
from .manager.options import ManagerOptions as ManagerOptions
from .manager.options import default_identity as default_identity
from .manager.plugins import load_controllers as load_controllers
from .manager.recorder import EventRecorder as EventRecorder
from .metrics.runtime import RuntimeMetrics as RuntimeMetrics
from .objects.events import Event as Event
from .objects.events import EventType as EventType
from .objects.events import Predicate as Predicate
from .objects.models import model_resource as model_resource
from .objects.resource import CONFIG_MAPS as CONFIG_MAPS
from .objects.resource import CONTROLLER_REVISIONS as CONTROLLER_REVISIONS
from .objects.resource import CUSTOM_RESOURCE_DEFINITIONS as CUSTOM_RESOURCE_DEFINITIONS
from .objects.resource import DEPLOYMENTS as DEPLOYMENTS
from .objects.resource import ENDPOINT_SLICES as ENDPOINT_SLICES
from .objects.resource import ENDPOINTS as ENDPOINTS
from .objects.resource import EVENTS as EVENTS
from .objects.resource import JOBS as JOBS
from .objects.resource import LEASES as LEASES
from .objects.resource import MUTATING_WEBHOOK_CONFIGURATIONS as MUTATING_WEBHOOK_CONFIGURATIONS
from .objects.resource import NAMESPACES as NAMESPACES
from .objects.resource import NODES as NODES
from .objects.resource import PODS as PODS
from .objects.resource import REPLICA_SETS as REPLICA_SETS
from .objects.resource import SECRETS as SECRETS
from .objects.resource import SERVICE_ACCOUNTS as SERVICE_ACCOUNTS
from .objects.resource import SERVICES as SERVICES
from .objects.resource import STATEFUL_SETS as STATEFUL_SETS
from .objects.resource import VALIDATING_WEBHOOK_CONFIGURATIONS as VALIDATING_WEBHOOK_CONFIGURATIONS
from .objects.resource import Key as Key
from .objects.resource import Manifest as Manifest
from .objects.resource import Resource as Resource
from .objects.resource import manifest_resource as manifest_resource
from .objects.selectors import FieldSelector as FieldSelector
from .objects.selectors import LabelSelector as LabelSelector
from .objects.selectors import Requirement as Requirement
from .objects.stored import ObjectMeta as ObjectMeta
from .objects.stored import ObjectReference as ObjectReference
from .objects.stored import OwnerReference as OwnerReference
from .objects.stored import Stored as Stored
from .objects.stored import metadata_resource as metadata_resource
from .objects.stored import owner_reference as owner_reference
from .objects.transforms import DropFields as DropFields
from .serving.certificates import Certificates as Certificates
from .serving.certificates import CertificateWatcher as CertificateWatcher
from .serving.selfsigned import SelfSignedCertificates as SelfSignedCertificates
from .serving.webhook import AdmissionRequest as AdmissionRequest
from .serving.webhook import AdmissionResponse as AdmissionResponse
from .serving.webhook import Defaulter as Defaulter
from .serving.webhook import Operation as Operation
from .serving.webhook import Validator as Validator
from .serving.webhook import WebhookServer as WebhookServer
from .serving.webhook import defaulting as defaulting
from .serving.webhook import validating as validating
from .tasks import TaskScope as TaskScope
from .tasks import first_of as first_of
from .transport.apply import OperationResult as OperationResult
from .transport.apply import create_or_patch as create_or_patch
from .transport.apply import create_or_update as create_or_update
from .transport.client import Client as Client
from .transport.client import PatchType as PatchType
from .transport.config import Impersonation as Impersonation
from .transport.config import Material as Material
from .transport.config import RestConfig as RestConfig
from .transport.config import TlsConfig as TlsConfig
from .transport.config import in_cluster_config as in_cluster_config
from .transport.config import load_config as load_config
from .transport.conflicts import add_finalizer as add_finalizer
from .transport.conflicts import remove_finalizer as remove_finalizer
from .transport.conflicts import retry_on_conflict as retry_on_conflict
from .transport.credentials import StaticToken as StaticToken
from .transport.discovery import Discovery as Discovery
from .transport.rest import Rest as Rest
from .transport.watching import WatchEvent as WatchEvent

__all__ = [
    "CONFIG_MAPS",
    "CONTROLLER_REVISIONS",
    "CUSTOM_RESOURCE_DEFINITIONS",
    "DEPLOYMENTS",
    "ENDPOINTS",
    "ENDPOINT_SLICES",
    "EVENTS",
    "JOBS",
    "LEASES",
    "LOW_PRIORITY",
    "MUTATING_WEBHOOK_CONFIGURATIONS",
    "NAMESPACES",
    "NODES",
    "PODS",
    "REPLICA_SETS",
    "SECRETS",
    "SERVICES",
    "SERVICE_ACCOUNTS",
    "SINGLETON",
    "STATEFUL_SETS",
    "VALIDATING_WEBHOOK_CONFIGURATIONS",
    "AdmissionRequest",
    "AdmissionResponse",
    "AlreadyExists",
    "ApiError",
    "BadRequest",
    "Cache",
    "CacheError",
    "CacheNotStarted",
    "CertificateWatcher",
    "Certificates",
    "Channel",
    "Client",
    "Clock",
    "ConfigError",
    "Conflict",
    "Controller",
    "ControllerRun",
    "DecodeError",
    "Defaulter",
    "Discovery",
    "DropFields",
    "ElectionConfig",
    "Event",
    "EventRecorder",
    "EventType",
    "Expired",
    "ExponentialRateLimiter",
    "Fence",
    "FencedError",
    "FieldSelector",
    "Forbidden",
    "Impersonation",
    "InternalError",
    "Invalid",
    "Key",
    "LabelSelector",
    "LeadershipLost",
    "Lister",
    "Manager",
    "ManagerOptions",
    "Manifest",
    "Mapper",
    "Material",
    "MethodNotAllowed",
    "NoKindMatch",
    "NotAcceptable",
    "NotCached",
    "NotFound",
    "NotImplementedByServer",
    "ObjectMeta",
    "ObjectReference",
    "Operation",
    "OperationResult",
    "Order",
    "OutcomeUnknown",
    "OwnerReference",
    "PatchType",
    "Poll",
    "Predicate",
    "RateLimiter",
    "Reconciler",
    "Request",
    "RequestTooLarge",
    "Requirement",
    "Resource",
    "Rest",
    "RestConfig",
    "Result",
    "RuntimeFault",
    "RuntimeMetrics",
    "Scoped",
    "SelfSignedCertificates",
    "ServerTimeout",
    "ServiceUnavailable",
    "Source",
    "StaticToken",
    "StopTimeout",
    "Stored",
    "Subscription",
    "SyncTimeout",
    "SystemClock",
    "TaskScope",
    "TerminalError",
    "Timer",
    "TlsConfig",
    "TooManyRequests",
    "TransportError",
    "Unauthorized",
    "UnsupportedMediaType",
    "Validator",
    "Watch",
    "WatchEvent",
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
    "first_of",
    "format_micro_time",
    "format_time",
    "generation_changed",
    "get_logger",
    "in_cluster_config",
    "labels_changed",
    "load_config",
    "load_controllers",
    "manifest_resource",
    "matches_labels",
    "metadata_resource",
    "model_resource",
    "negate",
    "owner_keys",
    "owner_reference",
    "parse_time",
    "remove_finalizer",
    "resource_version_changed",
    "retry_on_conflict",
    "validating",
]
