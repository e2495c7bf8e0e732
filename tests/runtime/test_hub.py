"""The hub's errors, whichever client its library uses, become a sentence that says what to do."""

import pytest
from huggingface_hub import errors

from cpvt.runtime.hub import _explained


class RequestException(OSError):
    """As requests has it: the parent of all its errors."""


class HTTPError(RequestException):
    pass


class ConnectionLost(RequestException):
    pass


class HubError(HTTPError):
    """As huggingface_hub before 1.0 has it, upon requests."""


@pytest.mark.parametrize("error", [HubError("503"), HTTPError("503"), ConnectionLost("503")])
def test_lost_connections_of_requests_are_explained(monkeypatch, error):
    monkeypatch.setattr(errors, "HfHubHTTPError", HubError)
    with pytest.raises(ValueError, match="the hub did not serve 'me/pets': .*503"), _explained("'me/pets'"):
        raise error


def test_lost_connections_of_the_installed_client_are_explained():
    client = errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0]
    lost = pytest.importorskip(client)
    kind = getattr(lost, "ConnectError", None) or lost.ConnectionError
    with pytest.raises(ValueError, match="the hub did not serve 'me/pets': .*gone"), _explained("'me/pets'"):
        raise kind("gone")


def test_a_full_disk_is_not_the_hubs_fault():
    with pytest.raises(OSError, match="No space left"), _explained("'me/pets'"):
        raise OSError("No space left")
