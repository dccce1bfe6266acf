"""Tables of right and wrong predictions by class, from `Result.confusion`."""

from collections.abc import Mapping
from typing import Any

from snnconv.spiking.confusion import WHOLE

Content = Mapping[str, Any] | None  # of `Result.confusion`


def confusion_tables(confusion: Content) -> dict[str, list[dict[str, Any]]]:
    """Rows for a tracker: images by network, class and predicted class; of more than 20 classes the most frequent mistakes."""
    if confusion is None:
        return {}
    names, whole = confusion["classes"], matrices(confusion)
    rows = []
    for network in ("ANN", "SNN"):
        cells = confusion[network.lower()]["wrong"]
        if whole:
            cells = [(a, b, images) for a, row in enumerate(whole[network]) for b, images in enumerate(row)]
        for label, predicted, images in cells:
            rows.append({"network": network, "class": names[label], "predicted": names[predicted], "images": images})
    return {"confusion": rows} if rows else {}


def class_rows(confusion: Content) -> list[dict[str, Any]]:
    """Accuracy of each class that has images: of the classes that lost most from ANN to SNN the first 20, if there are more."""
    if confusion is None:
        return []
    ann, snn = confusion["ann"], confusion["snn"]
    columns = zip(confusion["classes"], ann["images"], ann["right"], snn["right"], strict=True)
    rows = [{"name": name, "images": n, "ann": a / n, "snn": s / n} for name, n, a, s in columns if n]
    if len(confusion["classes"]) <= WHOLE:
        return rows
    return sorted(rows, key=lambda row: row["snn"] - row["ann"])[:WHOLE]


def matrices(confusion: Content) -> dict[str, list[list[int]]]:
    """Images by class (row) and predicted class (column), of "ANN" and "SNN"; {} for more than 20 classes."""
    if confusion is None or len(confusion["classes"]) > WHOLE:
        return {}
    tables = {}
    for network in ("ann", "snn"):
        count, content = len(confusion["classes"]), confusion[network]
        table = [[0] * count for _ in range(count)]
        for number, right in enumerate(content["right"]):
            table[number][number] = right
        for label, predicted, images in content["wrong"]:
            table[label][predicted] = images
        tables[network.upper()] = table
    return tables


def pair_rows(confusion: Content) -> list[dict[str, Any]]:
    """The most frequent wrong predictions of the SNN, for more than 20 classes, with those of the ANN where it lists them."""
    if confusion is None or len(confusion["classes"]) <= WHOLE:
        return []
    names = confusion["classes"]
    ann = {(label, predicted): images for label, predicted, images in confusion["ann"]["wrong"]}
    return [
        {"class": names[label], "predicted": names[predicted], "snn": images, "ann": ann.get((label, predicted))}
        for label, predicted, images in confusion["snn"]["wrong"]
    ]
