"""Real images for verification and measurement: folders, .npz files and the digits, as batches of numpy arrays."""

from resnet_deploy.data.dataset import Batch, Dataset, Skipped
from resnet_deploy.data.sources import DIGITS_HELD_OUT, open_data
from resnet_deploy.images import EXTENSIONS

__all__ = ["DIGITS_HELD_OUT", "EXTENSIONS", "Batch", "Dataset", "Skipped", "open_data"]
