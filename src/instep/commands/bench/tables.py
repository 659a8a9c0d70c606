"""Results as tables."""

from collections.abc import Sequence

from instep.commands.bench import contenders
from instep.commands.bench.cases import Case, count
from instep.commands.bench.contenders import KIT
from instep.commands.bench.measuring import Result
from instep.commands.tables import Table


def by_setting(title: str, results: Sequence[Result]) -> list[Table]:
    """Return a table of results for each setting among them."""
    settings = dict.fromkeys(map(setting, results))
    return [
        of_results(f"{title}, {chosen}", [r for r in results if setting(r) == chosen])
        for chosen in settings
    ]


def of_results(title: str, results: Sequence[Result]) -> Table:
    """Return a table with a row for each result: time, traffic, and the ratio to each peer.

    What all results have in common goes into the title.
    """
    ran = {name for result in results for name in result.ran}
    names = [name for name in contenders.peers(results[0].case.backend) if name in ran]
    facts = _facts([result.case for result in results])
    other = {heading: found for heading, found in facts.items() if len(set(found)) > 1}
    same = [found[0] for heading, found in facts.items() if heading not in other]
    limited = any(result.share for result in results)
    headings = [*other, "a step", "GB/s", *(["of the\nlimit"] if limited else [])]
    headings += [name.replace(" ", "\n") for name in names]
    rows = []
    for i, result in enumerate(results):
        row = [found[i] for found in other.values()]
        row += [duration(result.median()) if KIT in result.seconds else "", gigabytes(result)]
        row += [percent(result.share)] if limited else []
        row += [times(result.ratio(name)) for name in names]
        rows.append(tuple(row))
    return Table(f"{title}: {', '.join(same)}", tuple(headings), tuple(rows), len(other))


def legend(results: Sequence[Result]) -> str:
    """Return what the columns of other libraries show; nothing where there are none."""
    ran = {name for result in results for name in result.ran}
    if not ran:
        return ""
    text = "Under another library: 10 means that its step takes ten times as long as instep's.\n"
    if "listing" in ran:
        text += "listing: a textbook's loop, a line of array operations for each equation.\n"
    return text


def _facts(cases: Sequence[Case]) -> dict[str, list[str]]:
    """Return what there is to say of each case, by headings."""
    facts = {"optimizer": [case.optimizer for case in cases]}
    if all(len(set(case.shapes)) == 1 and len(case.shapes[0]) == 1 for case in cases):
        numbers, sizes = ([len(c.shapes) for c in cases], [c.shapes[0][0] for c in cases])
        if len(set(numbers)) > 1:
            facts["tensors"] = [f"{number:,}" for number in numbers]
            facts["size"] = [f"{count(size)} elements each" for size in sizes]
        elif len(set(sizes)) > 1:
            facts["elements"] = [count(size) for size in sizes]
        else:
            facts["parameters"] = [case.label for case in cases]
    else:
        facts["parameters"] = [case.label for case in cases]
    return {**facts, "dtype": [case.dtype for case in cases]}


def setting(result: Result) -> str:
    """Return what a result was measured on, in words."""
    case = result.case
    if case.backend != "numpy":
        return case.backend
    return f"{case.threads} thread{'s' if case.threads > 1 else ''}"


def duration(seconds: float) -> str:
    """Return a time with three digits in a unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds * 1e9)} ns"


def digits(value: float) -> str:
    """Return a number of 1 or more with three digits."""
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


def gigabytes(result: Result) -> str:
    """Return the traffic in GB/s; nothing where there is none to speak of."""
    return digits(result.bytes_per_second / 1e9) if result.bytes_per_second else ""


def percent(share: float | None) -> str:
    """Return a share in percent; nothing for none."""
    return "" if share is None else f"{100 * share:.0f} %"


def times(ratio: float | None) -> str:
    """Return a ratio with three digits; nothing for none."""
    return "" if ratio is None else digits(ratio)
