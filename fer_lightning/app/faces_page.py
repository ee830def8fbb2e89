"""The first page: pictures in, expressions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from fer_lightning.app.cards import Picture, boxed, face_card, shrunk
from fer_lightning.app.choices import Choice, Model, available
from fer_lightning.app.heatmaps import HeatMap
from fer_lightning.files import one_line
from fer_lightning.inference.detect import Box, FaceDetector, crop, detector
from fer_lightning.inference.images import PictureError, read_picture, to_uint8
from fer_lightning.inference.media import PICTURES
from fer_lightning.inference.predict import Prediction

LIMITS = (
    "A model names the expression that a face shows, as people who looked at photos would. It does not know what "
    "anybody feels, and is often wrong: decide nothing about people by it."
)
SEARCHED_SIDE = 960
"""Pixels at which pictures are searched: twice the default, so that smaller faces of a group are found."""

PER_PAGE = 8
TOP = 3


@dataclass(frozen=True)
class Looked:
    """An upload after faces were looked for; of a photo with faces the full picture is not kept.

    Attributes:
        key: Of the upload and the way it was looked at.
        name: The file's.
        shown: The picture at the size of the page, or None where it could not be read.
        boxes: Where its faces are in the upload, empty where the whole picture is taken as one.
        scale: Size of `shown` over that of the upload.
        faces: The crops.
        problem: Why there are none, or nothing.
    """

    key: tuple[str, bool]
    name: str
    shown: Picture | None
    boxes: tuple[Box, ...]
    scale: float
    faces: tuple[Picture, ...]
    problem: str = ""


@st.cache_resource(show_spinner="Loading the model", max_entries=4)
def load(choice: Choice) -> Model:
    """A model, shared by all visitors."""
    return choice.load()


@st.cache_data(ttl=60, show_spinner="Looking for models")
def choices() -> tuple[list[Choice], list[str]]:
    """The models to choose among."""
    return available()


@st.cache_resource
def finder() -> FaceDetector:
    """The face detector, shared by all visitors."""
    return detector(longest_side=SEARCHED_SIDE, step=1.1)


def page() -> None:
    """Uploaded or photographed pictures, and what one or two models say of each face in them."""
    st.title("Facial expressions", anchor=False)
    st.caption(LIMITS)
    models = chosen_models()
    if not models:
        return
    uploads = given_pictures()
    with st.container(horizontal=True, vertical_alignment="center"):
        everything = st.toggle("All classes", help=f"Otherwise the {TOP} most probable ones")
        heat = st.toggle("Heat map", help="Which parts of the face spoke for the answer: the brighter, the more")
        cropped = st.toggle("Pictures are cropped faces", help="Take each whole picture as one face")
    if not uploads:
        st.info("Pictures stay in this computer's memory while the page is open; nothing is written to disk.")
        return
    looked = look_at(uploads, cropped)
    answers = {choice: predict_faces(choice, model, looked) for choice, model in models.items()}
    kept = {picture.key for picture in looked}
    maps = st.session_state.get("heat_maps", {})
    st.session_state["heat_maps"] = {which: seen for which, seen in maps.items() if which[1] in kept}
    table = as_table(looked, {choice.label: said for choice, said in answers.items()})
    count = sum(len(picture.faces) for picture in looked)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(f"**{count} {'face' if count == 1 else 'faces'}** in {_pictures(len(looked))}")
        csv = table.to_csv(index=False).encode()
        st.download_button("CSV", csv, "expressions.csv", "text/csv", icon=":material/download:", on_click="ignore")
    first = 0
    if len(looked) > PER_PAGE:
        first = PER_PAGE * (st.pagination(-(-len(looked) // PER_PAGE), key="part") - 1)
    for number in range(first, min(first + PER_PAGE, len(looked))):
        with st.container(border=True):
            said = {choice: (model, answers[choice][number]) for choice, model in models.items()}
            show(looked[number], said, everything=everything, heat=heat)


def chosen_models() -> dict[Choice, Model]:
    """One or two loaded models; what cannot be loaded is said."""
    found, problems = choices()
    for problem in problems:
        st.warning(problem)
    if not found:
        st.error(
            "There is no model yet. Train one with `python train.py`, start the app in the folder that holds its "
            "`outputs/`, or name one with `--model`."
        )
        return {}
    left, right = st.columns(2)
    one = left.selectbox("Model", found, format_func=lambda choice: choice.label)
    others = [choice for choice in found if choice != one]
    two = right.selectbox(
        "Compare with", others, index=None, format_func=lambda choice: choice.label, placeholder="no other model"
    )
    models = {}
    for column, choice in ((left, one), (right, two)):
        if choice is None:
            continue
        column.caption(choice.about)
        if choice.synthetic:
            column.warning("Trained on faces drawn by the program: what it says of real ones means nothing.")
        try:
            models[choice] = load(choice)
        except Exception as error:  # a damaged file makes torch, ONNX Runtime or MLflow raise anything
            column.error(f"It cannot be loaded: {one_line(error)}")
    return models


def given_pictures() -> list[UploadedFile]:
    """The pictures that were uploaded or taken."""
    source = st.segmented_control("Pictures", ["Upload", "Camera"], default="Upload", label_visibility="collapsed")
    if source == "Camera":
        taken = st.camera_input("Take a picture", label_visibility="collapsed")
        return [taken] if taken else []
    return st.file_uploader("Pictures", PICTURES, accept_multiple_files=True, label_visibility="collapsed")


def look_at(uploads: Sequence[UploadedFile], cropped: bool) -> list[Looked]:
    """Reads the uploads and finds their faces, each once a session; what was removed is forgotten."""
    before: dict[tuple[str, bool], Looked] = st.session_state.get("looked", {})
    now = {}
    with st.spinner("Looking for faces"):
        for upload in uploads:
            key = (upload.file_id, cropped)
            now[key] = before[key] if key in before else look(upload, cropped)
    st.session_state["looked"] = now
    return list(now.values())


def look(upload: UploadedFile, cropped: bool) -> Looked:
    """Reads one upload and finds its faces."""
    key, name = (upload.file_id, cropped), upload.name
    try:
        picture = to_uint8(read_picture(upload.getvalue(), name))
    except PictureError as error:
        return Looked(key, name, None, (), 1.0, (), str(error).removeprefix(f"{name}: "))
    shown, scale = shrunk(picture)
    if cropped:
        return Looked(key, name, shown, (), scale, (picture,))
    found = finder()(picture)
    problem = "" if found else "No face was found. If the whole picture is a cropped face, say so above."
    faces = tuple(crop(picture, face) for face in found)
    return Looked(key, name, shown, tuple(face.box for face in found), scale, faces, problem)


def predict_faces(choice: Choice, model: Model, looked: Sequence[Looked]) -> list[list[Prediction]]:
    """Predictions of a model for all faces, picture by picture; each is computed once a session."""
    before: dict[Choice, dict[tuple[str, bool], list[Prediction]]] = st.session_state.setdefault("answers", {})
    known = before.get(choice, {})
    rest = iter(model.predict([face for picture in looked if picture.key not in known for face in picture.faces]))
    now = {p.key: known[p.key] if p.key in known else [next(rest) for _ in p.faces] for p in looked}
    before[choice] = now
    return list(now.values())


def as_table(looked: Sequence[Looked], answers: dict[str, list[list[Prediction]]]) -> pd.DataFrame:
    """A row for each face and model, and one for each picture without a face, which says why."""
    rows: list[dict[str, object]] = []
    for number, picture in enumerate(looked):
        if not picture.faces:
            rows.append({"picture": picture.name, "problem": picture.problem})
        for model, said in answers.items():
            for face, answer in enumerate(said[number], start=1):
                box = picture.boxes[face - 1] if picture.boxes else (None,) * 4
                rows.append(
                    {
                        "picture": picture.name,
                        "face": face,
                        "model": model,
                        "label": answer.label,
                        "confidence": answer.confidence,
                        **dict(zip(("x", "y", "width", "height"), box, strict=True)),
                        **{f"p_{name}": share for name, share in answer.probabilities.items()},
                        "problem": "",
                    }
                )
    table = pd.DataFrame(rows)
    whole = [name for name in ("face", "x", "y", "width", "height") if name in table]
    return table.astype(dict.fromkeys(whole, "Int64"))


def show(picture: Looked, said: dict[Choice, tuple[Model, list[Prediction]]], *, everything: bool, heat: bool) -> None:
    """One picture with its faces and what the models say of them; two models stand side by side for each face."""
    st.markdown(f"**{_plain(picture.name)}**")
    if picture.shown is None:
        st.error(_plain(picture.problem))
        return
    left, right = st.columns([2, 3]) if len(said) == 1 else (st.container(width=480), st.container())
    small = max(picture.shown.shape) < 300
    left.image(boxed(picture.shown, picture.boxes, picture.scale), width="content" if small else "stretch")
    if not picture.faces:
        right.warning(picture.problem)
    for number, face in enumerate(picture.faces):
        for column, (choice, (model, answers)) in zip(right.columns(len(said)), said.items(), strict=True):
            answer = answers[number]
            seen = heat_map(choice, model, picture.key, number, face, answer.label) if heat else None
            count = len(answer.probabilities) if everything else TOP
            by = choice.label if len(said) > 1 else ""
            column.html(face_card(number + 1, face, answer, count, seen, by))


def heat_map(
    choice: Choice, model: Model, key: tuple[str, bool], number: int, face: Picture, label: str
) -> tuple[HeatMap, str]:
    """Heat maps of a model (`Model.heat_map`); each is computed once a session."""
    before: dict[tuple[object, ...], tuple[HeatMap, str]] = st.session_state.setdefault("heat_maps", {})
    which = (choice, key, number)
    if which not in before:
        before[which] = model.heat_map(face, label)
    return before[which]


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _plain(text: str) -> str:
    """Text of a user's file name, which Markdown must not read."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]()<>#+-.!|~$:&" else char for char in text)
