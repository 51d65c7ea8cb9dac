"""Modules for the removal drill: notes uses no extension, each other module uses one."""
