"""A callable whose process is killed the first time that it meets a certain row; workers import it from here."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from attcat.batch import Explain


class Dying(Explain):
    """Killed once, in the middle of a batch: the flag's file says that it has happened."""

    def __init__(self, model_id: str, *, options_flag: str, **others: Any) -> None:
        super().__init__(model_id, **others)
        self.flag = options_flag

    def __getstate__(self) -> Any:
        return [super().__getstate__(), self.flag]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.flag = state[1]

    def __call__(self, batch: Any) -> Any:
        if 17 in batch.column("label").to_pylist() and not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)
