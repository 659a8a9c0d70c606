"""Draws the figures of experiments.md and comparing.md anew.

python docs/draw_figures.py
"""

from pathlib import Path

from themes import save

from instep.commands.compare import command

request = command.Request(out=Path())
backend, rates = command.checked(request)
outcome = command.Outcome(data=command.load_digits(request))
command.compute(request, backend, rates, outcome)
for name, draw in command.drawings(outcome).items():
    save(name, draw)
