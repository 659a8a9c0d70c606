"""Powers, exponentials, logarithms and cosines of Python floats, each rounded once, to nearest.

``x**y``, `math.exp`, `math.log` and `math.cos` are those of the C library, which differ between
libraries and between processors: glibc alone has two of each, with and without FMA. The functions
here return what IEEE 754 recommends of them, *the* double that is nearest to the true value, ties
to even. So they are the same wherever Python runs, as ``+ - * /`` and `math.sqrt` are anyhow.

`powers`, `LookUpPowers` and `Number` bring them into host expressions, which are looked up rather
than computed at each step, and into the formulas of rules.

The way is Ziv's (1991, ACM TOMS 17:410): enclose the true value between two integers times a power
of two, round both, and if they do not agree do it again with more digits. That ends, because the
values that cannot be told from a tie in this way, the rational ones, are computed exactly.

>>> from instep.correctly_rounded import power
>>> power(0.99, 331).hex()
'0x1.2632a01eaaca3p-5'
"""

from instep.correctly_rounded.expressions import GLOBALS, LookUpPowers, names_in
from instep.correctly_rounded.functions import cos, exp, log
from instep.correctly_rounded.number import Number, numbers_for
from instep.correctly_rounded.tables import power, powers

__all__ = [
    "GLOBALS",
    "LookUpPowers",
    "Number",
    "cos",
    "exp",
    "log",
    "names_in",
    "numbers_for",
    "power",
    "powers",
]
