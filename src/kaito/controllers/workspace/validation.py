"""The first step: a specification that cannot work is refused before anything is made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api.validation import inference_config, training_config, validate
from kaito.api.validation.configmaps import INFERENCE_KEY, TRAINING_KEY
from kaito.controllers.pipeline import Fail, Outcome, Proceed
from kaito.controllers.workspace.configs import hash_of
from kaito.controllers.workspace.manifests.job import STANDARD_CONFIGS

if TYPE_CHECKING:
    from kaito.api.validation import FieldError
    from kaito.controllers.workspace.configs import ConfigMaps
    from kaito.controllers.workspace.context import WorkspaceContext


class ValidationStep:
    """Catches what got past admission: facts of the catalogue, objects from before a rule, and ConfigMaps that changed."""

    condition: ClassVar[str] = ""
    pending: ClassVar[str] = ""
    failed: ClassVar[str] = "workspaceInvalid"

    def __init__(self, configs: ConfigMaps) -> None:
        self._configs = configs

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        verdict = validate(ctx.workspace, ctx.catalogue, ctx.settings.policy)
        if verdict.errors:
            return Fail(self.failed, str(verdict), terminal=True)
        errors = await self._read_config(ctx)
        if errors:
            # The ConfigMap is watched: its next version brings the Workspace back.
            return Fail(self.failed, "; ".join(map(str, errors)))
        if problem := self._too_small(ctx):
            return Fail(self.failed, f"resource.instanceType: {problem}", terminal=True)
        return Proceed()

    async def _read_config(self, ctx: WorkspaceContext) -> list[FieldError]:
        inference, tuning = ctx.workspace.inference, ctx.workspace.tuning
        if tuning is not None:
            if not tuning.config:
                ctx.config = STANDARD_CONFIGS[tuning.method.lower()]
                return []
            data = await self._configs.data(tuning.config, ctx.namespace)
            ctx.config, errors = training_config(tuning.config, data, tuning.method)
            ctx.config_hash = hash_of((data or {}).get(TRAINING_KEY, ""))
            return errors
        if inference is not None and inference.config:
            data = await self._configs.data(inference.config, ctx.namespace)
            ctx.config, errors = inference_config(inference.config, data)
            ctx.config_hash = hash_of((data or {}).get(INFERENCE_KEY, ""))
            return errors
        return []

    def _too_small(self, ctx: WorkspaceContext) -> str:
        """Why the training configuration of the user's own does not fit on the size; empty where it does."""
        fit = ctx.tuning_fit
        return fit.problem if fit is not None and not ctx.bypassed else ""
