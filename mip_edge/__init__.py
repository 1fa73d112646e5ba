"""mip-edge: visible-infrared person re-identification, from training to the edge device."""

__version__ = "0.1.0"
