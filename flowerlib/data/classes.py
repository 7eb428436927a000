"""The 104 flower names in label order, or those that the dataset brings."""

import json

from flowerlib.config import FlowersError

# Source: the competition's own list (two of its names carry a trailing space, which is dropped here).
# fmt: off
CLASSES: tuple[str, ...] = (
    "pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "wild geranium",
    "tiger lily", "moon orchid", "bird of paradise", "monkshood", "globe thistle", "snapdragon",
    "colt's foot", "king protea", "spear thistle", "yellow iris", "globe-flower", "purple coneflower",
    "peruvian lily", "balloon flower", "giant white arum lily", "fire lily", "pincushion flower",
    "fritillary", "red ginger", "grape hyacinth", "corn poppy", "prince of wales feathers",
    "stemless gentian", "artichoke", "sweet william", "carnation", "garden phlox", "love in the mist",
    "cosmos", "alpine sea holly", "ruby-lipped cattleya", "cape flower", "great masterwort", "siam tulip",
    "lenten rose", "barberton daisy", "daffodil", "sword lily", "poinsettia", "bolero deep blue",
    "wallflower", "marigold", "buttercup", "daisy", "common dandelion", "petunia", "wild pansy", "primula",
    "sunflower", "lilac hibiscus", "bishop of llandaff", "gaura", "geranium", "orange dahlia",
    "pink-yellow dahlia", "cautleya spicata", "japanese anemone", "black-eyed susan", "silverbush",
    "californian poppy", "osteospermum", "spring crocus", "iris", "windflower", "tree poppy", "gazania",
    "azalea", "water lily", "rose", "thorn apple", "morning glory", "passion flower", "lotus", "toad lily",
    "anthurium", "frangipani", "clematis", "hibiscus", "columbine", "desert-rose", "tree mallow",
    "magnolia", "cyclamen", "watercress", "canna lily", "hippeastrum", "bee balm", "pink quill", "foxglove",
    "bougainvillea", "camellia", "mallow", "mexican petunia", "bromelia", "blanket flower",
    "trumpet creeper", "blackberry lily", "common tulip", "wild rose",
)
# fmt: on


def parse(text: bytes, source: str) -> tuple[str, ...]:
    """Read class names from the text of a `classes.json`: a list of at least two different names.

    Args:
        text: the file's bytes, UTF-8.
        source: where it came from, for the error.

    Raises:
        FlowersError: not a JSON list of names, or a name is empty or there twice.
    """
    try:
        names = json.loads(text)
    except ValueError as error:
        raise FlowersError(f"`{source}` is not JSON ({error}); make it a list of class names in label order") from None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise FlowersError(f"`{source}` must be a JSON list of non-empty class names in label order")
    names = tuple(name.strip() for name in names)
    if len(names) < 2:
        raise FlowersError(f"`{source}` has {len(names)} class; at least two are needed to tell apart")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise FlowersError(f"`{source}` names a class twice: {', '.join(repeated)}; a label must mean one class")
    return names
