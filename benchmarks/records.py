"""What only the suite records, as tables: claims, where the time of a step goes, new processes."""

from collections.abc import Mapping, Sequence
from typing import Any

from instep.commands.bench.cases import Case
from instep.commands.bench.tables import digits, duration, percent, times
from instep.commands.tables import Table


def of_claims(claims: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of claims: what was measured, what was the goal, and what is possible.

    A claim without a goal is only measured. "At the limit" is the ratio of a step that takes no
    longer than its memory traffic: no code reaches a goal above it.
    """
    rows = []
    for claim in claims:
        goal, measured = claim["goal"], claim["measured"]
        met = "" if goal is None else "yes" if measured >= goal else "no"
        row = (claim["name"], str(claim["threads"]), digits(measured), times(goal), met)
        rows.append((*row, percent(claim["share"]), times(claim["at_limit"])))
    headings = ("claim", "threads", "measured", "goal", "met", "of the\nlimit", "at the\nlimit")
    return Table("Claims: above 1, instep is the faster", headings, tuple(rows))


def of_passes(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the passes of steps: what each moves, and how fast, beside a stream."""
    rows = []
    for step in found:
        for number, entry in enumerate(step["passes"], start=1):
            what = f"{number}: reads {entry['reads']}, writes {entry['writes']}"
            rows.append(_pass(step, what, entry))
        rows.append(_pass(step, "the step", step))
    headings = ("optimizer", "arrays of a pass", "threads", "bytes an\nelement", "time", "GB/s")
    title = "The passes of a step, each beside a stream of the same arrays"
    return Table(title, (*headings, "stream,\nGB/s", "of the\nstream"), tuple(rows), left=2)


def _pass(step: Mapping[str, Any], what: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    case = Case.from_json(step["case"])
    traffic = case.elements * entry["bytes_per_element"]
    rates = [digits(traffic / entry[name] / 1e9) for name in ("seconds", "stream")]
    row = (case.optimizer, what, str(case.threads), str(entry["bytes_per_element"]))
    return (*row, duration(entry["seconds"]), *rates, percent(entry["stream"] / entry["seconds"]))


def of_parts(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of where the time of small steps goes."""
    rows = []
    for step in found:
        case = Case.from_json(step["case"])
        row = (case.label, str(case.threads), duration(step["seconds"]))
        rows.append((*row, *(duration(seconds) for seconds in step["parts"].values())))
    names = found[0]["parts"] if found else ()
    headings = ("parameters", "threads", "a step", *(name.replace(" ", "\n") for name in names))
    return Table("Where the time of a small step goes", headings, tuple(rows))


def of_processes(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of what was measured in processes of their own."""
    rows = []
    for entry in found:
        if "median" in entry:
            rows.append((entry["what"], duration(entry["median"])))
        else:
            memory = [entry["traced"], entry["resident"]]
            rows.append((entry["what"], f"{max(m for m in memory if m is not None):.2f}"))
    return Table("New processes", ("what", "measured"), tuple(rows))
