"""``python -m gzsurvey`` is the program ``gzsurvey``."""

from gzsurvey.cli import main

if __name__ == "__main__":
    main()
