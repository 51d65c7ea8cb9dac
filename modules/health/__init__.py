"""Liveness, readiness and startup probes, the health of each component, and past incidents."""
