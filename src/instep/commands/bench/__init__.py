"""How fast a step is: against the memory limit, and against other libraries in the same run.

`measure` runs contenders in turns on one case and returns a `Result`; `Worker` does it in a
process that has a number of CPUs and no more. The command `instep bench` and the benchmark suite
of the repository both stand on them.
"""

from instep.commands.bench.cases import Case
from instep.commands.bench.measuring import Result, measure
from instep.commands.bench.worker import Worker

__all__ = ["Case", "Result", "Worker", "measure"]
