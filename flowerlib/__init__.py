"""The small library behind a series of notebooks that classify 104 kinds of flowers.

Importing `flowerlib` loads no framework: each module imports what it needs.
"""

__version__ = "0.2.0"
