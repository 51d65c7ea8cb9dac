"""Measure the claims of the original architecture: `python -m bench.claims`."""

import warnings

# The import of the PostgreSQL helper warns about this variable; its fallback, the temporary folder, works.
warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
