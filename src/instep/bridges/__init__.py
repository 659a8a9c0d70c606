"""State that goes over to other libraries in the midst of a run, and comes back.

A module a library: `instep.bridges.torch`, `instep.bridges.optax` and `instep.bridges.keras`. Each
has a table of rules, a row a rule, which says what is called how there, and what is converted.
None of these libraries is imported before a function here is called.
"""
