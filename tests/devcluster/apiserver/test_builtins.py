from __future__ import annotations

from kaito.devcluster.apiserver.objects.builtins import BUILTINS, ResourceInfo, definition_name
from kaito.devcluster.apiserver.schema.definitions import definitions


def _named(plural: str, group: str = "") -> ResourceInfo:
    return next(info for info in BUILTINS if (info.plural, info.group) == (plural, group))


def test_every_kind_has_its_definition_and_list() -> None:
    for info in BUILTINS:
        kinds = definitions()[info.definition]["x-kubernetes-group-version-kind"]
        assert {"group": info.group, "version": info.version, "kind": info.kind} in kinds
        assert ("list" in info.verbs) == bool(info.list_kind)
        if info.list_kind:
            assert definition_name(info.group, info.version, info.list_kind) in definitions()
        for sub in info.subresources.values():
            assert sub.connects or definition_name(sub.group, sub.version, sub.kind) in definitions()


def test_names_are_unique_within_a_version() -> None:
    places = [(info.group, info.version, info.plural) for info in BUILTINS]
    assert len(set(places)) == len(places)
    shorts = [(info.group, info.version, short) for info in BUILTINS for short in info.short_names]
    assert len(set(shorts)) == len(shorts)


def test_what_clients_look_for() -> None:
    objects = {name for name, sub in _named("pods").subresources.items() if not sub.connects}
    assert objects == {"binding", "eviction", "log", "status"}
    assert _named("deployments", "apps").subresources["scale"].kind == "Scale"
    assert _named("serviceaccounts").subresources["token"].group == "authentication.k8s.io"
    assert "deletecollection" not in _named("namespaces").verbs
    assert _named("selfsubjectaccessreviews", "authorization.k8s.io").verbs == ("create",)
    assert _named("customresourcedefinitions", "apiextensions.k8s.io").short_names == ("crd", "crds")
    assert _named("roles", "rbac.authorization.k8s.io").group_resource == "roles.rbac.authorization.k8s.io"
