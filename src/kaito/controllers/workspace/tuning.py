"""Fine-tuning, of which this release says that it does not have it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from kaito.api.workspace import JOB_STARTED
from kaito.controllers.pipeline import Fail, Outcome

if TYPE_CHECKING:
    from kaito.controllers.workspace.context import WorkspaceContext


class TuningStep:
    """Comes before any node is made, so that nobody pays for GPUs that nothing would use."""

    condition: ClassVar[str] = JOB_STARTED
    pending: ClassVar[str] = "WorkspaceTuningJobStatusPending"
    failed: ClassVar[str] = "WorkspaceTuningJobStatusFailed"

    async def reconcile(self, ctx: WorkspaceContext) -> Outcome:
        return Fail(
            "TuningNotAvailable",
            "tuning is not available in this release of kaito: no node and no job is made for this Workspace",
            terminal=True,
        )
