"""What somebody might write to get around the boundary checks, and what only looks like it.

The module `left` owns the table `lefts`, the module `right` owns `rights`. Each list is judged by `test_hostile.py`.
"""
