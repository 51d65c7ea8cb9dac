"""Who asks, what they may do, how often, and that a repeated request does nothing twice."""
