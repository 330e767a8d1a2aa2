"""How long things take in the simulation."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. A plain pod is ready after ``pull`` and ``ready``: less than one second."""

    pull: float = 0.4
    """Until the containers of a pod, or its next init container, have started."""
    init: float = 0.3
    """That an init container runs."""
    ready: float = 0.4
    """From the start of the containers until they are ready, unless the pod says otherwise."""
    run: float = 0.8
    """That a pod that runs to completion goes on after it was ready."""
    stop: float = 0.2
    """That containers take to end; never more than the pod's grace period."""
    crash: float = 0.5
    """That a container runs which is to crash."""
    back_off: float = 10.0
    """Before the first restart of a container that crashed; doubled for each further one, up to ``max_back_off``."""
    max_back_off: float = 300.0
    retry: float = 2.0
    """Before looking again for something that a process needs and that is not there."""
    second: float = 1.0
    """What counts as a second in the periods of probes."""

    def faster(self, speed: float) -> Timing:
        """The same at ``speed`` times the pace. Raises ValueError unless it is positive."""
        if speed <= 0:
            raise ValueError(f"the speed of the simulation is {speed:g}, it must be more than 0")
        return Timing(**{field.name: getattr(self, field.name) / speed for field in fields(self)})
