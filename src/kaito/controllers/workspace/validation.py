"""The first step: a specification that cannot work is refused before anything is made for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api.validation import Policy, validate
from kaito.controllers.pipeline import Fail, Outcome, Proceed

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext


class ValidationStep:
    """Catches what got past admission: facts of the catalogue, and objects from before a rule."""

    condition: ClassVar[str] = ""
    pending: ClassVar[str] = ""
    failed: ClassVar[str] = "workspaceInvalid"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        errors = validate(ctx.workspace, ctx.catalogue, Policy(ctx.settings.cloud)).errors
        if errors:
            return Fail(self.failed, "; ".join(map(str, errors)), terminal=True)
        if ctx.preset is not None and ctx.preset.distributed:
            return Fail(
                self.failed,
                f"inference.preset.name: {ctx.preset.name} is spread over several GPUs by torchrun, which this release "
                "of kaito does not run; choose another preset",
                terminal=True,
            )
        return Proceed()
