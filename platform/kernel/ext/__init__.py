"""The extensions. The core never imports this package; see kernel.extension."""
