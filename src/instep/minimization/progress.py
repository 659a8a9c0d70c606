"""A bar on the terminal that shows how far a minimization has come."""

import importlib
import importlib.util
import sys
from types import TracebackType
from typing import Any, Self

from instep.minimization.result import Result


class Progress:
    """A bar, where there is a terminal and the package rich, or where it is asked for.

    Parameters
    ----------
    steps
        How many steps there are at most.
    is_shown
        Whether there is a bar. None: if standard error is a terminal, and rich is installed.
    """

    def __init__(self, steps: int, is_shown: bool | None) -> None:
        has_rich = importlib.util.find_spec("rich") is not None
        if is_shown and not has_rich:
            raise ModuleNotFoundError(
                "minimize: progress=True needs the package rich; pip install rich, or leave it out"
            )
        if is_shown is None:
            is_shown = has_rich and sys.stderr is not None and sys.stderr.isatty()
        self._steps, self._is_shown = steps, is_shown
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._is_shown:
            rich = importlib.import_module("rich.progress")
            console = importlib.import_module("rich.console").Console(stderr=True)
            texts = "{task.completed}/{task.total}", "{task.description}"
            columns = texts[0], rich.BarColumn(), texts[1], rich.TimeElapsedColumn()
            self._bar = rich.Progress(*columns, console=console)
            self._task = self._bar.add_task("", total=self._steps)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, result: Result) -> None:
        """Show the last step."""
        last = result._last  # noqa: SLF001  (its own)
        if self._bar is not None and last is not None:
            text = f"value {result.fun:.6g}, gradient {last.gradient_norm:.3g}"
            self._bar.update(self._task, completed=result.nit, description=text)
