"""What a training leaves in its output directory, by which others know how it went, and a restart where to go on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

COMPLETED = "fine_tuning_completed.txt"
"""One line with the time; written when the adapter is complete."""
FAILED = "fine_tuning_failed.txt"
"""The reason; written by a training that cannot succeed."""
PUSHED = "fine_tuning_pushed.txt"
"""The image and its digest; written when the registry has it."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""The files of the result."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The output directory of one training."""

    directory: Path

    @property
    def completed(self) -> bool:
        return (self.directory / COMPLETED).exists() and all((self.directory / name).exists() for name in ADAPTER)

    @property
    def pushed(self) -> str:
        """``image@digest``; empty before the push."""
        marker = self.directory / PUSHED
        return marker.read_text().strip() if marker.exists() else ""

    @property
    def checkpoint(self) -> Path | None:
        """The newest complete checkpoint: the trainer writes its state last."""
        found = [
            path
            for path in self.directory.glob("checkpoint-*")
            if path.name.removeprefix("checkpoint-").isdigit() and (path / "trainer_state.json").exists()
        ]
        return max(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)

    def complete(self, now: datetime | None = None) -> None:
        for name in ADAPTER:
            (self.directory / name).chmod(0o644)
        (self.directory / FAILED).unlink(missing_ok=True)
        self._write(COMPLETED, (now or datetime.now(UTC)).strftime("%Y-%m-%d-%H-%M-%S"))

    def fail(self, reason: str) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write(FAILED, reason)

    def note_push(self, image: str) -> None:
        self._write(PUSHED, image)

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all, however the process ends."""
        staged = self.directory / f".{name}"
        staged.write_text(f"{text}\n")
        staged.replace(self.directory / name)
