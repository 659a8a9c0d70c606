"""What processes tell each other beside arrays: messages, and that one of them cannot go on."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class RankError(RuntimeError):
    """A step, or another call, that some process could not take: it raises in all of them.

    Attributes
    ----------
    rank
        The process that could not.
    """

    def __init__(self, text: str, rank: int) -> None:
        super().__init__(text)
        self.rank = rank

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.rank)


def check_comm(owner: str, comm: Any) -> None:
    """Raise TypeError for what is no communicator."""
    if not (hasattr(comm, "Ialltoallv") and hasattr(comm, "allgather")):
        raise TypeError(
            f"{owner}: comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got "
            f"{type(comm).__name__}"
        )


def check_count(owner: str, name: str, value: Any) -> None:
    """Raise for what is no number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{owner}: {name} must be at least 1, got {value}")


class Agreement:
    """Processes that go on together, or not at all.

    In a round, every process either has a message for all, or has failed. One that fails comes to
    the next round of the others and says so; then all raise. So no process waits for one that is
    gone, and what is done between two rounds is to be undone by nobody.

    Parameters
    ----------
    comm
        A communicator of mpi4py.

    Attributes
    ----------
    call
        What is called, for messages.
    is_certain
        Whether all have come to the last round of the call: from there on none can fail.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.call = ""
        self.is_certain = False

    def begin(self, call: str) -> None:
        """Begin a call of all processes."""
        self.call, self.is_certain = call, False

    def meet(self, message: Any) -> list[Any]:
        """Return the messages of all processes, in the order of ranks; or raise in all of them."""
        return self._meet((None, message))

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process cannot go on."""
        self._meet((f"{type(error).__name__}: {error}", None))

    def tell(self, error: BaseException) -> None:
        """Raise, on all processes, what this one cannot go on for."""
        try:
            self.fail(error)
        except RankError as told:
            raise told from error

    def _meet(self, own: tuple[str | None, Any]) -> list[Any]:
        found: Sequence[tuple[str | None, Any]] = self.comm.allgather(own)
        for rank, (error, _) in enumerate(found):
            if error is not None:
                raise RankError(
                    f"{self.call}: rank {rank} of {self.size} raised {error}; nothing has changed "
                    f"on any rank",
                    rank,
                )
        return [message for _, message in found]
