"""``kaito-inference`` with an engine of the tests': ``python stuck.py load|step|never FLAG…`` says where it takes for ever."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from inference.scripted import ScriptedEngine
from kaito.inference import engines
from kaito.inference.__main__ import main
from kaito.inference.engines.loading import detached
from kaito.inference.engines.stepper import Stepper
from kaito.inference.protocol import Generation, Mix, Step

WARM_UP = tuple(map(ord, "Hello"))


class Batch:
    def __init__(self) -> None:
        self.keys: dict[int, Generation] = {}

    @property
    def empty(self) -> bool:
        return not self.keys

    def add(self, key: int, request: Generation) -> None:
        self.keys[key] = request

    def remove(self, key: int) -> None:
        self.keys.pop(key, None)

    def step(self) -> list[tuple[int, Any]]:
        warm = [key for key, request in self.keys.items() if request.prompt == WARM_UP]
        if not warm:
            time.sleep(3600)
        for key in warm:
            del self.keys[key]
        return [(key, Step((), "length")) for key in warm]


class Stuck(ScriptedEngine):
    def __init__(self, where: str) -> None:
        super().__init__()
        self._where = where
        self._stepper: Stepper[Generation] | None = None

    async def load(self, mixes: Sequence[Mix]) -> None:
        if self._where == "load":
            await detached(time.sleep, 3600)
        self._stepper = Stepper(Batch(), "stuck")

    async def aclose(self) -> None:
        if self._stepper is not None:
            await self._stepper.aclose()

    def generate(self, generation: Generation) -> AsyncGenerator[Step]:
        assert self._stepper
        return self._stepper.generate(generation)


if __name__ == "__main__":
    where = sys.argv.pop(1)
    engines.create = lambda settings: ScriptedEngine("Hello") if where == "never" else Stuck(where)
    main()
