"""`python -m harness`, which is what `accelerate launch -m harness run …` starts."""

from harness.cli import main

if __name__ == "__main__":
    main()
