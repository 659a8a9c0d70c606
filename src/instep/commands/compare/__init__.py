"""The main job: comparing optimizers on two surfaces and on handwritten digits.

The pipeline is that of the file names: `surfaces` -> `paths`, and `digits` -> `network` ->
`training`; then `figures` and `report`. `command` runs it all. Nothing here is imported by the
optimizers, and nothing but NumPy is imported before it is needed.
"""
