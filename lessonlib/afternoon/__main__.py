"""`python -m lessonlib.afternoon mine.csv --text body --label topic`."""

import sys

from .pipeline import main

if __name__ == "__main__":
    sys.exit(main())
