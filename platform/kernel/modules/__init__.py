"""Modules: their manifests, their discovery, and the contracts between them in one process."""
