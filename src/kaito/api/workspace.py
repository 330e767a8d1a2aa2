"""Workspace ``kaito.sh``: GPU nodes and what runs on them. ``resource``, ``inference`` and ``tuning`` stand beside
``metadata``; there is no ``spec``.

It is served as ``v1alpha1`` and ``v1beta1``, which have one shape; only ``v1alpha1`` has a default instance type.

Constraints and CEL rules shape the CustomResourceDefinition; :mod:`kaito.api.validation` says the same in Python and
adds what needs the preset catalogue.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from kaito.api.meta import Condition, LabelSelector, Model, Object, ObjectMeta, Rule, field, rule

GROUP = "kaito.sh"
VERSION = "v1beta1"
"""The version that is stored, and that kaito reads and writes."""
VERSIONS: Final = ("v1alpha1", "v1beta1")
KIND = "Workspace"

MACHINE_READY = "MachineReady"
NODE_CLAIM_READY = "NodeClaimReady"
RESOURCE_READY = "ResourceReady"
INFERENCE_READY = "InferenceReady"
JOB_STARTED = "JobStarted"
WORKSPACE_SUCCEEDED = "WorkspaceSucceeded"
WORKSPACE_DELETING = "WorkspaceDeleting"

DEFAULT_INSTANCE_TYPES: Final = {"v1alpha1": "Standard_NC12s_v3", "v1beta1": ""}
"""By version; none where it is empty."""
DEFAULT_STRENGTH: Final = "1.0"
MAX_ADAPTERS: Final = 10
TUNING_METHODS: Final = ("lora", "qlora")

# Regular expressions that RE2 and Python's re read alike. They hold no backslash, so that CEL strings need no escape.
NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
SECRET_NAME_PATTERN: Final = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_REPOSITORY = "^[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
_TAG = ":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
IMAGE_PATTERN: Final = f"{_REPOSITORY}({_TAG}|({_TAG})?@sha256:[a-f0-9]{{64}})$"
OUTPUT_IMAGE_PATTERN: Final = f"{_REPOSITORY}{_TAG}$"
STRENGTH_PATTERN: Final = "^([0-9]+([.][0-9]*)?|[.][0-9]+)$"
PLACEHOLDERS: Final = ("_HERE", "<")
"""What marks the placeholders of published examples, such as ``ACR_REPO_HERE`` and ``<YOUR_IMAGE>``."""
_FILLED_IN = " && ".join(f"!self.contains('{mark}')" for mark in PLACEHOLDERS)

PLACEHOLDER_IMAGE: Final = (
    "is a placeholder: put your own registry, repository and tag, for example myregistry.azurecr.io/phi-3-adapter:0.0.1"
)
PLACEHOLDER_SECRET: Final = "is a placeholder: put the name of your own Secret"
IMAGE_FORM: Final = (
    "must be a full image reference, registry/repository:tag or registry/repository@sha256:digest, "
    "with the repository in lower case"
)
OUTPUT_IMAGE_FORM: Final = "must be a full image reference, registry/repository:tag, with the repository in lower case"
SECRET_FORM: Final = (
    "must be the name of a Secret in the Workspace's namespace: lower-case letters, digits, '-' and '.'"
)
NAME_FORM: Final = (
    "must be at most 63 lower-case letters, digits or '-', beginning with a letter and ending with a letter or digit: "
    "the Service of the Workspace carries the same name"
)
ADAPTER_NAME_FORM: Final = (
    "must be at most 63 lower-case letters, digits or '-', beginning with a letter and ending with a letter or digit: "
    "a container of the pod carries the same name"
)
STRENGTH_FORM: Final = "must be a number between 0 and 1, such as 0.5"
SELECTOR_FORM: Final = (
    "must use matchLabels, or matchExpressions with operator In and one value: new nodes are given these labels"
)
PLACEHOLDER_URL: Final = "is a placeholder: put the address of your own data"
ONE_SOURCE: Final = "exactly one of urls, image and volumeSource must be set"
ONE_DESTINATION: Final = "exactly one of image and volumeSource must be set"
ADAPTER_SOURCE: Final = (
    "an adapter comes from an image or a volume: set exactly one of image and volumeSource, and no urls"
)
URL_FORM: Final = "must be an address that begins with http:// or https://"
CONFIG_FORM: Final = (
    "must be the name of a ConfigMap in the Workspace's namespace: lower-case letters, digits, '-' and '.'"
)


def _immutable(what: str) -> Rule:
    return rule("self == oldSelf", f"{what} cannot be changed; make a new Workspace instead")


def _image(pattern: str, form: str, **schema: Any) -> dict[str, Any]:
    return {
        "maxLength": 512,
        "rules": (
            rule(_FILLED_IN, PLACEHOLDER_IMAGE),
            rule(f"!({_FILLED_IN}) || self.matches('{pattern}')", form),
        ),
        **schema,
    }


_SECRET: dict[str, Any] = {
    "maxLength": 253,
    "rules": (
        rule(_FILLED_IN, PLACEHOLDER_SECRET),
        rule(f"!({_FILLED_IN}) || self.matches('{SECRET_NAME_PATTERN}')", SECRET_FORM),
    ),
}
_CONFIG_MAP: dict[str, Any] = {
    "maxLength": 253,
    "rules": (rule(f"self == '' || self.matches('{SECRET_NAME_PATTERN}')", CONFIG_FORM),),
}
_KEYED_BY_TYPE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
_OPEN_OBJECT: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


class ResourceSpec(Model):
    """The nodes that the Workspace needs."""

    count: int = field(
        "How many GPU nodes the workload needs.",
        default=1,
        minimum=1,
        maximum=1000,
        rules=(_immutable("the number of nodes"),),
    )
    instance_type: str = field(
        "Size of the nodes, as the cloud names it, in any case. Existing nodes count only if they are of this size, "
        "except those named in preferredNodes. Where no nodes are made (node source byo) it has no meaning.",
        default="",
        maxLength=64,
        rules=(
            rule(
                "self.lowerAscii() == oldSelf.lowerAscii()",
                "the instance type cannot be changed; make a new Workspace instead",
            ),
        ),
    )
    label_selector: LabelSelector | None = field(
        "Labels of the nodes that the workload may run on. Nodes that are made for the Workspace are given them.",
        required=True,
        rules=(
            _immutable("the label selector"),
            rule(
                "!has(self.matchExpressions) || self.matchExpressions.all(e, "
                "e.operator == 'In' && has(e.values) && size(e.values) == 1)",
                SELECTOR_FORM,
            ),
        ),
        **{"x-kubernetes-map-type": "atomic"},
    )
    preferred_nodes: tuple[str, ...] | None = field(
        "Names of nodes to use first, whatever their size. They must carry the labels of labelSelector.",
        maxItems=100,
        items={"maxLength": 253},
    )


class PresetOptions(Model):
    """How the image of a preset is obtained."""

    image: str | None = field(
        "Image of a private preset, in a registry of your own.", **_image(IMAGE_PATTERN, IMAGE_FORM)
    )
    image_pull_secrets: tuple[str, ...] | None = field(
        "Secrets in the Workspace's namespace for pulling the image.", maxItems=16, items=_SECRET
    )
    model_access_secret: str | None = field(
        "Secret in the Workspace's namespace with the key HF_TOKEN, for models that are downloaded and not public.",
        **_SECRET,
    )


class PresetSpec(Model):
    """A model that kaito knows how to run."""

    RULES: ClassVar = (
        rule(
            "!has(self.accessMode) || self.accessMode != 'private' || "
            "(has(self.presetOptions) && has(self.presetOptions.image))",
            "a private preset needs the image that holds the model: set presetOptions.image",
            path=".presetOptions.image",
            reason="FieldValueRequired",
        ),
    )

    name: str = field("Name of the preset.", default="", required=True, maxLength=128)
    access_mode: Literal["public", "private"] = field(
        "Whether the image is public or in a registry of your own.", default="public"
    )
    preset_options: PresetOptions = field(
        "Where the image of a private preset is and how to pull it.", default=PresetOptions()
    )


class DataSource(Model):
    """Where data comes from: exactly one of urls, image and volumeSource."""

    name: str | None = field("Name of the data.", maxLength=63)
    urls: tuple[str, ...] | None = field(
        "Addresses to download, http or https.",
        maxItems=128,
        items={
            "maxLength": 2048,
            "rules": (
                rule(_FILLED_IN, PLACEHOLDER_URL),
                rule(f"!({_FILLED_IN}) || self.matches('^https?://[^/]+')", URL_FORM),
            ),
        },
    )
    volume_source: dict[str, Any] | None = field("A volume (v1 VolumeSource) that holds the data.", **_OPEN_OBJECT)
    image: str | None = field("Image that holds the data in /data.", **_image(IMAGE_PATTERN, IMAGE_FORM))
    image_pull_secrets: tuple[str, ...] | None = field(
        "Secrets in the Workspace's namespace for pulling the image.", maxItems=16, items=_SECRET
    )


class DataDestination(Model):
    """Where a result goes."""

    RULES: ClassVar = (
        rule("has(self.image) != has(self.volumeSource)", ONE_DESTINATION, path=".image"),
        rule(
            "!has(self.image) || has(self.imagePushSecret)",
            "pushing an image needs the Secret with the registry's credentials",
            path=".imagePushSecret",
            reason="FieldValueRequired",
        ),
    )

    volume_source: dict[str, Any] | None = field("A volume (v1 VolumeSource) to put the result on.", **_OPEN_OBJECT)
    image: str | None = field("Image to push the result to.", **_image(OUTPUT_IMAGE_PATTERN, OUTPUT_IMAGE_FORM))
    image_push_secret: str | None = field(
        "Secret (kubernetes.io/dockerconfigjson) in the Workspace's namespace for pushing the image.", **_SECRET
    )


class AdapterSpec(Model):
    """A LoRA adapter to load beside the model."""

    RULES: ClassVar = (
        rule(
            "!has(self.source) || has(self.source.name)",
            "an adapter needs a name",
            path=".source.name",
            reason="FieldValueRequired",
        ),
        rule(
            "!has(self.source) || (!has(self.source.urls) && has(self.source.image) != has(self.source.volumeSource))",
            ADAPTER_SOURCE,
            path=".source",
        ),
        rule(
            f"!has(self.source) || !has(self.source.name) || self.source.name.matches('{NAME_PATTERN}')",
            ADAPTER_NAME_FORM,
            path=".source.name",
        ),
    )

    source: DataSource | None = field("Name of the adapter, and the image or volume that holds it.", required=True)
    strength: str | None = field(
        "Weight of the adapter, from 0 to 1.",
        default=DEFAULT_STRENGTH,
        maxLength=16,
        rules=(rule(f"self.matches('{STRENGTH_PATTERN}') && double(self) <= 1.0", STRENGTH_FORM),),
    )


class InferenceSpec(Model):
    """A model to serve: a preset, or a pod template of your own."""

    RULES: ClassVar = (
        rule(
            "has(self.preset) || has(self.template)",
            "one of preset and template is needed",
            path=".preset",
            reason="FieldValueRequired",
        ),
        rule(
            "!(has(self.preset) && has(self.template))",
            "preset and template exclude each other: remove one",
            path=".template",
            reason="FieldValueForbidden",
        ),
        rule(
            "!has(self.adapters) || has(self.preset)",
            "adapters need a preset: a template brings its own",
            path=".adapters",
            reason="FieldValueForbidden",
        ),
        rule(
            "has(self.preset) == has(oldSelf.preset)",
            "a preset cannot be added or removed; make a new Workspace instead",
            path=".preset",
        ),
    )

    preset: PresetSpec | None = field("The model to serve.", rules=(_immutable("the preset"),))
    template: dict[str, Any] | None = field(
        "Pod template (v1 PodTemplateSpec) to run instead of a preset.", **_OPEN_OBJECT
    )
    config: str | None = field(
        "ConfigMap in the Workspace's namespace with the key inference_config.yaml: parameters of the model server.",
        **_CONFIG_MAP,
    )
    adapters: tuple[AdapterSpec, ...] | None = field(
        "LoRA adapters to load beside the preset.",
        maxItems=MAX_ADAPTERS,
        rules=(
            rule(
                "self.all(a, !has(a.source) || !has(a.source.name) || self.exists_one(b, "
                "has(b.source) && has(b.source.name) && b.source.name == a.source.name))",
                "two adapters have the same source.name",
            ),
        ),
    )


class TuningSpec(Model):
    """A model to fine-tune with LoRA or QLoRA."""

    preset: PresetSpec | None = field("The model to tune.", required=True, rules=(_immutable("the preset"),))
    method: str = field(
        "lora or qlora.",
        default="",
        required=True,
        maxLength=16,
        rules=(
            rule("self.lowerAscii() in ['lora', 'qlora']", "must be lora or qlora"),
            rule(
                "self.lowerAscii() == oldSelf.lowerAscii()",
                "the tuning method cannot be changed; make a new Workspace instead",
            ),
        ),
    )
    config: str | None = field(
        "ConfigMap in the Workspace's namespace with training_config.yaml; by default the method's standard settings.",
        **_CONFIG_MAP,
    )
    input: DataSource | None = field(
        "The training data.",
        required=True,
        rules=(
            rule(
                "(has(self.urls) && size(self.urls) > 0 ? 1 : 0) + (has(self.image) ? 1 : 0) "
                "+ (has(self.volumeSource) ? 1 : 0) == 1",
                ONE_SOURCE,
            ),
            rule(
                "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
                "the name of the data cannot be changed",
                path=".name",
            ),
        ),
    )
    output: DataDestination | None = field("Where the adapter goes.", required=True)


class WorkspaceStatus(Model):
    worker_nodes: tuple[str, ...] | None = field("Names of the nodes that the workload runs on, sorted.")
    target_node_count: int | None = field(
        "How many nodes the workload needs; more than resource.count where the model does not fit on so few.",
        format="int32",
    )
    state: str | None = field("All in one word: Pending, Ready, NotReady, Running, Succeeded or Failed.", maxLength=32)
    conditions: tuple[Condition, ...] | None = field("How far the Workspace has come.", **_KEYED_BY_TYPE)


class Workspace(Object):
    """GPU nodes, and a model that is served or tuned on them."""

    RULES: ClassVar = (
        rule(
            f"size(self.metadata.name) <= 63 && self.metadata.name.matches('{NAME_PATTERN}')",
            f"metadata.name {NAME_FORM}",
        ),
        rule(
            "has(self.inference) || has(self.tuning)",
            "one of inference and tuning is needed",
            path=".inference",
            reason="FieldValueRequired",
        ),
        rule(
            "!(has(self.inference) && has(self.tuning))",
            "inference and tuning exclude each other: remove one",
            path=".tuning",
            reason="FieldValueForbidden",
        ),
        rule(
            "has(self.inference) == has(oldSelf.inference)",
            "inference cannot be added or removed; make a new Workspace instead",
            path=".inference",
        ),
        rule(
            "has(self.tuning) == has(oldSelf.tuning)",
            "tuning cannot be added or removed; make a new Workspace instead",
            path=".tuning",
        ),
        rule(
            "!has(self.tuning) || !has(self.resource.count) || self.resource.count <= 1",
            "tuning runs on one node: set count to 1",
            path=".resource.count",
        ),
    )

    api_version: str = f"{GROUP}/{VERSION}"
    kind: str = KIND
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    resource: ResourceSpec = field("The nodes that the Workspace needs.", default=ResourceSpec(), required=True)
    inference: InferenceSpec | None = field("A model to serve.")
    tuning: TuningSpec | None = field("A model to tune.")
    status: WorkspaceStatus = field("What has become of it.", default=WorkspaceStatus())
