"""Collects the examples of the README, the documentation and the docstrings."""

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
