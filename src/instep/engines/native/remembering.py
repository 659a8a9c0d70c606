"""The functions that make what is remembered of sums, as LLVM IR: one leaf after the other."""

from instep.engines.native.arguments import Argument, entry_words
from instep.engines.native.loops import RUN, Loops, argument, function


class Remembering(Loops):
    """Writes the functions that make numbers. Where the sums of tiles go, these go."""

    def span(self) -> str:
        """Return `span` for one leaf, whose number is `begin`."""
        lines = [
            *self.prologue(),
            f"%made_argument = {argument(Argument.PARTIALS)}",
            "%made = load ptr, ptr %made_argument",
            f"%made_stride_argument = {argument(Argument.PARTIALS_STRIDE)}",
            "%made_stride = load i64, ptr %made_stride_argument",
        ]
        for k, entry in enumerate(self.graph.remembered):
            lines += [
                f"%row{k} = mul i64 %made_stride, {k}",
                f"%index{k} = add i64 %row{k}, %begin",
                f"%made{k}_at = getelementptr double, ptr %made, i64 %index{k}",
                f"store double %u{entry.node}, ptr %made{k}_at ; {entry.name}",
            ]
        return function([*lines, "ret void"])

    def run(self) -> str:
        """Return `run`, whose chunks are leaves."""
        lines = [
            f"%count_at = {argument(Argument.COUNT)}",
            "%count = load i64, ptr %count_at",
            f"%table_at = {argument(Argument.TABLE)}",
            "%table = load ptr, ptr %table_at",
            "br label %loop",
            "loop:",
            "%i = phi i64 [ 0, %entry ], [ %i_next, %body ]",
            "%more = icmp ult i64 %i, %count",
            "br i1 %more, label %body, label %done",
            "body:",
            f"%entry_row = getelementptr [{entry_words(self.graph)} x i64], ptr %table, i64 %i",
            "call void @span(ptr %entry_row, i64 %i, i64 0, ptr %arguments)",
            "%i_next = add i64 %i, 1",
            "br label %loop",
            "done:",
            "ret void",
        ]
        return function(lines, RUN)
