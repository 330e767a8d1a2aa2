"""A runtime for Kubernetes controllers on asyncio.

What a controller author needs is here; every other module of the package is private to it. A name is loaded on its first
use, so that a program pays for nothing that it does not use; ``__init__.pyi`` says which room each comes from.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
