"""A user's own images: what is found in them, how they are divided, and what is said of wrong folders."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from snnconv.data.batches import Batches
from snnconv.data.image_files import FolderBatches
from snnconv.runtime.found_data import complete


def photograph(
    path: Path, colour: tuple[int, int, int], size=(24, 20), seed: int = 0, mode: str = "RGB", **options
) -> None:
    """A picture of one colour with noise."""
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


COLOURS = {"apple": (200, 40, 40), "leaf": (40, 180, 60), "sky": (90, 120, 230)}


def write(folder: Path, each: int, **options) -> None:
    for number, (name, colour) in enumerate(COLOURS.items()):
        for n in range(each):
            photograph(folder / name / f"{n}.png", colour, seed=100 * number + n, **options)


@pytest.fixture
def load(compose_config, tmp_path):
    """load("image_size=8") → the configuration with what was found, and the Splits."""

    def make(*changes: str):
        cfg = compose_config("data=folder", "device=cpu", "model=mlp", "fit.batch_size=4")
        for change in (f"root={tmp_path}", *changes):
            key, _, value = change.partition("=")
            OmegaConf.update(cfg.data, key, yaml.safe_load(value))
        complete(cfg, tmp_path)
        try:
            return cfg.data, instantiate(cfg.data)
        except InstantiationException as error:
            raise error.__cause__ from error

    return make


def colours(batches) -> torch.Tensor:
    return torch.cat([images for images, _ in batches])


def test_everything_is_found_in_folders_of_training_and_test(load, tmp_path):
    write(tmp_path / "Training", 8)
    write(tmp_path / "VAL", 2)
    write(tmp_path / "test", 3)
    facts, data = load()
    assert (facts.num_classes, list(facts.class_names)) == (3, ["apple", "leaf", "sky"])
    assert (list(facts.input_shape), list(facts.image_size)) == ([3, 20, 24], [20, 24])
    assert [data.train.count, data.valid.count, data.test.count] == [24, 6, 9]
    pixels = torch.cat(
        [torch.from_numpy(np.array(Image.open(path))) for path in (tmp_path / "Training").rglob("*.png")]
    )
    pixels = pixels.double().flatten(0, 1) / 255
    torch.testing.assert_close(torch.tensor(facts.mean).double(), pixels.mean(0), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(facts.std).double(), pixels.std(0, correction=0), rtol=1e-5, atol=0)
    assert data.test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_a_validation_folder_alone_is_the_test_set(load, tmp_path):
    write(tmp_path / "train", 10)
    write(tmp_path / "val", 2)
    _, data = load("valid=0.2")
    assert [data.train.count, data.valid.count, data.test.count] == [24, 6, 6]


def test_folders_of_classes_alone_are_divided_with_every_class_in_proportion(load, tmp_path):
    write(tmp_path, 10)
    facts, data = load("test=0.2", "valid=6")
    assert facts.num_classes == 3
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    assert [data.train.count, data.valid.count] == [18, 6]
    _, again = load("test=0.2", "valid=6", "seed=7")
    torch.testing.assert_close(colours(again.test), colours(data.test), rtol=0, atol=0)


def test_images_of_several_sizes_are_scaled_to_the_shortest_side(load, tmp_path):
    write(tmp_path, 3, size=(24, 20))
    photograph(tmp_path / "apple" / "wide.png", (1, 2, 3), size=(60, 12))
    facts, data = load()
    assert (facts.image_size, list(facts.input_shape)) == (12, [3, 12, 12])
    assert next(iter(data.test))[0].shape[1:] == (3, 12, 12)
    facts, _ = load("image_size=8")
    assert list(facts.input_shape) == [3, 8, 8]


def test_grey_images_have_one_channel_unless_asked_otherwise(load, tmp_path):
    write(tmp_path, 5, mode="L")
    facts, _ = load()
    assert list(facts.input_shape) == [1, 20, 24]
    assert len(facts.mean) == 1
    facts, data = load("channels=3")
    assert next(iter(data.train))[0].shape[1:] == (3, 20, 24)


def test_a_picture_taken_upright_stays_upright(load, tmp_path):
    """Cameras store it lying, with a tag that says how to turn it."""
    write(tmp_path, 5, size=(20, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 24, 3), np.uint8)
    pixels[:, :4] = 250  # the left side of the file is the top of the picture
    Image.fromarray(pixels).save(tmp_path / "apple" / "turned.png", exif=exif)
    facts, data = load("mean=[0]", "std=[1]", "valid=0", "test=1")
    assert list(facts.input_shape) == [3, 24, 20]
    images = torch.cat([colours(data.test), colours(data.calibration)])
    (turned,) = [image for image in images if image.max() < 0.99 and image[:, 10:].max() == 0]
    assert turned[:, :4].min() > 0.9


def test_images_that_are_too_many_for_memory_are_decoded_on_the_way(load, tmp_path):
    write(tmp_path, 6)
    _, there = load("augment=[]")
    _, streamed = load("augment=[]", "memory=0")
    assert type(there.train) is Batches
    assert isinstance(streamed.train, FolderBatches)
    for role in ("train", "valid", "calibration", "test"):
        torch.testing.assert_close(colours(getattr(streamed, role)), colours(getattr(there, role)), rtol=0, atol=0)
    _, augmented = load("memory=0")
    _, same = load()
    torch.testing.assert_close(colours(augmented.train), colours(same.train), rtol=0, atol=0)


def test_what_was_found_is_stored_with_the_run(compose_config, tmp_path):
    write(tmp_path / "photos", 4)
    cfg = compose_config("data=folder", "device=cpu", "model=mlp", f"data.root={tmp_path}/photos")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    complete(cfg, tmp_path)
    stored = OmegaConf.load(tmp_path / ".hydra" / "config.yaml")
    assert stored.data.mean == cfg.data.mean
    assert stored.data.class_names == ["apple", "leaf", "sky"]
    write(tmp_path / "photos", 9, size=(50, 50))
    before = OmegaConf.to_container(stored.data)
    complete(stored, tmp_path)
    assert OmegaConf.to_container(stored.data) == before


# wrong input


def test_a_folder_that_is_not_there(load, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere: no such folder; data\.root holds a folder of images for each class"
    ):
        load(f"root={tmp_path}/nowhere")


def test_a_test_folder_without_training(load, tmp_path):
    write(tmp_path / "test", 2)
    with pytest.raises(FileNotFoundError, match="has test, but no folder train or training"):
        load()


def test_images_that_lie_in_no_folder_of_a_class(load, tmp_path):
    photograph(tmp_path / "one.png", (1, 2, 3))
    with pytest.raises(FileNotFoundError, match="no such folder, or it has no subfolders"):
        load()


def test_a_class_that_is_only_tested(load, tmp_path):
    write(tmp_path / "train", 4)
    photograph(tmp_path / "test" / "moon" / "0.png", (250, 250, 200))
    with pytest.raises(ValueError, match=r"the test images have classes that the training set lacks: moon"):
        load()


def test_a_damaged_file_is_named(load, tmp_path):
    write(tmp_path, 4)
    (tmp_path / "apple" / "1.png").write_bytes(b"no picture")
    with pytest.raises(OSError, match=r"apple.1\.png: damaged, or not an image"):
        load()


def test_deep_pixels_are_refused_with_the_remedy(load, tmp_path):
    write(tmp_path, 4)
    data = io.BytesIO()
    Image.fromarray(np.full((20, 24), 40000, np.uint16)).save(data, format="png")
    (tmp_path / "apple" / "1.png").write_bytes(data.getvalue())
    with pytest.raises(ValueError, match=r"1\.png: pixels of more than 8 bits .*data=arrays"):
        load()
