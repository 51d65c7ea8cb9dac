"""An extension whose optional dependency is not installed."""

import a_package_that_is_not_installed

from kernel.extension import Extension


class LacksItsExtra(Extension):
    """Needs the missing package."""

    name = "sample"
    package = a_package_that_is_not_installed
