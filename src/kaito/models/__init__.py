"""What kaito can run, and on what: models, presets, the GPU sizes of the clouds, and how much memory it all takes."""

from kaito.models.catalogue import CLOUDS, Catalogue
from kaito.models.entries import ENGINES, Engine, Model, Preset, Sku, TuningPreset
from kaito.models.estimator import PUBLISHED, Fit
from kaito.models.gpus import sku_of_node
from kaito.models.serving import Serving, choose
from kaito.models.tuning import TuningSettings
from kaito.models.tuning import fit as tuning_fit

__all__ = [
    "CLOUDS",
    "ENGINES",
    "PUBLISHED",
    "Catalogue",
    "Engine",
    "Fit",
    "Model",
    "Preset",
    "Serving",
    "Sku",
    "TuningPreset",
    "TuningSettings",
    "choose",
    "sku_of_node",
    "tuning_fit",
]
