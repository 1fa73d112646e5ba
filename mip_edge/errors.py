"""What can go wrong by the user's hand or the world's, told in one line each.

MipEdgeError
├── OptionError        a value on the command line or in a call that cannot be
├── ImageError         an image or video that cannot be read
├── DatasetError       a folder of crops that is not what a dataset promises
├── CheckpointError    a weight file of another kind, or incomplete
├── TrainingError      a training that cannot go on
├── BundleError        a bundle that is altered, truncated or of another version
├── CalibrationError   activations or crops from which no INT8 scale can come
├── GalleryError       a gallery that does not fit the embeddings it meets
├── EngineError        a runtime that refuses, or is not installed
├── ParityError        an exported file that differs from its source
├── SourceError        a camera or video that does not open
└── OutputError        a place that cannot be written
"""


class MipEdgeError(Exception):
    """One clear line: what was met, what was expected, what to do."""


class OptionError(MipEdgeError):
    """A value on the command line or in a call that cannot be."""


class ImageError(MipEdgeError):
    """An image or video that cannot be read."""


class DatasetError(MipEdgeError):
    """A folder of crops that is not what a dataset promises."""


class CheckpointError(MipEdgeError):
    """A weight file of another kind, or incomplete."""


class TrainingError(MipEdgeError):
    """A training that cannot go on."""


class BundleError(MipEdgeError):
    """A bundle that is altered, truncated or of another version."""


class CalibrationError(MipEdgeError):
    """Activations or crops from which no INT8 scale can come."""


class GalleryError(MipEdgeError):
    """A gallery that does not fit the embeddings it meets."""


class EngineError(MipEdgeError):
    """A runtime that refuses, or is not installed."""


class ParityError(MipEdgeError):
    """An exported file that differs from its source by more than allowed."""


class SourceError(MipEdgeError):
    """A camera or video that does not open."""


class OutputError(MipEdgeError):
    """A place that cannot be written."""
