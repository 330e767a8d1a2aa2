"""What a kind may do beyond the rules that hold for every object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kaito.devcluster.apiserver.store import Collection, Object

IMMUTABLE = "field is immutable"


class Strategy:
    """Defaults, owned fields, validation and deletion rules of one kind; this base is also that of plain kinds.

    The functions change ``obj`` in place, which holds all of an object. They see it after decoding and pruning.
    """

    generation = False
    """Whether the server counts changes of what is wanted in ``metadata.generation``."""
    name_rule = "subdomain"
    """Which names are valid: subdomain, label, service or path (RBAC)."""
    unconditional_update = True
    """Whether PUT may leave out the resource version."""
    status_on_create = False
    """Whether a new object keeps the status it is sent with."""
    status_writes_labels = False
    """Whether a write of the status may also change labels."""
    free_form: tuple[str, ...] = ()
    """Fields that hold any JSON, in which null means something; elsewhere it is the same as absent."""
    returns_deleted = False
    """Whether DELETE answers with the last state instead of a Status."""
    default_propagation = "Background"
    deletion_finalizers: tuple[str, ...] = ()
    """Finalizers that the request to delete adds."""

    def default(self, obj: Object) -> None:
        """Fill in what clients may leave out. Must be idempotent."""

    def prepare_create(self, obj: Object, collection: Collection) -> None:
        """Set what the server sets on new objects; metadata is complete."""

    def prepare_update(self, obj: Object, old: Object, collection: Collection) -> None:
        """Carry over what clients cannot change or may leave out on an update."""

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """What schemas cannot say. ``old`` is None for a new object."""
        return []

    def grace_period(self, obj: Object, requested: int | None) -> int:
        """Seconds between the request to delete and the deletion, 0 for at once."""
        return 0


class CustomStrategy(Strategy):
    """Custom resources: generation counts, and PUT must say which version it replaces."""

    generation = True
    unconditional_update = False


class GenerationStrategy(Strategy):
    """Plain kinds whose changes are counted."""

    generation = True


def spec_of(obj: Mapping[str, Any]) -> dict[str, Any]:
    spec = obj.get("spec")
    return spec if isinstance(spec, dict) else {}


def set_default(obj: dict[str, Any], **values: Any) -> None:
    """Set each value where ``obj`` has none (or null)."""
    for name, value in values.items():
        if obj.get(name) is None:
            obj[name] = value


def immutable(field: str, new: Any, old: Any, why: str = IMMUTABLE) -> list[Cause]:
    return [] if same(new, old) else [Cause.invalid(field, new, why)]
