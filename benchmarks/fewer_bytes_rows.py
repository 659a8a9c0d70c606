"""Ways to keep parameters and state of Adam in fewer bytes, for tables of a CPU and of a GPU."""

#: Parameters, what is said of the row, and the settings of the optimizer; None is PyTorch's, fused.
ROWS = [
    ("float32", "PyTorch, fused", None),
    ("float32", "state float32", {}),
    ("float32", "state bfloat16", {"state_dtype": "bfloat16"}),
    ("float32", "state bfloat16, nearest", {"state_dtype": "bfloat16", "rounding": "nearest"}),
    ("float32", "state float8", {"state_dtype": "float8"}),
    ("float32", "state float8, nearest", {"state_dtype": "float8", "rounding": "nearest"}),
    ("bfloat16", "PyTorch, fused", None),
    ("bfloat16", "state float32, nearest", {}),
    ("bfloat16", "state float32, stochastic", {"rounding": "stochastic"}),
    ("bfloat16", "state bfloat16, master", {"state_dtype": "bfloat16", "master": True}),
    ("bfloat16", "state float8, master", {"state_dtype": "float8", "master": True}),
]
