"""State as plain dicts, and in files."""

from instep.checkpoint.packing import load as load
from instep.checkpoint.packing import packed as packed
from instep.checkpoint.packing import save as save
from instep.checkpoint.packing import unpacked as unpacked
from instep.checkpoint.reading import read_state_dict as read_state_dict
from instep.checkpoint.taking import state_dict as state_dict
