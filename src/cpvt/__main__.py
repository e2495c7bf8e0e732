"""`python -m cpvt`."""

from cpvt.cli import main

if __name__ == "__main__":
    main()
