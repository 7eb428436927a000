"""Write an evaluation: one page that needs nothing else, the same as JSON, and tables as CSV."""

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flowerlib import __version__, evaluation, figures
from flowerlib.config import atomic_write
from flowerlib.photos.scoring import Evaluation, Mistake

TEMPLATE = Path(__file__).with_name("evaluation.html")
NUM_PAIRS = 15  # of classes that were confused
PAGE, JSON, CLASSES, PREDICTIONS = "evaluation.html", "evaluation.json", "classes.csv", "predictions.csv"


def write(found: Evaluation, out: Path) -> None:
    """Write `evaluation.html`, `evaluation.json`, `classes.csv` and `predictions.csv` into a folder."""
    content = json.dumps(as_json(found), indent=1, ensure_ascii=False, allow_nan=False)
    texts = {
        JSON: content + "\n",
        CLASSES: found.class_report.to_csv(index=False, lineterminator="\n", float_format="%.6f"),
        PREDICTIONS: predictions_table(found).to_csv(index=False, lineterminator="\n", float_format="%.6f"),
        PAGE: page(found),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def as_json(found: Evaluation) -> dict[str, Any]:
    """Return all of it but the pictures, as what JSON knows; what is not defined is None."""
    table, involved = found.confusion()
    scored: dict[str, Any] = dict(found.scores)
    for name, (low, high) in found.intervals.items():
        scored[f"{name}_interval"] = [low, high]
    return {
        "flowerlib": __version__,
        "source": found.source,
        "split": found.split,
        "model": {name: found.record[name] for name in ("name", "backbone", "smoke_test")},
        "num_photographs": len(found.predicted.labels),
        **scored,
        "classes": [
            {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
            for row in found.class_report.to_dict("records")
        ],
        "absent_classes": found.absent,
        "confusion_matrix": {"classes": involved, "counts": table.tolist()},
        "mistakes": [
            {"file": each.id, "true": each.true, "predicted": each.predicted, "probability": each.probability}
            for each in found.mistakes
        ],
        "left_out": [{"file": name, "reason": reason} for name, reason in found.left_out],
        "notes": found.notes,
    }


def predictions_table(found: Evaluation) -> pd.DataFrame:
    """Return a row a photograph: `file`, `true`, `predicted` (names) and `probability` of the predicted class."""
    classes, predicted = np.array(found.classes), found.predicted
    return pd.DataFrame(
        {
            "file": predicted.ids,
            "true": classes[predicted.labels],
            "predicted": classes[predicted.predicted],
            "probability": predicted.probabilities.max(axis=1),
        }
    )


def page(found: Evaluation) -> str:
    """Return the page; what users wrote, such as names of classes, is text in it and never markup."""
    matrix, involved = found.confusion()
    pairs = evaluation.confused_pairs(found.predicted, found.classes, NUM_PAIRS)
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        title=html.escape(f"{found.record['name']} on {found.source}"),
        scores=_scores(found),
        notes="".join(f"<li>{html.escape(note)}</li>" for note in found.notes),
        mistakes="\n".join(map(_card, found.mistakes)) or "<p>No mistake.</p>",
        pairs=_table(pairs, ("true", "predicted", "photographs")) if len(pairs) else "<p>None.</p>",
        confusion=_picture(figures.confusion_matrix(matrix, involved), "Confusion matrix, rows are true classes"),
        classes=_table(found.class_report, ("class", "precision", "recall", "F1", "photographs")),
        left_out=_left_out(found.left_out),
    )


def _scores(found: Evaluation) -> str:
    boxes = []
    for name, words in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        low, high = found.intervals[name]
        boxes.append(f"<div><dt>{words}</dt><dd>{found.scores[name]:.4f}</dd><dd>{low:.4f} to {high:.4f}</dd></div>")
    num_there = len(found.classes) - len(found.absent)
    boxes.append(
        f"<div><dt>photographs</dt><dd>{len(found.predicted.labels):,}</dd><dd>{html.escape(found.split)}</dd></div>"
    )
    boxes.append(f"<div><dt>classes</dt><dd>{num_there:,}</dd><dd>of the model's {len(found.classes):,}</dd></div>")
    return "".join(boxes)


def _card(mistake: Mistake) -> str:
    source = base64.b64encode(mistake.jpeg).decode("ascii")
    return (
        f'<figure><img src="data:image/jpeg;base64,{source}" alt=""><figcaption>'
        f"<b>{_text(mistake.predicted)}</b> {mistake.probability:.1%}<br>true: {_text(mistake.true)}<br>"
        f"<small><bdi>{html.escape(mistake.id)}</bdi></small></figcaption></figure>"
    )


def _text(text: str) -> str:
    """Text as HTML, in its own direction of writing; with what the figures show in its place, where that is another."""
    shown = figures.legible(text)
    code_points = f" <small>{html.escape(shown)}</small>" if "U+" in shown and shown != text else ""
    return f"<bdi>{html.escape(text)}</bdi>{code_points}"


def _picture(figure: Figure, words: str) -> str:
    figure.savefig(file := io.BytesIO(), format="png", dpi=110)
    source = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img class="wide" src="data:image/png;base64,{source}" alt="{html.escape(words)}">'


def _table(rows: pd.DataFrame, header: Sequence[str]) -> str:
    kinds = ["" if isinstance(value, str) else ' class="number"' for value in rows.iloc[0]]
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows.itertuples(index=False))
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return f"<td>{_text(value)}</td>"
    number = f"{value:,}" if isinstance(value, int) else "\N{EN DASH}" if pd.isna(value) else f"{value:.3f}"
    return f'<td class="number">{number}</td>'


def _left_out(left_out: Sequence[tuple[str, str]]) -> str:
    if not left_out:
        return ""
    items = "".join(f"<li>{_text(name)}: {html.escape(reason)}</li>" for name, reason in left_out)
    return f"<h2>Left out</h2><ul>{items}</ul>"
