"""The models that configurations name (`_target_: fl.models.Cnn`), each imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl.models.plain import Cnn as Cnn
    from fl.models.plain import CnnMcMahan as CnnMcMahan
    from fl.models.plain import LeNet as LeNet
    from fl.models.plain import Logistic as Logistic
    from fl.models.plain import Mlp as Mlp
    from fl.models.plain import ModerateCnn as ModerateCnn
    from fl.models.plain import ResNet18Gn as ResNet18Gn
    from fl.models.private import CnnTanh as CnnTanh
    from fl.models.private import CnnTanhCifar as CnnTanhCifar
    from fl.models.private import CnnTanhGn as CnnTanhGn
    from fl.models.private import ScatterCnn as ScatterCnn
    from fl.models.private import ScatterLinear as ScatterLinear

PUBLIC = {
    **dict.fromkeys(("Cnn", "CnnMcMahan", "LeNet", "Logistic", "Mlp", "ModerateCnn", "ResNet18Gn"), "fl.models.plain"),
    **dict.fromkeys(("CnnTanh", "CnnTanhCifar", "CnnTanhGn", "ScatterCnn", "ScatterLinear"), "fl.models.private"),
}


def __getattr__(name: str) -> object:
    """The public class of this name, imported now."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
