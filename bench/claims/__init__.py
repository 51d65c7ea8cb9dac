"""The claims of the original architecture, each measured: `python -m bench.claims`."""

import warnings

# What starts PostgreSQL asks for it at its import; the temporary folder, to which it falls back, is as good.
warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
