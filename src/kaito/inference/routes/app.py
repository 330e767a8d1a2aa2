"""The application: routes, and errors in the form of the route."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from kaito.inference import hardware
from kaito.inference.errors import BadRequest, RequestError
from kaito.inference.routes import chat, openai
from kaito.inference.routes.limits import Limits
from kaito.inference.routes.reply import detail_error, openai_error
from kaito.inference.service import State

if TYPE_CHECKING:
    from kaito.inference.service import Service
    from kaito.inference.settings import Settings

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page needs nothing from elsewhere, and what a model writes can load nothing."""


def application(service: Service, settings: Settings) -> FastAPI:
    """The ASGI application over ``service``, which may still be loading."""
    app = FastAPI(title="kaito model server")
    app.add_middleware(Limits, metrics=service.metrics, max_body=settings.max_body, body_timeout=settings.body_timeout)
    app.include_router(chat.router(service, settings.pipeline))
    app.include_router(openai.router(service, stand_in=settings.stand_in))

    @app.get("/")
    async def root() -> dict[str, str]:
        return {"message": "Server is running"}

    @app.get("/health")
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        if service.state is State.LOADING:
            raise HTTPException(500, "Model not initialized")
        if service.state is State.DRAINING:
            raise HTTPException(503, "Draining")
        return {"status": "Healthy"}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(await hardware.usage())
        return Response(service.metrics.exposition(), media_type=_PROMETHEUS)

    @app.get("/ui", include_in_schema=False)
    async def ui() -> Response:
        page = resources.files("kaito.inference.ui").joinpath("index.html").read_text(encoding="utf-8")
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _openai(request: Request) -> bool:
    return request.url.path.startswith("/v1/")


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return openai_error(error) if _openai(request) else detail_error(error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems: Any = error.errors()
    if not _openai(request):
        return JSONResponse({"detail": jsonable_encoder(problems, custom_encoder={Exception: str})}, 422)
    where = ".".join(str(part) for part in problems[0]["loc"] if part != "body")
    if problems[0]["type"] == "extra_forbidden":
        return openai_error(BadRequest(f"Unrecognized request argument supplied: {where}", param=where))
    if problems[0]["type"] == "json_invalid":
        return openai_error(BadRequest(f"The body is not JSON: {problems[0]['ctx']['error']}"))
    return openai_error(
        BadRequest(f"{where}: {problems[0]['msg']}" if where else problems[0]["msg"], param=where or None)
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not _openai(request):
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)
    body = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": body}, error.status_code, headers=error.headers)
