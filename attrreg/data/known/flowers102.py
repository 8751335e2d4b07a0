"""Oxford Flowers 102: flowers of the United Kingdom, 40 to 258 images of each kind."""

from typing import TYPE_CHECKING

from attrreg.entries import Archive, Dataset, ImageOptions

if TYPE_CHECKING:
    import numpy as np

    from attrreg.data.samples import Given, Request

__all__ = ["DATASETS", "read"]


def _archive(name: str, md5: str, size: int, unpacked: int) -> Archive:
    url = f"https://www.robots.ox.ac.uk/~vgg/data/flowers/102/{name}"
    return Archive(name, (url,), f"md5:{md5}", size, unpacked)


IMAGES = _archive("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", 344_862_509, 1_400_000_000)
LABELS = _archive("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", 502, 1_000_000)
SPLITS = _archive("setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", 14_989, 1_000_000)
LISTS = ("trnid", "valid", "tstid")  # of the train, validation and test split

DATASETS = {
    "flowers102": Dataset(
        title="Oxford Flowers 102",
        modality="image",
        classes=102,
        pool=1_020,
        validation=1_020,
        test=6_149,
        shape=(3, 224, 224),
        source="Nilsback and Zisserman, ICVGIP 2008",
        licence="none stated by the publisher; the images belong to their owners",
        implementation="attrreg.data.known.flowers102:read",
        archives=(IMAGES, LABELS, SPLITS),
        options=ImageOptions,
    )
}

FLOWERS = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily,
moon orchid, bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear
thistle, yellow iris, globe-flower, purple coneflower, peruvian lily, balloon flower, giant white
arum lily, fire lily, pincushion flower, fritillary, red ginger, grape hyacinth, corn poppy, prince
of wales feathers, stemless gentian, artichoke, sweet william, carnation, garden phlox, love in the
mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort, siam
tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower,
marigold, buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower,
pelargonium, bishop of llandaff, gaura, geranium, orange dahlia, pink-yellow dahlia?, cautleya
spicata, japanese anemone, black-eyed susan, silverbush, californian poppy, osteospermum, spring
crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple,
morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee
balm, ball moss, foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket
flower, trumpet creeper, blackberry lily
"""
CLASSES = tuple(" ".join(name.split()) for name in FLOWERS.split(","))


def read(request: "Request") -> "Given":
    """Return the flowers in their published splits, ten of each kind for training."""
    from attrreg.data.folder_trees import encoded_files, list_files, unpacked
    from attrreg.data.formats import blaming
    from attrreg.data.samples import Given

    labels, splits = _read_lists(request)
    place = unpacked(request, IMAGES, lambda name: name.endswith(".jpg"))
    held = list_files(place)
    parts = []
    for name in LISTS:
        files = [f"jpg/image_{number:05d}.jpg" for number in splits[name].tolist()]
        missing = [file for file in files if file not in held]
        with blaming(request.archives[IMAGES.name], request.archives[SPLITS.name]):
            if missing:
                raise ValueError(f"{SPLITS.name} lists {missing[0]}, {IMAGES.name} has none")
        parts.append(encoded_files(place, files, labels[splits[name] - 1]))
    train, validation, test = parts
    return Given(train, CLASSES, validation, test)


def _read_lists(request: "Request") -> "tuple[np.ndarray, dict[str, np.ndarray]]":
    """Return the class of every image from 0, and the numbers from 1 of each split's images."""
    from attrreg.data.formats import blaming, check_labels, read_matlab, refuse_repeats

    labels_path, splits_path = request.archives[LABELS.name], request.archives[SPLITS.name]
    with blaming(labels_path):
        held = read_matlab(labels_path, ("labels",), LABELS.unpacked)["labels"]
        labels = check_labels(held, range(1, len(CLASSES) + 1), LABELS.name) - 1
    with blaming(splits_path, labels_path):
        lists = read_matlab(splits_path, LISTS, SPLITS.unpacked)
        splits = {
            name: check_labels(lists[name], range(1, len(labels) + 1), f"{name!r} of {SPLITS.name}")
            for name in LISTS
        }
        numbers = [number for each in splits.values() for number in each.tolist()]
        refuse_repeats(numbers, SPLITS.name)
    return labels, splits
