"""The first page: predictions for uploaded images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from fer_lightning.app.cards import Image, draw_boxes, escaped, face_card, shrink_for_display
from fer_lightning.app.choices import Choice, Model, available_choices
from fer_lightning.app.heatmaps import HeatMap
from fer_lightning.files import one_line
from fer_lightning.inference.detect import FaceDetector, crop, detector
from fer_lightning.inference.images import ImageError, read_image, to_uint8
from fer_lightning.inference.media import IMAGE_SUFFIXES
from fer_lightning.inference.predict import Box, Prediction

LIMITS = (
    "A model predicts the expression that people would see in a photo of the face. It does not know what "
    "anybody feels, and is often wrong: do not use it for decisions about people."
)
SEARCHED_SIDE = 960
"""Size of images for face detection in pixels: twice the default, to find smaller faces in groups."""

PER_PAGE = 8
TOP = 3


@dataclass(frozen=True)
class Upload:
    """An image after face detection; the original is not stored if faces were detected.

    Attributes:
        key: Id of the upload, and whether it is a cropped face.
        name: File name.
        shown: The image at display size, or None if it could not be read.
        boxes: Bounding boxes of the faces in the original; empty if the whole image is one face.
        scale: Size of `shown` relative to the original.
        faces: Crops of the faces.
        problem: Why there are no faces, or empty.
    """

    key: tuple[str, bool]
    name: str
    shown: Image | None
    boxes: tuple[Box, ...]
    scale: float
    faces: tuple[Image, ...]
    problem: str = ""


@st.cache_resource(show_spinner="Loading the model", max_entries=4)
def load(choice: Choice) -> Model:
    """Load a model, shared by all visitors."""
    return choice.load()


@st.cache_data(ttl=60, show_spinner="Searching for models")
def choices() -> tuple[list[Choice], list[str]]:
    """Return the available models; see `available_choices`."""
    return available_choices()


@st.cache_resource
def face_detector() -> FaceDetector:
    """Return the face detector, shared by all visitors."""
    return detector(longest_side=SEARCHED_SIDE, step=1.1)


def page() -> None:
    """Show the predictions of one or two models for each face in uploaded or camera images."""
    st.title("Facial expressions", anchor=False)
    st.caption(LIMITS)
    models = select_models()
    if not models:
        return
    uploads = image_inputs()
    with st.container(horizontal=True, vertical_alignment="center"):
        all_classes = st.toggle("All classes", help=f"Otherwise the {TOP} most probable classes")
        heat_maps = st.toggle("Heat map", help="Brighter parts of the face contributed more to the prediction")
        cropped = st.toggle("Images are cropped faces", help="Treat each whole image as one face")
    if not uploads:
        st.info("Images stay in this computer's memory while the page is open; nothing is written to disk.")
        return
    images = process_uploads(uploads, cropped)
    predictions = {choice: predict_faces(choice, model, images) for choice, model in models.items()}
    keys = {image.key for image in images}
    cached = st.session_state.get("heat_maps", {})
    st.session_state["heat_maps"] = {key: value for key, value in cached.items() if key[1] in keys}
    table = to_table(images, {choice.label: rows for choice, rows in predictions.items()})
    count = sum(len(image.faces) for image in images)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(f"**{count} {'face' if count == 1 else 'faces'}** in {_count_images(len(images))}")
        csv = table.to_csv(index=False).encode()
        st.download_button("CSV", csv, "expressions.csv", "text/csv", icon=":material/download:", on_click="ignore")
    first = 0
    if len(images) > PER_PAGE:
        first = PER_PAGE * (st.pagination(-(-len(images) // PER_PAGE), key="part") - 1)
    for number in range(first, min(first + PER_PAGE, len(images))):
        with st.container(border=True):
            of_image = {choice: (model, predictions[choice][number]) for choice, model in models.items()}
            show(images[number], of_image, all_classes=all_classes, heat_maps=heat_maps)


def select_models() -> dict[Choice, Model]:
    """Let the user select one or two models; return those that could be loaded and show errors for the others."""
    found, problems = choices()
    for problem in problems:
        st.warning(escaped(problem))
    if not found:
        st.error(
            "No model was found. Train one with `python train.py`, start the app in the folder that contains its "
            "`outputs/`, or pass `--model`."
        )
        return {}
    left, right = st.columns(2)
    first = left.selectbox("Model", found, format_func=lambda choice: choice.label)
    others = [choice for choice in found if choice != first]
    second = right.selectbox(
        "Compare with", others, index=None, format_func=lambda choice: choice.label, placeholder="no other model"
    )
    models = {}
    for column, choice in ((left, first), (right, second)):
        if choice is None:
            continue
        column.caption(escaped(choice.about))
        if choice.synthetic:
            column.warning("Trained on synthetic faces: its predictions for real faces are meaningless.")
        try:
            models[choice] = load(choice)
        except Exception as error:  # damaged files cause all kinds of errors in torch, ONNX Runtime and MLflow
            column.error(f"The model cannot be loaded: {escaped(one_line(error))}")
    return models


def image_inputs() -> list[UploadedFile]:
    """Let the user upload images or use the camera."""
    source = st.segmented_control("Images", ["Upload", "Camera"], default="Upload", label_visibility="collapsed")
    if source == "Camera":
        photo = st.camera_input("Take a photo", label_visibility="collapsed")
        return [photo] if photo else []
    return st.file_uploader("Images", IMAGE_SUFFIXES, accept_multiple_files=True, label_visibility="collapsed")


def process_uploads(uploads: Sequence[UploadedFile], cropped: bool) -> list[Upload]:
    """Read the uploads and detect their faces, once per session; results of removed uploads are deleted."""
    cached: dict[tuple[str, bool], Upload] = st.session_state.get("uploads", {})
    current = {}
    with st.spinner("Detecting faces"):
        for upload in uploads:
            key = (upload.file_id, cropped)
            current[key] = cached[key] if key in cached else process_upload(upload, cropped)
    st.session_state["uploads"] = current
    return list(current.values())


def process_upload(upload: UploadedFile, cropped: bool) -> Upload:
    """Read one upload and detect its faces."""
    key, name = (upload.file_id, cropped), upload.name
    try:
        image = to_uint8(read_image(upload.getvalue(), name))
    except ImageError as error:
        return Upload(key, name, None, (), 1.0, (), str(error).removeprefix(f"{name}: "))
    shown, scale = shrink_for_display(image)
    if cropped:
        return Upload(key, name, shown, (), scale, (image,))
    found = face_detector()(image)
    problem = "" if found else "No face was found. If the image is a cropped face, select so above."
    faces = tuple(crop(image, face) for face in found)
    return Upload(key, name, shown, tuple(face.box for face in found), scale, faces, problem)


def predict_faces(choice: Choice, model: Model, images: Sequence[Upload]) -> list[list[Prediction]]:
    """Predictions of a model for the faces of each image; each is computed once per session."""
    cached: dict[Choice, dict[tuple[str, bool], list[Prediction]]] = st.session_state.setdefault("predictions", {})
    known = cached.get(choice, {})
    new = iter(model.predict([face for image in images if image.key not in known for face in image.faces]))
    cached[choice] = {
        image.key: known[image.key] if image.key in known else [next(new) for _ in image.faces] for image in images
    }
    return list(cached[choice].values())


def to_table(images: Sequence[Upload], predictions: dict[str, list[list[Prediction]]]) -> pd.DataFrame:
    """One row for each face and model, and one for each image without faces, with the reason."""
    rows: list[dict[str, object]] = []
    for number, image in enumerate(images):
        if not image.faces:
            rows.append({"image": image.name, "problem": image.problem})
        for model, of_model in predictions.items():
            for face, prediction in enumerate(of_model[number], start=1):
                box = image.boxes[face - 1] if image.boxes else (None,) * 4
                rows.append(
                    {
                        "image": image.name,
                        "face": face,
                        "model": model,
                        "label": prediction.label,
                        "confidence": prediction.confidence,
                        **dict(zip(("x", "y", "width", "height"), box, strict=True)),
                        **{f"p_{name}": probability for name, probability in prediction.probabilities.items()},
                        "problem": "",
                    }
                )
    table = pd.DataFrame(rows)
    integers = [name for name in ("face", "x", "y", "width", "height") if name in table]
    return table.astype(dict.fromkeys(integers, "Int64"))


def show(
    image: Upload, predictions: dict[Choice, tuple[Model, list[Prediction]]], *, all_classes: bool, heat_maps: bool
) -> None:
    """Show an image and the predictions for its faces; those of two models are side by side for each face."""
    st.markdown(f"**{escaped(image.name)}**")
    if image.shown is None:
        st.error(escaped(image.problem))
        return
    left, right = st.columns([2, 3]) if len(predictions) == 1 else (st.container(width=480), st.container())
    small = max(image.shown.shape) < 300
    left.image(draw_boxes(image.shown, image.boxes, image.scale), width="content" if small else "stretch")
    if not image.faces:
        right.warning(image.problem)
    for number, face in enumerate(image.faces):
        columns = right.columns(len(predictions))
        for column, (choice, (model, of_model)) in zip(columns, predictions.items(), strict=True):
            prediction = of_model[number]
            overlay = heat_map(choice, model, image.key, number, face, prediction.label) if heat_maps else None
            count = len(prediction.probabilities) if all_classes else TOP
            name = choice.label if len(predictions) > 1 else ""
            column.html(face_card(number + 1, face, prediction, count, overlay, name))


def heat_map(
    choice: Choice, model: Model, key: tuple[str, bool], number: int, face: Image, label: str
) -> tuple[HeatMap, str]:
    """Heat map of a model (`Model.heat_map`), computed once per session."""
    cached: dict[tuple[object, ...], tuple[HeatMap, str]] = st.session_state.setdefault("heat_maps", {})
    cache_key = (choice, key, number)
    if cache_key not in cached:
        cached[cache_key] = model.heat_map(face, label)
    return cached[cache_key]


def _count_images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
