"""Routes of the local page, and the limits of what it accepts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from twostage_jax.data.decode import MEGAPIXEL, PIXEL_LIMIT
from twostage_jax.errors import UserError
from twostage_jax.files import as_json
from twostage_jax.serve.assessor import Assessor
from twostage_jax.serve.drawing import describe, pen_width
from twostage_jax.serve.guard import Guard, allowed_hosts
from twostage_jax.serve.labelling import Labelling, WrongImage

MIB = 2**20
BYTE_LIMIT = 32 * MIB  # of one image file
FILE_LIMIT = 50  # images that the page shows at once
PAGE = Path(__file__).with_name("page")
FILES = {"/": "try.html", "/label": "label.html", "/style.css": "style.css", "/page.js": "page.js"}


def make_app(
    name: str, port: int, assessor: Assessor | None, labelling: Labelling | None
) -> Starlette:
    """Make the application.

    Args:
        name: name of the run or model file, for the heading.
        port: port of the page, which is part of the accepted addresses.
        assessor: answers about images; None for a run without a head.
        labelling: images to label; None without `--label`.
    """
    routes = [Route(path, _file_route(PAGE / file)) for path, file in FILES.items()]
    routes.append(Route("/api/page", _json_route(lambda: _description(name, assessor, labelling))))
    if assessor is not None:
        routes += _trial_routes(assessor)
    if labelling is not None:
        routes += _label_routes(labelling)
    guard = Middleware(Guard, hosts=allowed_hosts(port))
    handlers: Any = {UserError: _refused}
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


def _file_route(path: Path) -> Callable:
    async def respond(request: Request) -> Response:
        return FileResponse(path)

    return respond


def _json_route(make: Callable[[], dict[str, Any]]) -> Callable:
    async def respond(request: Request) -> Response:
        return JSONResponse(make())

    return respond


def _description(
    name: str, assessor: Assessor | None, labelling: Labelling | None
) -> dict[str, Any]:
    """Everything the page has to know before the first image."""
    model = None
    if assessor is not None:
        shape = assessor.model.image_shape
        model = {
            "classes": list(assessor.model.classes),
            "image_shape": list(shape),
            "drawing": describe(shape),
            "pen": pen_width(shape),
        }
    limits = {
        "bytes": BYTE_LIMIT,
        "files": FILE_LIMIT,
        "megapixels": PIXEL_LIMIT // MEGAPIXEL,
    }
    return {"name": name, "model": model, "label": labelling is not None, "limits": limits}


def _trial_routes(assessor: Assessor) -> list[Route]:
    def answer(make: Callable[[bytes, bool], dict[str, Any]]) -> Callable:
        async def respond(request: Request) -> Response:
            content = await read_body(request, BYTE_LIMIT)
            drawing = "drawing" in request.query_params
            return JSONResponse(await run_in_threadpool(make, content, drawing))

        return respond

    async def picture(request: Request) -> Response:
        return _picture(assessor.neighbours.picture(request.path_params["index"]))

    return [
        Route("/api/assess", answer(assessor.assess), methods=["POST"]),
        Route("/api/nearest", answer(assessor.nearest), methods=["POST"]),
        Route("/train/{index:int}", picture),
    ]


def _label_routes(labelling: Labelling) -> list[Route]:
    async def state(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(labelling.state))

    async def record(request: Request) -> Response:
        content = await read_body(request, MIB)
        try:
            change = as_json(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the answer is not JSON: {error}") from error
        try:
            return JSONResponse(await run_in_threadpool(labelling.answer, change))
        except WrongImage as error:
            return JSONResponse({"error": str(error), "state": labelling.state()})

    async def picture(request: Request) -> Response:
        return _picture(await run_in_threadpool(labelling.picture, request.path_params["index"]))

    return [
        Route("/api/label", state),
        Route("/api/label", record, methods=["POST"]),
        Route("/image/{index:int}", picture),
    ]


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request.

    Raises:
        HTTPException: a body above the limit. It is not read to its end.
    """
    announced = request.headers.get("content-length", "0")
    content = bytearray()
    if announced.isdecimal() and int(announced) <= limit:
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit:
                break
        else:
            return bytes(content)
    raise HTTPException(413, f"the file has more than {limit // MIB} MB, which is the limit")


def _picture(file: tuple[bytes, str] | None) -> Response:
    if file is None:
        raise HTTPException(404, "there is no such image")
    content, kind = file
    return Response(content, media_type=kind)


async def _refused(request: Request, error: Exception) -> Response:
    # Status 200: a browser would report an image that cannot be decoded as an error of the page.
    return JSONResponse({"error": str(error)})
