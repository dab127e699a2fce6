"""``python -m pipelines``: what a Ray cluster executes."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
