"""What processes tell each other beside arrays: messages, and that one of them cannot go on."""

from collections.abc import Callable
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

    #: The agreement of which all processes know of it.
    by: Any = None

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


class DifferentError(ValueError):
    """Trees, settings or calls of processes differ: known to all."""

    by: Any = None


def check_together(
    owner: str, comm: Any, settings: Any, check: Callable[[], None] = lambda: None
) -> None:
    """Raise on all processes if a check raises on one, or settings differ.

    It is for what constructs: an agreement is made of a communicator that all duplicate.
    """
    check_comm(owner, comm)
    try:
        check()
        failed: BaseException | None = None
    except Exception as error:  # noqa: BLE001  (the others are to hear of it)
        failed = error
    found = comm.allgather((None if failed is None else told(failed), repr(settings)))
    if failed is not None:
        raise failed
    for rank, (text, own) in enumerate(found):
        if text is not None:
            raise RankError(f"{owner}: rank {rank} of {len(found)} raised {text}", rank)
        if own != found[0][1]:
            raise ValueError(
                f"{owner}: rank 0 has {found[0][1]}, and rank {rank} {own}; give the same "
                f"settings on all ranks"
            )


def told(error: BaseException) -> str:
    """Return an error in words, whatever its own are."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  (of a class of the user's)
        return type(error).__name__


class Agreement:
    """Processes that go on together, or not at all.

    In a round, every process either has a message for all, or has failed. One that fails comes to
    the next round of the others and says so; then all raise. So no process waits for one that is
    gone, and what is done between two rounds is to be undone by nobody.

    Parameters
    ----------
    comm
        A communicator of mpi4py.
    changes_nothing
        Whether a call that fails leaves all as it was.

    Attributes
    ----------
    call
        What is called, for messages.
    is_certain
        Whether all have come to the last round of the call: from there on none can fail.
    """

    def __init__(self, comm: Any, *, changes_nothing: bool = True) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.call = ""
        self.is_certain = False
        self._ending = "; nothing has changed on any rank" if changes_nothing else ""

    def knows(self, error: BaseException) -> bool:
        """Return whether all processes of this agreement raise it."""
        return isinstance(error, RankError | DifferentError) and error.by is self

    def differ(self, text: str) -> DifferentError:
        """Return what all processes raise, for they differ."""
        error = DifferentError(text)
        error.by = self
        return error

    def begin(self, call: str) -> None:
        """Begin a call of all processes."""
        self.call, self.is_certain = call, False

    def meet(self, message: Any) -> list[Any]:
        """Return the messages of all processes, in the order of ranks; or raise in all of them."""
        return self._meet((None, message))

    def fail(self, error: BaseException) -> None:
        """Tell the others that this process cannot go on."""
        self._meet((told(error), None))

    def tell(self, error: BaseException) -> None:
        """Raise, on all processes, what this one cannot go on for."""
        try:
            self.fail(error)
        except RankError as told:
            raise told from error

    def _meet(self, own: tuple[str | None, Any]) -> list[Any]:
        found: Sequence[tuple[str, str | None, Any]] = self.comm.allgather((self.call, *own))
        for rank, (call, _, _) in enumerate(found):
            if call != found[0][0]:
                raise self.differ(
                    f"rank 0 of {self.size} is in {found[0][0]}, and rank {rank} in {call}; make "
                    f"the same calls on all ranks, in the same order"
                )
        for rank, (_, text, _) in enumerate(found):
            if text is not None:
                error = RankError(
                    f"{self.call}: rank {rank} of {self.size} raised {text}{self._ending}", rank
                )
                error.by = self
                raise error
        return [message for _, _, message in found]
