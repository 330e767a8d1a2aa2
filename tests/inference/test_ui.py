"""The chat page in a real browser."""

from __future__ import annotations

import asyncio
from typing import Any

from inference.browser import Page, browsing, needs_browser
from inference.scripted import ScriptedEngine, serving
from kaito.inference.protocol import Adapter
from support.waiting import eventually

ANSWER = (
    "# Foxes\n\nThey are **red** and *quick*:\n\n- one\n- two\n\n```\nlet x = '<b>';\n```\n<img src=x onerror=alert(1)>"
)


class Pause(asyncio.Event):
    """Lets an answer come until its twelfth token, and the rest when it is set."""

    def __init__(self) -> None:
        super().__init__()
        self._left = 12

    async def wait(self) -> Any:
        self._left -= 1
        return self._left >= 0 or await super().wait()


async def _ask(page: Page, text: str) -> None:
    await page.evaluate(
        f"document.getElementById('prompt').value = {text!r};"
        "document.getElementById('form').requestSubmit(document.getElementById('send')); null"
    )


def _said(page: Page, of: str = "") -> Any:
    return page.evaluate(f"[...document.querySelectorAll('article.assistant{of}')].at(-1)?.textContent ?? ''")


@needs_browser
async def test_a_chat_streams_is_formatted_and_uses_what_was_picked() -> None:
    engine = ScriptedEngine(ANSWER, context=4096)
    engine.gate = Pause()
    adapters = (Adapter("fox.v1", "/a", 0.5),)
    async with serving(engine, adapters=adapters) as face, browsing(f"{face.url}/ui") as page:

        async def models() -> bool:
            listed = "[...document.querySelectorAll('#model option')].map((option) => option.value)"
            return bool(await page.evaluate(listed) == ["m", "base", "fox.v1"])

        await eventually(models, deadline=60)
        await page.evaluate(
            "for (const [id, value] of [['model', 'fox.v1'], ['temperature', '0.3'], ['top_p', '0.9'], ['max_tokens', '900']])"
            " document.getElementById(id).value = value; null"
        )
        await _ask(page, "What about foxes?")

        async def begun() -> bool:
            return bool(await _said(page, " div") == "FoxesThe")

        await eventually(begun)
        assert engine.running == 1
        engine.gate.set()

        async def told() -> bool:
            return "tokens/s" in await _said(page, " footer") and engine.running == 0

        await eventually(told)
        html = await page.evaluate("document.querySelector('article.assistant div').innerHTML")
        assert "<h1>Foxes</h1>" in html
        assert "<strong>red</strong> and <em>quick</em>" in html
        assert "<ul><li>one</li><li>two</li></ul>" in html
        assert "let x = '&lt;b&gt;';" in html.replace("&#39;", "'")
        assert await page.evaluate("document.querySelectorAll('article.assistant img').length") == 0
        assert f"{len(ANSWER)} tokens," in await _said(page, " footer")
        (seen,) = engine.seen
        assert [adapter.name for adapter in seen.mix] == ["fox.v1"]
        assert (seen.sampling.temperature, seen.sampling.top_p, seen.sampling.max_tokens) == (0.3, 0.9, 900)
        await _ask(page, "And then?")
        await eventually(lambda: len(engine.seen) == 2)
        assert ANSWER in engine.decode(engine.seen[1].prompt)
        places = await page.evaluate(
            "performance.getEntriesByType('resource').map((entry) => new URL(entry.name).origin)"
        )
        assert set(places) <= {face.url}
        assert not page.complaints


@needs_browser
async def test_stop_ends_the_answer_and_an_error_is_shown() -> None:
    engine = ScriptedEngine("x" * 50)
    engine.gate.clear()
    async with serving(engine) as face, browsing(f"{face.url}/ui") as page:

        async def loaded() -> bool:
            return bool(await page.evaluate("document.querySelectorAll('#model option').length"))

        await eventually(loaded, deadline=60)
        await _ask(page, "Go on for ever")
        await eventually(lambda: engine.running == 1)
        await page.evaluate("document.getElementById('send').click(); null")
        await eventually(lambda: engine.running == 0)
        assert engine.cancelled == 1
        engine.broken = RuntimeError("secret")
        await _ask(page, "Once more")

        async def complained() -> bool:
            return "The generation failed" in await page.evaluate("document.getElementById('chat').textContent")

        await eventually(complained)
