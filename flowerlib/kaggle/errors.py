"""The errors of Kaggle's API, as exceptions with one line that says what to do.

The `kaggle` package answers a refusal with an ordinary return value, or prints it and exits with code 0.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from requests import Response
from requests.exceptions import HTTPError, ProxyError, RequestException, SSLError

from flowerlib.config import COMPETITION, FlowersError

LOGIN_HINT = "log in with `kaggle auth login`, or put an API token from kaggle.com/settings/api into KAGGLE_API_TOKEN"
# How Kaggle words that an account has as many sessions as it may, and that its week's hours are used up. Source: the
# CI of unslothai/unsloth on Kaggle, 2026-09, which met them; the status of some is 409 or 412.
CAPACITY = re.compile(r"maximum .*session|session count|TooManyAssignments|precondition failed", re.IGNORECASE)
CAPACITY_STATUSES = (409, 412)
NO_QUOTA = re.compile(r"no accelerator quota|no quota for", re.IGNORECASE)
RULES = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"
RULES_HINT = f"accept the competition's rules at {RULES}, and run the same command again"
SUBMISSION_HINT = "check your submissions on the competition's page; `flowerlib kaggle submit` submits it again"


class Unreachable(RuntimeError):
    """A temporary failure of the network or of Kaggle's servers; trying again may help."""


class RateLimited(Unreachable):
    """Kaggle's rate limit was reached and nothing was done; try again later."""


class Refused(RuntimeError):
    """Kaggle refused it, in words that are not known."""


class QueueFull(RuntimeError):
    """As many sessions run as Kaggle allows; try again when one has ended."""


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what the `kaggle` package raises into one line that says what to do.

    Raises:
        Unreachable: trying again may help.
        FlowersError: the credentials are refused, or there are no certificates where the environment says.
        QueueFull: as many sessions run as Kaggle allows.
        RuntimeError: any other error; `Refused` if Kaggle says so in words that are not known.
    """
    try:
        yield
    except FlowersError:
        raise
    except HTTPError as error:
        raise _readable(error) from None
    except RequestException as error:  # no connection, a timeout, or a response that is truncated or garbled
        raise Unreachable(f"Kaggle cannot be reached: {_reason(error)}") from None
    except OSError as error:
        if "certificate bundle" in str(error):
            raise FlowersError(f"{_bundle()} names no file of certificates; correct it, or unset it") from None
        raise RuntimeError(f"{error}; make room, or name another folder") from None
    except ValueError as error:
        raise _readable(error) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"the kaggle package does not understand Kaggle's response: {error!r}") from error


@contextmanager
def naming_the_rules() -> Iterator[None]:
    """Turn a refusal of the competition's data into a line that says where its rules are accepted.

    Raises:
        FlowersError: the user may not have them.
    """
    try:
        yield
    except HTTPError as error:
        if status_code(error) != 403:
            raise
        raise FlowersError(f"Kaggle says: {str(error).rstrip('.')}; {RULES_HINT}") from None


def _reason(error: RequestException) -> str:
    """Why there is no connection, in a few words where the cause is known."""
    text = str(error)
    if "NameResolutionError" in text or "getaddrinfo" in text:
        host = re.search(r"resolve '([^']+)'", text)
        return f"the address of {host[1] if host else 'its server'} cannot be looked up; is there a network?"
    if isinstance(error, ProxyError):
        return "the proxy does not answer; check HTTPS_PROXY"
    if isinstance(error, SSLError):
        return f"its certificate is not trusted ({_bundle()}): {text}"
    return text


def _bundle() -> str:
    """The variable that names the certificates to trust, with its value."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    name = next((name for name in names if os.environ.get(name)), names[0])
    return f"`{name}` (={os.environ.get(name, '')})"


def _readable(error: Exception) -> Exception:
    if _is_page(error):
        return Unreachable("Kaggle sends a page instead of data: it limits requests for a while")
    code = status_code(error)
    if code == 401:
        return FlowersError(f"Kaggle refuses these credentials ({error}): {LOGIN_HINT}")
    if code == 429:
        return RateLimited(f"Kaggle rate limit reached ({error})")
    if code >= 500:
        return Unreachable(f"Kaggle has a server error ({error})")
    return refusal(str(error), code)


def refusal(text: str, code: int = 0, speaker: str = "Kaggle says") -> RuntimeError:
    """Return the exception for a refusal.

    Args:
        text: Kaggle's words.
        code: the HTTP status; 0 if the refusal came in an ordinary response.
        speaker: what the message begins with.
    """
    if NO_QUOTA.search(text):
        return RuntimeError(
            f"{speaker}: {text}; wait for the next week (`flowerlib kaggle quota` says when it begins), or choose "
            "another kind of `--accelerator`"
        )
    if code in CAPACITY_STATUSES or CAPACITY.search(text):
        return QueueFull(text)
    return Refused(f"{speaker}: {text}")


def status_code(error: Exception) -> int:
    """Return the HTTP status behind an error of the package, which turns some into a ValueError; 0 if there is none."""
    response = _response(error)
    return 0 if response is None else response.status_code


def _response(error: Exception) -> Response | None:
    causes = (cause for cause in (error, error.__context__) if isinstance(cause, HTTPError))
    return next((cause.response for cause in causes if cause.response is not None), None)


def _is_page(error: Exception) -> bool:
    """Return whether the response was a page for people: so Kaggle answers, with any status, who asks too often."""
    if isinstance(error, json.JSONDecodeError):
        return error.doc.lstrip().startswith("<")
    response = _response(error)
    return response is not None and response.headers.get("Content-Type", "").startswith("text/html")


def is_missing(error: HTTPError) -> bool:
    """Return whether what was asked for does not exist; of what belongs to nobody or to another, Kaggle says 403."""
    return status_code(error) in (403, 404) and not _is_page(error)
