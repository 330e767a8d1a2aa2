"""How pods live: rules that say in which state, after how long, what happens next. Pure.

The first rule of ``RULES`` whose ``when`` holds for a pod is the one that waits to happen. Annotations of the pod (or of
the template that it was made from) change its fate:

* ``dev.kaito.sh/fail``: ``image-pull`` (the image is never found), ``crash-loop`` and ``oom`` (the containers end again and
  again), ``never-ready`` (they run, and neither become ready nor end).
* ``dev.kaito.sh/ready-after``: how long it takes to become ready, such as ``10s``, ``1.5m``.

What images, commands, probes, resources and volumes a pod has makes no difference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from kaito.devcluster.controllers import conditions
from kaito.devcluster.kubelet import containers as c
from kaito.devcluster.kubelet.timing import Timing
from kaito.runtime import Manifest, format_time

FAIL = "dev.kaito.sh/fail"
READY_AFTER = "dev.kaito.sh/ready-after"
IMAGE_PULL, CRASH_LOOP, OUT_OF_MEMORY, NEVER_READY = "image-pull", "crash-loop", "oom", "never-ready"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Note:
    """An Event to record about the pod."""

    kind: Literal["Normal", "Warning"]
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a rule does: a new status, or the removal of the pod."""

    status: Manifest | None = None
    notes: tuple[Note, ...] = ()
    remove: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """Where and when a rule takes effect."""

    pod: Manifest
    now: datetime
    host_ip: str
    pod_ip: str
    """The address to give to a pod that has none."""
    timing: Timing


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    when: Callable[[c.Pod], bool]
    after: Callable[[c.Pod, Timing], float]
    """Seconds that ``when`` has to hold."""
    then: Callable[[Scene], Change]


def next_rule(pod: c.Pod) -> Rule | None:
    """What happens to the pod next if nobody else touches it; None where it stays as it is."""
    return next((rule for rule in RULES if rule.when(pod)), None)


def fate(pod: c.Pod) -> str:
    return str((pod["metadata"].get("annotations") or {}).get(FAIL, ""))


def ready_after(pod: c.Pod, timing: Timing) -> float:
    """Seconds; an annotation that is no duration counts as absent."""
    found = _DURATION.match((pod["metadata"].get("annotations") or {}).get(READY_AFTER, ""))
    return float(found[1]) * _UNITS[found[2]] if found else timing.ready


# States


def _deleting(pod: c.Pod) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _lives(pod: c.Pod) -> bool:
    return not _deleting(pod) and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _every(pod: c.Pod) -> Iterator[Mapping[str, Any]]:
    yield from c.statuses(pod, init=True)
    yield from c.statuses(pod)


def _stops(pod: c.Pod) -> bool:
    return _deleting(pod) and any(map(c.is_running, _every(pod)))


def _gone(pod: c.Pod) -> bool:
    # With a grace period of 0 the removal has been asked for: finalizers hold the pod.
    return _deleting(pod) and bool(pod["metadata"].get("deletionGracePeriodSeconds"))


def _new(pod: c.Pod) -> bool:
    return _lives(pod) and not c.statuses(pod)


def _init_waits(pod: c.Pod) -> bool:
    index = c.next_init(pod) if _lives(pod) else None
    return index is not None and not c.is_running(c.statuses(pod, init=True)[index])


def _init_runs(pod: c.Pod) -> bool:
    index = c.next_init(pod) if _lives(pod) else None
    return index is not None and c.is_running(c.statuses(pod, init=True)[index])


def _main_waits(pod: c.Pod) -> bool:
    return (
        _lives(pod)
        and c.next_init(pod) is None
        and any(c.waiting_reason(item) and not item.get("lastState") for item in c.statuses(pod))
    )


def _waits(pod: c.Pod) -> bool:
    return _init_waits(pod) or _main_waits(pod)


def _current(pod: c.Pod) -> Mapping[str, Any]:
    """The container whose image is needed next."""
    index = c.next_init(pod)
    held = c.statuses(pod, init=True) if index is not None else c.statuses(pod)
    return held[index or 0]


def _unpullable(pod: c.Pod) -> bool:
    return _waits(pod) and fate(pod) == IMAGE_PULL and c.waiting_reason(_current(pod)) not in _PULL_FAILURES


def _pull_failed(pod: c.Pod) -> bool:
    return _waits(pod) and fate(pod) == IMAGE_PULL and c.waiting_reason(_current(pod)) == "ErrImagePull"


def _stuck(pod: c.Pod) -> bool:
    return _waits(pod) and fate(pod) == IMAGE_PULL


def _runs(pod: c.Pod) -> bool:
    return _lives(pod) and c.next_init(pod) is None and any(map(c.is_running, c.statuses(pod)))


def _crashes(pod: c.Pod) -> bool:
    return _runs(pod) and fate(pod) in (CRASH_LOOP, OUT_OF_MEMORY)


def _in_back_off(pod: c.Pod) -> bool:
    return _lives(pod) and any(c.waiting_reason(item) == "CrashLoopBackOff" for item in c.statuses(pod))


def _unready(pod: c.Pod) -> bool:
    return _runs(pod) and fate(pod) != NEVER_READY and not all(item.get("ready") for item in c.statuses(pod))


def _completes(pod: c.Pod) -> bool:
    return _runs(pod) and c.runs_to_completion(pod) and fate(pod) != NEVER_READY


def _gates_moved(pod: c.Pod) -> bool:
    """Whether readiness gates have been opened or closed since the pod was last looked at."""
    gates = pod["spec"].get("readinessGates") or ()
    if not gates or not _runs(pod):
        return False
    passed = all(conditions.is_true(pod, gate["conditionType"]) for gate in gates)
    return passed != conditions.is_true(pod, "Ready") and all(item.get("ready") for item in c.statuses(pod))


# Changes


def _accept(scene: Scene) -> Change:
    pod = scene.pod
    inits = c.specs(pod, init=True)
    reason = c.INITIALIZING if inits else c.CREATING
    status = c.pod_status(
        pod,
        [c.waiting(item, reason) for item in c.specs(pod)],
        [c.waiting(item, c.INITIALIZING) for item in inits],
        scene.now,
        startTime=format_time(scene.now),
        hostIP=scene.host_ip,
        hostIPs=[{"ip": scene.host_ip}],
    )
    first = (inits or c.specs(pod))[0]
    return Change(status, (Note("Normal", "Pulling", f'Pulling image "{first["image"]}"'),))


def _started(containers: Sequence[Mapping[str, Any]]) -> tuple[Note, ...]:
    notes: list[Note] = []
    for item in containers:
        notes += [
            Note("Normal", "Pulled", f'Pretended to pull image "{item["image"]}": containers are simulated'),
            Note("Normal", "Created", f"Created container: {item['name']}"),
            Note("Normal", "Started", f"Started container {item['name']}"),
        ]
    return tuple(notes)


def _start_init(scene: Scene) -> Change:
    pod = scene.pod
    inits = c.statuses(pod, init=True)
    index = c.next_init(pod)
    assert index is not None, "an init container waits"
    inits[index] = c.running(pod, inits[index], scene.now)
    if c.is_sidecar(c.specs(pod, init=True)[index]):
        inits[index]["ready"] = True
    return Change(_with(scene, c.statuses(pod), inits), _started([inits[index]]))


def _finish_init(scene: Scene) -> Change:
    pod = scene.pod
    inits = c.statuses(pod, init=True)
    index = c.next_init(pod)
    assert index is not None, "an init container runs"
    inits[index] = {**c.terminated(inits[index], 0, "Completed", scene.now), "ready": True}
    return Change(_with(scene, c.statuses(pod), inits))


def _start(scene: Scene) -> Change:
    pod = scene.pod
    main = [c.running(pod, item, scene.now) for item in c.statuses(pod)]
    return Change(_with(scene, main, c.statuses(pod, init=True)), _started(main))


def _fail_pull(scene: Scene) -> Change:
    image = _current(scene.pod)["image"]
    message = f'failed to pull image "{image}": not found (simulated by {FAIL}: {IMAGE_PULL})'
    status = _current_waits(scene, "ErrImagePull", message)
    return Change(status, (Note("Warning", "Failed", message), Note("Warning", "Failed", "Error: ErrImagePull")))


def _back_off_pull(scene: Scene) -> Change:
    message = f'Back-off pulling image "{_current(scene.pod)["image"]}"'
    status = _current_waits(scene, "ImagePullBackOff", message)
    return Change(status, (Note("Normal", "BackOff", message), Note("Warning", "Failed", "Error: ImagePullBackOff")))


def _current_waits(scene: Scene, reason: str, message: str) -> Manifest:
    pod = scene.pod
    index = c.next_init(pod)
    main, inits = c.statuses(pod), c.statuses(pod, init=True)
    state = {"waiting": {"reason": reason, "message": message}}
    if index is not None:
        inits[index] = {**inits[index], "state": state}
    else:
        main = [{**item, "state": state} if c.waiting_reason(item) else item for item in main]
    return c.pod_status(pod, main, inits, scene.now)


def _ready(scene: Scene) -> Change:
    pod = scene.pod
    main = [{**item, "ready": True} if c.is_running(item) else item for item in c.statuses(pod)]
    return Change(_with(scene, main, c.statuses(pod, init=True)))


def _look_again(scene: Scene) -> Change:
    return Change(_with(scene, c.statuses(scene.pod), c.statuses(scene.pod, init=True)))


def _complete(scene: Scene) -> Change:
    return Change(_ended(scene, 0, "Completed"))


def _ended(scene: Scene, code: int, reason: str) -> Manifest:
    pod = scene.pod

    def end(item: Manifest, code: int, reason: str) -> Manifest:
        return c.terminated(item, code, reason, scene.now) if c.is_running(item) else item

    main = [end(item, code, reason) for item in c.statuses(pod)]
    inits = [end(item, 0, "Completed") for item in c.statuses(pod, init=True)]
    return c.pod_status(pod, main, inits, scene.now)


def _crash(scene: Scene) -> Change:
    pod = scene.pod
    code, reason = (137, "OOMKilled") if fate(pod) == OUT_OF_MEMORY else (1, "Error")
    if pod["spec"].get("restartPolicy") == "Never":
        return Change(_ended(scene, code, reason))
    main, notes = [], []
    delay = _back_off(pod, scene.timing)
    for item in c.statuses(pod):
        if c.is_running(item):
            name = item["name"]
            where = f"{name} in pod {pod['metadata']['name']}_{pod['metadata']['namespace']}"
            message = f"back-off {delay:g}s restarting failed container={where}"
            item = c.crashed(item, code, reason, message, scene.now)
            notes.append(Note("Warning", "BackOff", f"Back-off restarting failed container {where}"))
        main.append(item)
    return Change(_with(scene, main, c.statuses(pod, init=True)), tuple(notes))


def _back_off(pod: c.Pod, timing: Timing) -> float:
    restarts = max((item.get("restartCount", 0) for item in c.statuses(pod)), default=0)
    return float(min(timing.max_back_off, timing.back_off * 2 ** min(restarts, 16)))


def _restart(scene: Scene) -> Change:
    pod = scene.pod
    again = [c.waiting_reason(item) == "CrashLoopBackOff" for item in c.statuses(pod)]
    main = [c.running(pod, item, scene.now) if due else item for item, due in zip(c.statuses(pod), again, strict=True)]
    started = [item for item, due in zip(main, again, strict=True) if due]
    return Change(_with(scene, main, c.statuses(pod, init=True)), _started(started))


def _stop(scene: Scene) -> Change:
    """The containers end; the pod's phase stays, so that nobody takes a pod that was stopped for one that failed."""
    names = [item["name"] for item in _every(scene.pod) if c.is_running(item)]
    status = _ended(scene, 0, "Completed")
    status["phase"] = scene.pod["status"]["phase"]
    return Change(status, tuple(Note("Normal", "Killing", f"Stopping container {name}") for name in names))


def _remove(scene: Scene) -> Change:
    return Change(remove=True)


def _with(scene: Scene, main: Sequence[Manifest], inits: Sequence[Manifest]) -> Manifest:
    """A status with a running sandbox, which has an address."""
    address = (scene.pod.get("status") or {}).get("podIP") or scene.pod_ip
    return c.pod_status(scene.pod, main, inits, scene.now, podIP=address, podIPs=[{"ip": address}])


def _at_once(pod: c.Pod, timing: Timing) -> float:
    return 0.0


_PULL_FAILURES = ("ErrImagePull", "ImagePullBackOff")

RULES: tuple[Rule, ...] = (
    Rule(
        "stop",
        _stops,
        lambda pod, timing: min(timing.stop, pod["metadata"].get("deletionGracePeriodSeconds") or 0),
        _stop,
    ),
    Rule("remove", _gone, _at_once, _remove),
    Rule("accept", _new, _at_once, _accept),
    Rule("fail to pull", _unpullable, lambda pod, timing: timing.pull, _fail_pull),
    Rule("back off from pulling", _pull_failed, lambda pod, timing: timing.pull, _back_off_pull),
    Rule("start init container", lambda pod: _init_waits(pod) and not _stuck(pod), lambda pod, t: t.pull, _start_init),
    Rule("finish init container", _init_runs, lambda pod, timing: timing.init, _finish_init),
    Rule("start", lambda pod: _main_waits(pod) and not _stuck(pod), lambda pod, timing: timing.pull, _start),
    Rule("crash", _crashes, lambda pod, timing: timing.crash, _crash),
    Rule("restart", _in_back_off, _back_off, _restart),
    Rule("become ready", _unready, ready_after, _ready),
    Rule("complete", _completes, lambda pod, timing: timing.run, _complete),
    Rule("pass readiness gates", _gates_moved, _at_once, _look_again),
)
