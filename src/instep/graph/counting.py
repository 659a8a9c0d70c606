"""The numbers of the sums that a rule comes to, in its order."""

from collections import Counter

from instep.graph.nodes import KINDS, sum_number


class Counting:
    """Gives sums and maxima their numbers.

    Leaves that meet the same sum over the tree must give it the same number, and other sums others.
    Where parts of the tree have rules of their own, these come after those that all have in common:
    from there on, as `branch_off` says, each part counts for itself.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._stride = {"tensor": 1, "tree": 1}
        self._draws = 0

    def draw(self) -> int:
        """Return the number of the draw that the rule has come to."""
        self._draws += 1
        return self._draws - 1

    def following(self, scope: str, kind: str) -> int:
        """Return the number of the sum that comes next, if it is such a one."""
        return sum_number(self._counts[scope, kind], scope, kind)

    def next(self, scope: str, kind: str) -> int:
        """Return the number of the sum that the rule has come to."""
        number = self.following(scope, kind)
        self._counts[scope, kind] += self._stride[scope]
        return number

    def branch_off(self, branch: int, branches: int) -> None:
        """Give sums over the tree other numbers than those in other branches, from here on."""
        for kind in KINDS:
            self._counts["tree", kind] += branch
        self._stride["tree"] = branches
