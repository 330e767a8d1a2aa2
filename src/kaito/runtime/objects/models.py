"""Resources whose objects are pydantic models. The runtime itself needs no pydantic: the model brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from kaito.runtime.objects.resource import Resource

if TYPE_CHECKING:
    from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound="BaseModel")


def model_resource(
    model: type[ModelT], group: str, version: str, plural: str, *, kind: str = "", namespaced: bool = True
) -> Resource[ModelT]:
    """A resource whose objects are read as ``model`` and written as its fields that were set, by their aliases.

    ``kind`` is the model's name by default. A model that has to keep fields which it does not know allows extra ones:
    ``model_config = ConfigDict(extra="allow")``. What does not validate is a DecodeError for its reader.
    """

    def encode(obj: ModelT) -> bytes:
        return obj.model_dump_json(by_alias=True, exclude_unset=True).encode()

    return Resource(group, version, kind or model.__name__, plural, namespaced, model.model_validate_json, encode)
