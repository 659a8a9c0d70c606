"""What was asked of the device in this process: tests compare it before and after."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Numbers of launches, and of copies from the host."""

    launches: int = 0
    copies: int = 0


counters = Counters()
