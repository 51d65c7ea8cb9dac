"""Extensions whose requirements cannot be met."""

from kernel.extension import Extension


class RequiresAbsent(Extension):
    """Requires an extension that is not installed."""

    name = "sample"
    requires = ("absent",)


class Hen(Extension):
    """Requires an extension that requires it."""

    name = "hen"
    requires = ("egg",)


class Egg(Extension):
    """Requires an extension that requires it."""

    name = "egg"
    requires = ("hen",)


class NotAnExtension:
    """Derives from no Extension."""


class NeedsAPackage(Extension):
    """Imports the package of its extra only when it is used."""

    name = "sample"
    packages = ("a_package_that_is_not_installed",)
