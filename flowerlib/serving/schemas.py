"""The answers of the API, as its OpenAPI description publishes them."""

from pydantic import BaseModel, Field


class ClassProbability(BaseModel):
    """A class and its probability."""

    class_: str = Field(serialization_alias="class")
    probability: float = Field(ge=0, le=1)


class ActivationMapImage(BaseModel):
    """The class activation map of the most probable class, as two images of the same size: one lies over the other."""

    class_: str = Field(serialization_alias="class")
    image: str = Field(description="Data URL of a PNG: the square of the photograph that the network receives.")
    overlay: str = Field(
        description="Data URL of a PNG: black, transparent where the image supports the class, opaque elsewhere."
    )


class SimilarImage(BaseModel):
    """A training image whose features are close to those of the photograph."""

    class_: str = Field(serialization_alias="class")
    cosine: float = Field(ge=-1, le=1, description="Cosine similarity of the features.")
    thumbnail: str = Field(description="Data URL of a JPEG.")


class ImagePrediction(BaseModel):
    """The predictions for one file."""

    file: str
    predictions: list[ClassProbability] = Field(description="The most probable class first.")
    activation_map: ActivationMapImage | None = Field(default=None, description="Only with `activation_map=true`.")
    similar: list[SimilarImage] | None = Field(
        default=None, description="Only with `similar`; empty where the run kept no training images."
    )


class ModelDescription(BaseModel):
    """The model that is served."""

    name: str
    backbone: str
    classes: list[str]
    image_size: int = Field(description="Side of the square that the network receives, in pixels.")
    suffixes: list[str] = Field(description="Of the files that are read, such as `.heic` with its plug-in installed.")
    fit: str = Field(description="`crop`: the middle square of a photograph; `pad`: all of it, with grey stripes.")
    val_macro_f1: float | None = Field(
        description="Macro F1 on the validation images of its run; null where it was trained on them too."
    )
    smoke_test: bool = Field(description="Trained for a few steps only: its predictions mean nothing.")


class Health(BaseModel):
    """The state of the service."""

    status: str


class ErrorResponse(BaseModel):
    """What is wrong with a request, and what to do about it."""

    detail: str
    example: str | None = Field(default=None, description="A command that sends a right request.")
