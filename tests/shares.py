"""How environments divide the tests with parameters among themselves."""

import argparse
import zlib


def share(text):
    """Read a share, as in ``2/3``: its number, and how many there are."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"a share is a number of so many, as 2/3: got {text!r}")
    return int(number), int(count)


def has(nodeid, number, count):
    """Tell whether a test belongs to a share; its name alone decides, in every process alike."""
    return zlib.crc32(nodeid.encode()) % count == number - 1
