"""What kaito can run, and on what: the preset catalogue and the GPU sizes of the clouds."""

from kaito.models.catalogue import Catalogue, Preset, Sku, TuningPreset

__all__ = ["Catalogue", "Preset", "Sku", "TuningPreset"]
