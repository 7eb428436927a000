"""`python -m flowerlib` is `flowerlib`."""

from flowerlib.cli import main

main()
