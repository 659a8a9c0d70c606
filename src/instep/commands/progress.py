"""How far a command has come: as a bar on a terminal, and otherwise as lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from instep.commands.errors import extra

#: Characters of a line that are no bar: the task, the count, and the time.
BESIDE_BAR = 40


@contextmanager
def progress(task: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show that a task is at work, from now on; give what tells of each part that is done.

    The bar is on standard error. If that is no terminal, a line on standard output names the task
    when it begins. A task without `total` has a bar that only moves, and no line.
    """
    bars, console = extra("rich.progress"), extra("rich.console").Console(stderr=True)
    if not console.is_terminal:  # a bar that is disabled ends a line all the same, before rich 14.3
        if total is not None:
            sys.stdout.write(f"{task} ...\n")
            sys.stdout.flush()
        yield lambda: None
        return
    count = () if total is None else (bars.MofNCompleteColumn(),)
    with bars.Progress(
        bars.TextColumn("{task.description:<18}"),
        bars.BarColumn(bar_width=min(40, max(1, console.width - BESIDE_BAR))),
        *count,
        bars.TimeElapsedColumn(),
        console=console,
        transient=total is None,
        # What is printed meanwhile goes where it would go without a bar.
        redirect_stdout=False,
    ) as display:
        identifier = display.add_task(task, total=total)
        yield lambda: display.advance(identifier)
