"""What tests and examples share: the environment, the examples' collection, and xdist's order."""

import pytest

# What a terminal, or who started the suite, asks of programs in general; the tests read what the
# commands print, and say themselves what is to be different.
STEERING = (
    *("FORCE_COLOR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *("COLUMNS", "LINES", "INSTEP_NUM_THREADS", "PYTHONWARNINGS"),
)


@pytest.fixture(scope="session", autouse=True)
def plain_environment():
    """Let programs that the tests start print as they do where nobody asked for anything."""
    with pytest.MonkeyPatch.context() as patch:
        for name in STEERING:
            patch.delenv(name, raising=False)
        yield


def is_example(nodeid):
    """Return whether a test is an example of a page or of a docstring."""
    file = nodeid.partition("::")[0]
    return file.endswith(".md") or file.startswith("src/")


@pytest.hookimpl(trylast=True)  # after plugins that shuffle
def pytest_collection_modifyitems(items):
    """Let the examples of a page follow one another, in whatever order the tests run."""
    places = {}
    for place, item in enumerate(items):
        if is_example(item.nodeid):
            places.setdefault(item.path, []).append(place)
    for taken in places.values():
        examples = sorted((items[place] for place in taken), key=lambda item: item.example.start)
        for place, example in zip(taken, examples, strict=True):
            items[place] = example


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the examples of a page in one process: each goes on where the one before it ended."""
    if config.getoption("dist") not in ("load", "worksteal"):
        return None
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class Pages(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid.partition("::")[0] if is_example(nodeid) else nodeid

    return Pages(config, log)


try:
    import sybil
except ModuleNotFoundError:  # without it the tests run all the same
    pass
else:
    from doctest import ELLIPSIS, NORMALIZE_WHITESPACE

    from sybil.document import PythonDocStringDocument
    from sybil.parsers import myst, rest

    options = ELLIPSIS | NORMALIZE_WHITESPACE
    pages = sybil.Sybil(
        parsers=[
            myst.DocTestDirectiveParser(optionflags=options),
            myst.PythonCodeBlockParser(doctest_optionflags=options),
            myst.SkipParser(),
        ],
        patterns=["README.md", "docs/*.md"],
    )
    docstrings = sybil.Sybil(
        parsers=[rest.DocTestParser(optionflags=options), rest.SkipParser()],
        path="src",
        patterns=["*.py"],
        document_types={".py": PythonDocStringDocument},
    )
    pytest_collect_file = (pages + docstrings).pytest()
