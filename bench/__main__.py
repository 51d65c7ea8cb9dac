"""`python -m bench`."""

import sys
import warnings

warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")  # its fallback is fine

from bench.cli import main  # noqa: E402  # after the filter: the import itself warns

sys.exit(main())
