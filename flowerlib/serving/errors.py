"""Errors as an `ErrorResponse`, with an example of what would be right."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

EXAMPLE = "curl -F file=@rose.jpg '{address}predict?top=3'"
WRONG_REQUEST = (400, 405, 422)


async def explain(request: Request, error: Exception) -> JSONResponse:
    """Answer with what is wrong, and for `/predict` with an example of a request."""
    status, detail, headers = _described(request, error)
    content = {"detail": detail}
    path = request.url.path.removeprefix(request.scope.get("root_path", "")).rstrip("/")
    if status in WRONG_REQUEST and path == "/predict":
        content["example"] = EXAMPLE.format(address=request.base_url)
    return JSONResponse(content, status, headers)


def _described(request: Request, error: Exception) -> tuple[int, str, dict[str, str] | None]:
    if isinstance(error, RequestValidationError):
        return 422, "; ".join(f"`{each['loc'][-1]}`: {each['msg']}" for each in error.errors()), None
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return 404, f"there is nothing here; {request.base_url}docs describes the API", None
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        allowed = "GET, HEAD" if allowed == "GET" else allowed
        return 405, f"method not allowed; use {allowed}", {"Allow": allowed}
    return error.status_code, error.detail, dict(error.headers or {})
