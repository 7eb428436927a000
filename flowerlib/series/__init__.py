"""The series of notebooks, run on this machine.

Read `notebooks` first (which there are, and their parameters), then `execution` (run them, side by side), `progress`
(what a terminal shows meanwhile) and `page` (all that they leave on one page). `execution` is not imported here:
papermill takes a second or two.
"""

from flowerlib.series.notebooks import names, resolve

__all__ = ["names", "resolve"]
