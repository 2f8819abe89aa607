"""Write the computed parts of docs/: `python -m tests.pages`."""

from tests.pages import GENERATED

for generated in GENERATED:
    generated.write()
