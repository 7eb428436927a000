"""How fast flowerlib is, beside what a user would take instead: `python -m benchmarks --help`."""
