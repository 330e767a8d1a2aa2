"""When a running workload becomes what this operator would make today.

What a workload looks like is decided by its Workspace: a new operator, registry or image tag restarts nothing by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from kaito.controllers.workspace.rollout import Rollout
    from kaito.controllers.workspace.settings import Upgrades as Policy
    from kaito.runtime import Key, Manifest


@final
class Upgrades:
    """Whose turn it is, and which fields are disputed. With the policy ``rolling`` one Workspace at a time is brought up to
    date, and the next only when that one is ready. What is remembered here is not needed: a new process finds it out again."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.outdated: set[Key] = set()
        """Workspaces whose workload is not what this operator would make."""
        self._turn: Key | None = None
        self._disputed: dict[str, frozenset[str]] = {}

    def may_start(self, key: Key, upgrading: Set[Key]) -> bool:
        """Whether the ready workload of ``key`` may be brought up to date now; ``upgrading`` are those that have been, and
        are not ready again."""
        if self.policy != "rolling" or self._turn not in (None, key) or upgrading - {key}:
            return False
        self._turn = key
        return True

    def finished_if_current(self, key: Key, *, outdated: bool) -> None:
        """The workload of ``key`` is ready; ``outdated``, if it is not what this operator would make."""
        if outdated:
            self.outdated.add(key)
        else:
            self.forget(key)

    def forget(self, key: Key) -> None:
        self.outdated.discard(key)
        if self._turn == key:
            self._turn = None

    def settle(self, workload: Manifest, paths: Iterable[str]) -> None:
        """Remember the fields that the cluster itself changes whenever they are written, such as by a webhook: writing them
        again and again would help nobody."""
        disputed = frozenset(paths)
        uid = workload["metadata"]["uid"]
        if disputed:
            self._disputed[uid] = disputed
        else:
            self._disputed.pop(uid, None)

    def is_settled(self, workload: Manifest, rollout: Rollout) -> bool:
        """Whether all that ``rollout`` would put back is disputed."""
        disputed = self._disputed.get(workload["metadata"]["uid"], frozenset())
        return (
            bool(rollout.undone)
            and not rollout.changed
            and rollout.patch.keys() == {"spec"}
            and disputed.issuperset(rollout.undone)
        )
