"""The page of figures, which two benchmarks write: the runtime's its beginning, the model server's its last section."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
_MODEL_SERVER = "## The model server\n"


def write_runtime(page: Path, text: str) -> None:
    page.write_text("\n".join(part for part in (text, _parts(page)[1]) if part), encoding="utf-8")


def write_model_server(page: Path, text: str) -> None:
    before = _parts(page)[0]
    page.write_text(f"{before}{_MODEL_SERVER}\n{text}", encoding="utf-8")


def _parts(page: Path) -> tuple[str, str]:
    before, heading, rest = page.read_text(encoding="utf-8").partition(_MODEL_SERVER) if page.exists() else ("", "", "")
    return before, heading + rest
