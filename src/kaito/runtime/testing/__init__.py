"""What tests of a controller need: a server in memory, faults, a clock, and fixtures over real API servers.

Two levels, for two kinds of tests. ``FakeServer`` is a Kubernetes API in the test's own memory, without sockets: the real
``Client``, ``Cache`` and ``Manager`` run on it, in virtual time where a test likes that. ``api_server`` is a pytest fixture
over whatever API server there is. Nothing of the runtime itself imports this package.
"""

from kaito.runtime.testing.clock import VirtualClock
from kaito.runtime.testing.fake import FakeServer
from kaito.runtime.testing.faults import Call, Interceptor, delay, fail, lose_answer
from kaito.runtime.testing.servers import api_server, envtest, named_by_environment

__all__ = [
    "Call",
    "FakeServer",
    "Interceptor",
    "VirtualClock",
    "api_server",
    "delay",
    "envtest",
    "fail",
    "lose_answer",
    "named_by_environment",
]
