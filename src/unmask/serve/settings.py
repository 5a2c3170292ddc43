"""The settings of a server. Imported without torch."""

__all__ = ["ServeSettings"]

import os
from dataclasses import dataclass, field
from typing import Annotated

from unmask.errors import ConfigError
from unmask.ranges import Count, check_numbers, real, whole


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Where the server listens, who may use it, and how large a request may be."""

    host: str = "127.0.0.1"
    """The address to listen on. Other machines reach 0.0.0.0; that needs an api_key."""
    port: Annotated[int, whole(1, 65535)] = 8000
    """The port to listen on."""
    api_key: str | None = field(default=None, repr=False)
    """Requests must carry this key (Authorization: Bearer KEY); by default the environment variable UNMASK_API_KEY."""
    allow_host: tuple[str, ...] = ()
    """Names, as in "example.org" or "example.org:8443", under which a balancer or a proxy passes requests on."""
    allow_origin: tuple[str, ...] = ()
    """Pages of other sites that may send requests, as "https://example.org"."""
    allow_policy: tuple[str, ...] = ()
    """Folders of learned policies that requests may name, beside the bundled ones."""
    queue: Count = 256
    """Rows that may wait; beyond them a request is answered with 429."""
    positions: Count = 32768
    """Positions of all rows that are decoded at once, padding included."""
    max_tokens: Count = 4096
    """The largest max_tokens of a request."""
    max_rows: Annotated[int, whole(1, 1024)] = 32
    """The largest number of texts of a request: prompts times n."""
    max_body: Count = 2**20
    """The largest body of a request in bytes."""
    seconds: Annotated[float, real(0, above=True)] = 300.0
    """Seconds after which a request is given up."""
    patience: Annotated[float, real(0)] = 30.0
    """Seconds that running requests may take after the server was asked to stop."""

    def __post_init__(self) -> None:
        """Check all values, and read the key from the environment where none is given.

        Raises ConfigError for a value that cannot be, and for an open server without a key.
        """
        check_numbers(self, "")
        if self.api_key is None:
            object.__setattr__(self, "api_key", os.environ.get("UNMASK_API_KEY") or None)
        if not self.local and not self.api_key:
            raise ConfigError(
                f"--host {self.host} can be reached by other machines: give --api-key KEY (or UNMASK_API_KEY), "
                "or leave --host out."
            )

    @property
    def local(self) -> bool:
        """Whether only programs of this machine reach the server."""
        return self.host in ("127.0.0.1", "localhost", "::1")
