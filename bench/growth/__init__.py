"""Measure the cost of the two-hundredth module: `python -m bench.growth`."""

from bench.growth.project import last_path, module_name, write_project

__all__ = ["last_path", "module_name", "write_project"]
