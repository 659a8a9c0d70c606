"""The one error of the command line: something that the user can mend."""

import importlib
from typing import Any


class CommandError(Exception):
    """A request that cannot be met; its text is one line that says what to do about it."""


def extra(module: str) -> Any:
    """Import a module of the `compare` extra.

    Raises
    ------
    CommandError
        The module cannot be imported; the text names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise CommandError(
            f"instep compare needs {package}, which cannot be imported ({error}); "
            "install it with: pip install 'instep[compare]'"
        ) from error
