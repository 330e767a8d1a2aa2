"""Types shared by every kind: object metadata, label selectors, conditions.

A model keeps what it does not know (``extra="allow"``) and writes what was set (``exclude_unset``), so reading an
object and writing it back loses nothing. Models are frozen: change one with ``model_copy(update=…)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

ConditionStatus = Literal["True", "False", "Unknown"]
Rule = Mapping[str, str]
"""One entry of ``x-kubernetes-validations``."""


class Model(BaseModel):
    """Base of the API types: JSON names in camelCase, Python names in snake_case."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="allow",
        frozen=True,
        # Objects come from an API server that has checked them; a re-read of a sub-model would only cost time.
        revalidate_instances="never",
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules of the object's schema."""

    def to_manifest(self) -> dict[str, Any]:
        """The object as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def field(
    description: str, *, default: Any = None, alias: str | None = None, required: bool = False, **schema: Any
) -> Any:
    """A field of a model with its part of the schema.

    ``required`` and ``schema`` shape only the CustomResourceDefinition: models also read objects that an older or
    looser schema let in. Beside JSON schema keywords, ``schema`` may hold ``rules`` (CEL rules of the field),
    ``items`` and ``values`` (keywords for the items of a list, the values of a map).
    """
    extra = {"required": required, **schema}
    return Field(default=default, alias=alias, description=description, json_schema_extra=extra)


def rule(expression: str, message: str, *, path: str = "", reason: str = "FieldValueInvalid") -> Rule:
    """A CEL rule. ``path`` (such as ``.image``) names the field at fault relative to where the rule stands."""
    entry = {"rule": expression, "message": message, "reason": reason}
    return entry | {"fieldPath": path} if path else entry


def timestamp(moment: datetime) -> str:
    """``metav1.Time``: RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class OwnerReference(Model):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    name: str = ""
    generate_name: str | None = None
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None

    def label(self, key: str) -> str | None:
        return (self.labels or {}).get(key)

    def annotation(self, key: str) -> str | None:
        return (self.annotations or {}).get(key)

    def has_finalizer(self, finalizer: str) -> bool:
        return finalizer in (self.finalizers or ())


class Object(Model):
    """A top-level object. ``api_version`` and ``kind`` are written even when nobody set them."""

    api_version: str
    kind: str
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    def model_post_init(self, context: Any, /) -> None:
        self.model_fields_set.update(("api_version", "kind"))


class LabelSelectorRequirement(Model):
    key: str = field("Label key that the selector applies to.", required=True, minLength=1, maxLength=317)
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = field(
        "Relation of the label to the values.", required=True
    )
    values: tuple[str, ...] | None = field(
        "Values for In and NotIn; empty for Exists and DoesNotExist.", maxItems=16, items={"maxLength": 63}
    )


class LabelSelector(Model):
    match_expressions: tuple[LabelSelectorRequirement, ...] | None = field(
        "Requirements on labels; all must hold.", maxItems=16
    )
    match_labels: dict[str, str] | None = field(
        "Labels with their values; all must hold.", maxProperties=32, values={"maxLength": 63}
    )

    def as_labels(self) -> dict[str, str]:
        """The labels that a node must be given to match: matchLabels and every In with one value."""
        labels = {
            term.key: term.values[0]
            for term in self.match_expressions or ()
            if term.operator == "In" and term.values and len(term.values) == 1
        }
        return labels | (self.match_labels or {})


class Condition(Model):
    """One aspect of the object's state (``metav1.Condition``)."""

    type: str = field("Aspect of the object that the condition speaks of.", required=True, maxLength=316)
    status: ConditionStatus = field("Whether the condition holds.", required=True)
    observed_generation: int | None = field(
        "The metadata.generation that the condition was set for.", format="int64", minimum=0
    )
    last_transition_time: str = field("When the status last changed.", default="", required=True, format="date-time")
    reason: str = field(
        "One word saying why.",
        default="",
        required=True,
        minLength=1,
        maxLength=1024,
        pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    )
    message: str = field("What a person should know about it.", default="", required=True, maxLength=32768)
