"""Leave out the tests of messages between processes if the extension messaging is not installed."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("kernel.ext.messaging") else ["test_messages_*.py"]
