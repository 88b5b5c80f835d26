"""fitserve: train neural networks over HTTP and serve their predictions.

Programs use `fitserve.Client` and `fitserve.AsyncClient`, which are imported when they are first named,
so that the server's processes do not load them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitserve.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import fitserve.client

    return getattr(fitserve.client, name)
