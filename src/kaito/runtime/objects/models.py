"""Resources whose objects are pydantic models. The runtime itself needs no pydantic: the model brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from kaito.runtime.objects.resource import Resource

if TYPE_CHECKING:
    from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound="BaseModel")


def model_resource(
    model: type[ModelT], group: str, version: str, plural: str, *, kind: str = "", namespaced: bool = True
) -> Resource[ModelT]:
    """A resource whose objects are read as ``model`` and written as its fields that were set, by their aliases, and with the
    ``apiVersion`` and ``kind`` that a server wants.

    ``kind`` is the model's name by default. A model that has to keep fields which it does not know allows extra ones:
    ``model_config = ConfigDict(extra="allow")``. What does not validate is a DecodeError for its reader.
    """

    kind = kind or model.__name__
    head = {"apiVersion": f"{group}/{version}" if group else version, "kind": kind}

    def encode(obj: ModelT) -> bytes:
        return msgspec.json.encode(head | obj.model_dump(mode="json", by_alias=True, exclude_unset=True))

    return Resource(group, version, kind, plural, namespaced, model.model_validate_json, encode)
