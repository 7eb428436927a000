"""The endpoints of the API: `/predict`, `/model`, `/healthz`, `/metrics`."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from flowerlib.config import FlowersError
from flowerlib.photos import formats
from flowerlib.photos.classification import Classifier
from flowerlib.serving import uploads
from flowerlib.serving.batching import DynamicBatcher
from flowerlib.serving.explanations import activation_map_image, similar_images
from flowerlib.serving.limits import Limits, Overloaded
from flowerlib.serving.metrics import Metrics
from flowerlib.serving.schemas import ClassProbability, ErrorResponse, Health, ImagePrediction, ModelDescription
from flowerlib.serving.uploads import Upload

MAX_SIMILAR = 24  # training images: more than a page shows, and each is a few kB of the answer
ERRORS = {
    400: "a file is no image, is damaged or has too many pixels; or there are too many files, or none",
    408: "the request arrives too slowly",
    413: "the request has too many bytes",
    422: "an option has a wrong value",
    503: "server busy; `Retry-After` says when to try again",
}
router = APIRouter()


@dataclass(frozen=True)
class Service:
    """What the endpoints share, kept in `app.state.service`."""

    classifier: Classifier
    batcher: DynamicBatcher
    limits: Limits
    metrics: Metrics


async def _service(request: Request) -> Service:
    return request.app.state.service


ServiceDependency = Annotated[Service, Depends(_service)]


@dataclass(frozen=True)
class Options:
    """What an answer has for each image.

    Attributes:
        top: classes, the most probable ones.
        activation_map: whether it has the class activation map.
        similar: training images, the most similar ones.
    """

    top: int
    activation_map: bool
    similar: int


async def _options(
    top: Annotated[int, Query(ge=1, le=1000, description="Classes for each image.")] = 5,
    activation_map: Annotated[
        bool, Query(description="Add the class activation map: which places support the most probable class.")
    ] = False,
    similar: Annotated[int, Query(ge=0, le=MAX_SIMILAR, description="Similar training images to add.")] = 0,
) -> Options:
    return Options(top, activation_map, similar)


@router.post(
    "/predict",
    responses={code: {"model": ErrorResponse, "description": why} for code, why in ERRORS.items()},
    response_model_exclude_none=True,
    openapi_extra={"requestBody": uploads.REQUEST_BODY},
)
@router.post("/predict/", include_in_schema=False, response_model_exclude_none=True)
async def predict(
    request: Request, service: ServiceDependency, options: Annotated[Options, Depends(_options)]
) -> list[ImagePrediction]:
    """Classify images. They are never written to disk."""
    received = await uploads.receive(request, service.limits)
    try:
        async with asyncio.timeout(service.limits.seconds):
            if isinstance(received, bytes):
                received = await _parse_json(service, received)
            with service.batcher.reserve(len(received)):
                return await _predict(service, options, received)
    except TimeoutError:
        raise Overloaded(service.batcher.retry_after()) from None


async def _parse_json(service: Service, body: bytes) -> list[Upload]:
    memory = uploads.MEMORY_PER_BYTE * len(body)
    return await service.batcher.compute_within(memory, lambda: uploads.parse_json(body, service.limits))


async def _predict(service: Service, options: Options, files: list[Upload]) -> list[ImagePrediction]:
    images = await _decode_all(service.batcher, files)
    rows = await service.batcher.probabilities(images)
    answers = (_answer(service, options, *each) for each in zip(files, images, rows, strict=True))
    return await asyncio.gather(*answers)


async def _decode_all(batcher: DynamicBatcher, files: list[Upload]) -> list[np.ndarray]:
    """Return the pixels of all files; `HTTPException` names every file that cannot be read."""

    async def decode(file: Upload) -> np.ndarray | str:
        try:
            return await batcher.decode(file.content)
        except FlowersError as error:
            return f"`{file.name}` {error}"

    images = await asyncio.gather(*map(decode, files))
    if errors := [image for image in images if isinstance(image, str)]:
        raise HTTPException(400, "; ".join(errors))
    return [image for image in images if not isinstance(image, str)]


async def _answer(
    service: Service, options: Options, file: Upload, image: np.ndarray, probabilities: np.ndarray
) -> ImagePrediction:
    """Return the prediction for one image `(S, S, 3)`, with the explanations that the request asks for."""
    classifier, batcher = service.classifier, service.batcher
    top = classifier.top(probabilities, options.top)
    prediction = ImagePrediction(
        file=file.name,
        predictions=[ClassProbability(class_=name, probability=probability) for name, probability in top],
    )
    if options.activation_map or options.similar:
        found = await batcher.activation_map(image)
        label = int(probabilities.argmax())
        if options.activation_map:
            overlay = batcher.compute(lambda: activation_map_image(classifier, image, found, label))
            prediction.activation_map = await overlay
        if options.similar:
            nearest = batcher.compute(lambda: similar_images(classifier, found.features, options.similar))
            prediction.similar = await nearest
    return prediction


@router.get("/healthz", responses={503: {"model": ErrorResponse, "description": "the batching task has stopped"}})
async def healthz(request: Request) -> Health:
    """Say whether the service answers."""
    if request.app.state.batching.done():
        raise HTTPException(503, "the batching task has stopped; start the service again")
    return Health(status="ok")


@router.get("/model")
async def model(service: ServiceDependency) -> ModelDescription:
    """Describe the model."""
    classifier = service.classifier
    record = {name: classifier.record[name] for name in ("name", "backbone", "smoke_test")}
    return ModelDescription(
        **record,
        val_macro_f1=classifier.record.get("val_macro_f1"),
        classes=list(classifier.classes),
        image_size=classifier.image_size,
        suffixes=sorted(formats.READABLE_SUFFIXES),
        fit=classifier.fit,
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: ServiceDependency) -> Response:
    """Tell counts and times in the text format of Prometheus."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
